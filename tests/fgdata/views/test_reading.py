"""Reads in flight: the same batches for any number of readers, reads that overlap, errors in the order of the batch."""

import gc
import threading
from pathlib import Path
from typing import Any

import memory_set
import numpy as np
import pytest
import torch
from memory_set import MemorySet, same
from new_threads import NewThreads

from fgdata import cores
from fgdata.errors import InputError
from fgdata.files.handles import HANDLES
from fgdata.shards.reader import ShardSet
from fgdata.shards.sample import Sample
from fgdata.views import Loader, ViewSpec, load
from fgdata.views.pool import Pool
from fgdata.views.reading import Readers, Request, default_ahead

SWAP = ViewSpec(size=16, crop="saliency-swap", masks=True)
PAST = 20
"""Seconds after which a test that waits for another thread fails."""


@pytest.fixture(params=["threads", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    return request.param


def open_loader(shards: Any, **options) -> Loader:
    return memory_set.open_loader(shards, SWAP, **options)


def batches(folder: Path, backend: Any, behind: Path | None = None, **options: Any) -> list[dict[str, torch.Tensor]]:
    lent = {"backgrounds": behind, "views": ViewSpec(size=16, crop="saliency-swap", masks=True, lent=True)}
    settings = {"views": SWAP, "batch_size": 5, "last_batch": "keep", "threads": 2} | (lent if behind else {})
    with load(ShardSet.open(folder), backend=backend, **settings | options) as loader:
        return [batch for _ in range(2) for batch in loader]


def test_batches_do_not_depend_on_readers_or_ahead(drawn_set: Path, backend: str):
    few = batches(drawn_set, backend, readers=1, ahead=1)
    choices: list[dict[str, Any]] = [{}, {"readers": 7, "ahead": 2}, {"readers": 3, "ahead": 50}]
    for options in choices:
        assert all(same(a, b) for a, b in zip(few, batches(drawn_set, backend, **options), strict=True))


def test_backgrounds_and_lent_images_are_read_ahead_too(drawn_set: Path, backend: str):
    behind = Path(__file__).parents[3] / "shards" / "tiny"
    one = batches(drawn_set, backend, behind, readers=1, ahead=1)
    many = batches(drawn_set, backend, behind)
    assert "lent" in one[0]
    assert all(same(a, b) for a, b in zip(one, many, strict=True))


class Meeting(MemorySet):
    """No read returns before `parties` of them are in progress at the same time."""

    def __init__(self, count: int, parties: int):
        super().__init__(count)
        self.barrier = threading.Barrier(parties)

    def read(self, number: int) -> Sample:
        self.barrier.wait(PAST)
        return super().read(number)


def test_reads_of_several_batches_are_in_progress_at_the_same_time(backend: str):
    """One batch has 4 samples: 8 reads at the same time are of two batches."""
    with open_loader(Meeting(16, 8), backend=backend, readers=8, ahead=2, threads=1, shuffle=False) as loader:
        assert [batch["index"].tolist() for batch in loader] == [list(range(i, i + 4)) for i in range(0, 16, 4)]


class Broken(MemorySet):
    """The reads of some samples fail, the first of them last."""

    def __init__(self, count: int, broken: tuple[int, ...]):
        super().__init__(count)
        self.broken, self.failed = broken, threading.Event()

    def read(self, number: int) -> Sample:
        if number == self.broken[0]:
            self.failed.wait(PAST)
        if number in self.broken:
            self.failed.set()
            raise InputError(f"sample {number} is damaged")
        return super().read(number)


def test_of_several_damaged_samples_the_first_in_order_is_reported(backend: str):
    for _ in range(5):
        shards = Broken(16, (1, 3))
        with open_loader(shards, backend=backend, shuffle=False) as loader:
            with pytest.raises(InputError, match="sample 1 is damaged"):
                next(iter(loader))
            shards.broken = (99,)
            assert len(list(loader)) == 4  # an error ends the iteration, not the loader


def test_at_most_three_batches_are_computed_ahead(monkeypatch: pytest.MonkeyPatch):
    submitted, read = [], []

    class Listed(MemorySet):
        def read(self, number: int) -> Sample:
            read.append(number)
            return super().read(number)

    with open_loader(Listed(40), ahead=6, shuffle=False) as loader:
        original = loader._maker._backend.submit
        monkeypatch.setattr(
            loader._maker._backend, "submit", lambda rank, *rest: (submitted.append(rank), original(rank, *rest))
        )
        next(iter(loader))
        for _, request in loader._pending:
            while request._results is None:
                pass
        assert len(loader._pending) == 6
        assert len(read) == 28
        assert sorted(submitted) == [1, 2, 3, 4]  # the one that was yielded, and three


def test_no_thread_and_no_file_is_left(drawn_set: Path, backend: Any):
    threads = NewThreads()
    shards = ShardSet.open(drawn_set)
    owner = shards.store.owner
    for closes in (True, False):
        loader = load(shards, views=SWAP, batch_size=8, backend=backend)
        next(iter(loader))
        assert HANDLES.open_files(owner)
        if closes:
            loader.close()
        del loader
        gc.collect()
        for _ in range(200):
            if threads() == 0:
                break
            threading.Event().wait(0.01)
        assert threads() == 0
    del shards
    gc.collect()
    assert not HANDLES.open_files(owner)


def test_a_cancelled_request_is_not_computed():
    started = []

    class Backend:
        def submit(self, *arguments: Any) -> None:
            started.append(arguments)

    readers, gate = Readers(2), threading.Event()
    cancelled, empty = (Request(rank, Backend(), lambda index, fetched: None) for rank in (0, 1))
    readers.start(cancelled, lambda: (np.arange(1), [lambda: gate.wait(PAST)]))
    readers.start(empty, lambda: (np.arange(0), []))
    cancelled.admit()
    empty.admit()
    cancelled.future.cancel()
    gate.set()
    for _ in range(100 * PAST):
        if started:
            break
        threading.Event().wait(0.01)
    readers.close()
    assert [rank for rank, _, _ in started] == [1]


def test_a_pool_starts_threads_only_as_they_are_needed():
    threads, gate = NewThreads(), threading.Event()
    pool = Pool(50)
    done = threading.Semaphore(0)
    for _ in range(5):
        pool.put(0, done.release)
        done.acquire()
    assert threads() <= 2  # the second if a task came before the first thread was idle again
    for _ in range(9):
        pool.put(0, gate.wait, PAST)
    assert 9 <= threads() <= 11
    gate.set()
    pool.close()
    assert threads() == 0


@pytest.mark.parametrize(("readers", "batch", "expected"), [(64, 64, 5), (64, 256, 4), (64, 8, 19), (1, 1, 5)])
def test_enough_batches_are_read_ahead_to_keep_the_readers_busy(readers: int, batch: int, expected: int):
    assert default_ahead(readers, batch) == expected


def test_cores_are_counted_when_a_loader_starts_and_not_for_every_batch(drawn_set: Path, monkeypatch):
    """Counting reads files of the system."""
    counted, count = [], cores.available_cores
    monkeypatch.setattr(cores, "available_cores", lambda: (counted.append(1), count())[1])
    with load(drawn_set, views=ViewSpec(size=32), batch_size=4, backend="threads", device="cpu") as loader:
        batches = iter(loader)
        next(batches)
        before = len(counted)
        assert before > 0
        assert len(list(batches)) == 7
    assert len(counted) == before
