"""The limits of the batch size agree with one another, for every split, number of processes and of parts."""

import re
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from fgdata.errors import InputError
from fgtrain.engine.needs import check_batch


def check(batch: int, count: int, world: int, parts: int) -> str:
    """-> the message that refuses the batch; "" if it is allowed."""
    data = SimpleNamespace(batch_size=batch, split="train")
    config: Any = SimpleNamespace(data=data, optim=SimpleNamespace(accumulate=parts), method="byol")
    shards: Any = SimpleNamespace(split=lambda _: range(count), path="shards/x")
    try:
        check_batch(config, shards, accumulates=True, world=world)
    except InputError as refusal:
        return str(refusal)
    return ""


@pytest.mark.parametrize(("world", "parts"), [*product((1, 2, 3), (1, 2))])
def test_what_a_message_allows_is_allowed_and_all_that_is(world: int, parts: int):
    for count in range(20):
        usable = [b for b in range(2, 25) if b <= count and b % (world * parts) == 0 and b >= 2 * world * parts]
        for batch in range(2, 25):
            message = check(batch, count, world, parts)
            assert (message == "") == (batch in usable), (message, batch, count)
            if not message:
                continue
            if needed := re.search(r"training needs at least (\d+)", message):
                assert not usable
                assert check(int(needed[1]), int(needed[1]), world, parts) == ""
            else:
                limits = re.search(r"allowed: (\d+) to (\d+)", message)
                assert limits, message
                assert (int(limits[1]), int(limits[2])) == (usable[0], usable[-1])


def test_a_single_image_cannot_be_trained_on():
    message = check(2, 1, 1, 1)
    assert message.startswith("Split 'train' of shards/x has 1 image; training needs at least 2. Name a larger set")
    assert "a multiple of 2: it is divided over 2 processes and 1 part" in check(7, 20, 2, 1)
