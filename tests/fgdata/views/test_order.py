"""The order of an epoch: blocks of tars against a naive loop, exact resumption, computed ahead of time."""

import itertools
import threading
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from memory_set import record

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.stores.store import Folder
from fgdata.views import Loader, ViewSpec, load
from fgdata.views.draws import block_permutation, permutation
from fgdata.views.order import Orders

SMALL = ViewSpec(size=16)
PAST = 20
"""Seconds after which a test that waits for another thread fails."""


def opened(folder: Path, **options) -> Loader:
    settings = {"views": SMALL, "batch_size": 4, "backend": "threads", "threads": 2, "seed": 3} | options
    return load(ShardSet.open(folder), **settings)


def tar_of(tars: list[int]) -> list[int]:
    return [tar for tar, count in enumerate(tars) for _ in range(count)]


@pytest.mark.parametrize("block", [1, 2, 3, 7])
@pytest.mark.parametrize("tars", [[5, 3, 8, 1, 4, 4, 2], [6], [0, 3, 0, 2]])
def test_each_block_has_the_samples_of_its_tars(tars: list[int], block: int):
    order = block_permutation(5, 2, tars, block)
    assert sorted(order) == list(range(sum(tars)))
    owner = [tar_of(tars)[i] for i in order]
    blocks: list[set[int]] = []
    for tar in owner:  # naive: a tar that is new joins the last block, or begins one if that is full
        if not any(tar in members for members in blocks):
            full = not blocks or (len(blocks[-1]) == block)
            blocks += [set()] if full else []
            blocks[-1].add(tar)
    if all(tars):  # an empty tar takes a place in a block too, which the order does not show
        of_each = [next(n for n, members in enumerate(blocks) if tar in members) for tar in owner]
        assert of_each == sorted(of_each)  # no tar is visited again after its block
        assert len(blocks) == -(-len(tars) // block)


def test_one_block_of_all_tars_is_the_usual_order():
    tars = [5, 3, 8, 1, 4]
    assert np.array_equal(block_permutation(7, 3, tars, 5), permutation(7, 3, 21))
    assert np.array_equal(block_permutation(7, 3, tars, 99), permutation(7, 3, 21))
    assert not np.array_equal(block_permutation(7, 3, tars, 2), block_permutation(7, 4, tars, 2))
    assert not np.array_equal(block_permutation(7, 3, tars, 2), block_permutation(8, 3, tars, 2))


def test_every_tar_comes_first_equally_often():
    first = Counter(tar_of([4] * 5)[block_permutation(1, epoch, [4] * 5, 1)[0]] for epoch in range(1000))
    assert max(abs(first[tar] - 200) for tar in range(5)) < 5 * 12.7  # five standard deviations of Binomial(1000, 1/5)


@pytest.mark.parametrize("world", [1, 2])
def test_resumption_at_every_step_within_blocks(drawn_set: Path, world: int):
    for rank in range(world):
        options = {"rank": rank, "world_size": world, "shuffle_block": 1, "last_batch": "keep"}
        with opened(drawn_set, **options) as loader:
            states, batches = record(loader)
        for done, state in enumerate(states):
            with opened(drawn_set, **options) as loader:
                loader.load_state_dict(state)
                rest = [batch["index"] for _ in range(2) for batch in loader][: len(batches) - done]
            assert all(torch.equal(a, b["index"]) for a, b in zip(rest, batches[done:], strict=True))
    usual = opened(drawn_set, **options | {"shuffle_block": None})
    with usual, pytest.raises(InputError, match="shuffle_block was 1 and is None now"):
        usual.load_state_dict(states[0])


def test_the_samples_of_a_tar_stay_together(drawn_set: Path):
    shards = ShardSet.open(drawn_set)
    tars = tar_of([shard["samples"] for shard in shards.split("train").shards])
    with opened(drawn_set, shuffle_block=1) as loader, opened(drawn_set) as usual:
        visited = [[tars[i] for batch in one for i in batch["index"].tolist()] for one in (loader, usual)]
    changes = [sum(a != b for a, b in itertools.pairwise(order)) for order in visited]
    assert changes[0] == len(set(tars)) - 1 < changes[1]
    for wrong, message in (({"shuffle_block": 0}, "shuffle_block is 0"), ({"shuffle": False}, "shuffle is False")):
        with pytest.raises(InputError, match=message):
            opened(drawn_set, **{"shuffle_block": 2} | wrong)


def test_a_state_of_an_older_version_has_no_blocks(drawn_set: Path):
    with opened(drawn_set) as loader:
        state = loader.state_dict()
        del state["loader"]["shuffle_block"]
        loader.load_state_dict(state)


def test_an_order_is_computed_once_and_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    computed, gate = [], threading.Event()

    class Slow(Orders):
        def _compute(self, epoch: int) -> np.ndarray:
            computed.append(epoch)
            gate.wait(PAST)
            return super()._compute(epoch)

    orders, found = Slow(1, 50, True), []
    threads = [threading.Thread(target=lambda: found.append(orders.of(4))) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert computed == [4]
    assert all(np.array_equal(order, permutation(1, 4, 50)) for order in found)
    for epoch in (5, 6, 9):
        orders.prepare(epoch)
    assert list(orders._known) == [9]
    assert np.array_equal(orders.of(4), permutation(1, 4, 50))
    assert np.array_equal(Orders(1, 5, False).of(3), np.arange(5))


def test_the_order_of_the_next_epoch_is_ready_before_it_starts(drawn_set: Path):
    with opened(drawn_set, ahead=1) as loader:
        iterator = iter(loader)
        next(iterator)
        for _ in range(100 * PAST):
            if 1 in loader._maker._orders._known:
                break
            threading.Event().wait(0.01)
        assert loader.state_dict()["batch"] == 1  # of eight: no batch of the next epoch is in preparation
        assert np.array_equal(loader._maker._orders.of(1), permutation(3, 1, 32))


def test_too_little_memory_for_an_order_reaches_the_caller(drawn_set: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(self: Orders, epoch: int) -> np.ndarray:
        raise MemoryError

    with opened(drawn_set) as loader:
        monkeypatch.setattr(Orders, "_compute", fail)
        with pytest.raises(MemoryError):
            next(iter(loader))
        monkeypatch.undo()
        assert len(list(loader)) == 8


def test_an_index_is_read_once(drawn_set: Path, monkeypatch: pytest.MonkeyPatch):
    read, original = Counter(), Folder.open

    def count(folder: Folder, name: str) -> BinaryIO:
        read[name] += name.endswith(".idx")
        return original(folder, name)

    monkeypatch.setattr(Folder, "open", count)
    shards = ShardSet.open(drawn_set)
    for split in shards.splits:
        assert len({shards.split(split).key(i) for i in range(len(shards.split(split)))}) == shards.splits[split]
    assert {times for name, times in read.items() if name.endswith(".idx")} == {1}
    assert shards.split("train")._indexes is shards._indexes
