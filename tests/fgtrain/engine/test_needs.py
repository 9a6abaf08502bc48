"""What is checked before a run loads weights; limits of the batch size agree, for any split, processes and parts."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fgdata.errors import InputError
from fgtrain.engine import lifecycle
from fgtrain.engine.needs import check_batch
from fgtrain.networks import published
from fgtrain.settings.common import Machine
from fgtrain.settings.recipes import RECIPES

PASTING = ("saliency-swap", "paste", "matte-paste")


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


PLAIN = {
    (config.method, config.model.backbone, config.init): name
    for name, recipe in RECIPES.items()
    if "backgrounds" not in (config := recipe()).needs and config.views.crop not in PASTING
}
"""Recipes whose views show no backgrounds, one for each method, network and start."""


@pytest.mark.parametrize("name", PLAIN.values())
@pytest.mark.parametrize("fault", ["--data.backgrounds", "--data.batch-size", "--data.detector"])
def test_a_recipe_refuses_what_does_not_fit_before_it_loads_weights(
    name: str, fault: str, drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(published, "find", lambda *_: pytest.fail("the weights were looked for"))
    config = RECIPES[name]()
    data = replace(config.data, shards=drawn_set, batch_size=8, detector="gt")
    wrong = {
        "--data.backgrounds": replace(data, backgrounds=(tmp_path,)),
        "--data.batch-size": replace(data, batch_size=64),
        "--data.detector": replace(data, detector="rbd"),
    }[fault]
    config = replace(config, data=wrong, machine=Machine(out=tmp_path / "run", device="cpu"))
    message = "has no boxes by 'rbd'" if fault == "--data.detector" else fault
    with pytest.raises(InputError, match=message):
        lifecycle.train(config, name)
    assert not (tmp_path / "run").exists()
