"""cache="ram": the same batches bit for bit, each image read and decoded once, refused where it does not fit."""

import json
import threading
from collections import Counter
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
from fgdata.shards.reader import ShardSet
from fgdata.shards.sample import Sample
from fgdata.views import Loader, ViewSpec, cache, load, threads
from fgdata.views.cache import Cache, Kept, estimate_bytes

SPECS = {
    "rrc": ViewSpec(size=24),
    "swap": ViewSpec(size=24, crop="saliency-swap", masks=True, plain=True),
    "evaluation": ViewSpec.evaluation(24),
}


def open_loader(shards: Any, views: ViewSpec = SPECS["swap"], **options) -> Loader:
    return memory_set.open_loader(shards, views, **options)


@pytest.mark.parametrize("name", SPECS)
def test_the_same_batches_with_and_without_a_cache(name: str, drawn_set: Path):
    found = []
    for kept in (None, "ram"):
        options = {"views": SPECS[name], "batch_size": 5, "last_batch": "keep", "threads": 2, "box": True}
        with load(ShardSet.open(drawn_set), backend="threads", cache=kept, **options) as loader:
            found.append([batch for _ in range(4) for batch in loader])
    assert all(same(a, b) for a, b in zip(*found, strict=True))


def test_every_image_is_read_and_decoded_once(monkeypatch: pytest.MonkeyPatch):
    decoded, read, original = Counter(), Counter(), threads.decode

    def decode(data: bytes, name: str) -> np.ndarray:
        decoded[name] += 1
        return original(data, name)

    class Listed(MemorySet):
        def read(self, number: int) -> Sample:
            read[number] += 1
            return super().read(number)

    monkeypatch.setattr(threads, "decode", decode)
    with open_loader(Listed(13), last_batch="keep", cache="ram", ahead=1, readers=1) as loader:
        read.clear()  # of the estimate
        for _ in range(3):
            assert sum(len(batch["index"]) for batch in loader) == 13
    assert set(decoded.values()) <= {1, 2}  # 2: the sample that a batch of one borrows, while its own batch has it too
    assert sum(decoded.values()) <= 14
    assert sum(read.values()) <= 14


def test_resumption_at_every_step_with_a_cache():
    shards = MemorySet(13)
    with open_loader(shards, last_batch="keep") as loader:
        states, batches = memory_set.record(loader)
    for done, state in enumerate(states):
        with open_loader(shards, last_batch="keep", cache="ram") as loader:
            loader.load_state_dict(state)
            rest = [batch for _ in range(2) for batch in loader][: len(batches) - done]
        assert all(same(a, b) for a, b in zip(rest, batches[done:], strict=True))


def test_what_does_not_fit_into_the_block_is_decoded_again(monkeypatch: pytest.MonkeyPatch):
    """As when the sizes of the measured samples are smaller than those of the others."""
    shards = MemorySet(12)
    exact = sum(3 * s["width"] * s["height"] for s in (json.loads(sample["json"]) for sample in shards.samples))
    assert estimate_bytes(shards) == exact  # type: ignore[arg-type]
    monkeypatch.setattr(cache, "estimate_bytes", lambda reader: exact // 2)
    with open_loader(shards) as plain, open_loader(shards, cache="ram") as loader:
        assert all(same(a, b) for _ in range(3) for a, b in zip(plain, loader, strict=True))
        source = loader._maker._source
        assert isinstance(source, Cache)
        assert 3 <= len(source._kept) < 12
        assert source._used <= exact // 2


def test_the_estimate_is_an_upper_limit(monkeypatch: pytest.MonkeyPatch):
    class Sizes:
        """Widths and heights without images."""

        def __init__(self, count: int):
            self.sides = np.random.default_rng(0).integers(100, 800, (count, 2))

        def __len__(self) -> int:
            return len(self.sides)

        def read(self, number: int) -> Sample:
            if number == 0:
                raise InputError("damaged")
            sample = Sample()
            sample.info = dict(zip(("width", "height"), map(int, self.sides[number])))
            return sample

    sizes = Sizes(5000)
    total = 3 * int(sizes.sides.prod(1).sum())
    assert total < estimate_bytes(sizes) < 1.3 * total  # type: ignore[arg-type]


def test_too_little_memory_is_refused_in_words(drawn_set: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "self")
    (tmp_path / "memory.max").write_text("1000\n")  # the limit of a container
    threads = NewThreads()
    with pytest.raises(
        InputError, match=r"images of split 'train' \(32\) take about .* GB, and a cache may take 0.0 GB"
    ):
        load(drawn_set, views=SPECS["rrc"], batch_size=4, cache="ram")
    assert threads() == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(InputError, match="in each of 3 processes.*divided by them.*--max-side 256"):
        load(drawn_set, views=SPECS["rrc"], batch_size=4, cache="ram", world_size=3)


def test_dali_is_refused_and_auto_is_threads():
    with pytest.raises(InputError, match="cache is 'ram', which needs the backend threads"):
        open_loader(8, cache="ram", backend="dali")
    with pytest.raises(InputError, match="cache is 'disk'; allowed: ram, None"):
        open_loader(8, cache="disk")
    with open_loader(8, cache="ram", backend="auto") as loader:
        assert isinstance(loader._maker._backend, threads.Threads)


def test_an_image_of_another_size_than_its_json_is_never_kept():
    shards = MemorySet(4)
    about = json.loads(shards.samples[2]["json"])
    shards.samples[2]["json"] = json.dumps(about | {"width": about["width"] + 1}).encode()
    with open_loader(shards, cache="ram") as loader:
        for _ in range(2):
            with pytest.raises(InputError, match="bird-2.*its json"):
                next(iter(loader))


def test_a_kept_sample_is_complete_before_another_thread_sees_it():
    shards = MemorySet(3, side=(300, 301))
    kept = Cache(shards, 1)  # type: ignore[arg-type]
    sample, pixels = shards.read(0), np.full((300, 300, 3), 7, np.uint8)
    workers = [threading.Thread(target=kept.put, args=(0, sample, pixels)) for _ in range(8)]
    for worker in workers:
        worker.start()
    seen = []
    while len(seen) < 1:
        seen += [kept.fetch(0)] if isinstance(kept.fetch(0), Kept) else []
    assert torch.equal(torch.from_numpy(seen[0].pixels), torch.from_numpy(pixels))
    for worker in workers:
        worker.join()
    assert kept._used == pixels.size
    assert "jpg" not in kept.fetch(0)
