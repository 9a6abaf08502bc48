"""The loader: exact epochs on every rank, the same views from every backend, refusals."""

import gc
import json
import shlex
import time
from pathlib import Path

import cv2
import memory_set
import numpy as np
import pytest
import torch
from memory_set import MemorySet, as_sample, same
from new_threads import NewThreads

from fgdata import cores, saliency
from fgdata.errors import InputError
from fgdata.images import decode, encode_jpeg
from fgdata.shards.reader import ShardSet
from fgdata.shards.sample import Sample
from fgdata.views import Loader, ViewSpec, load, reference
from fgdata.views.batch import gather

TINY = ViewSpec(size=16, masks=True)
SWAP = ViewSpec(size=16, crop="saliency-swap", masks=True)


def open_loader(shards: MemorySet | int, views: ViewSpec = TINY, batch_size: int = 4, **options) -> Loader:
    return memory_set.open_loader(shards, views, batch_size, **options)


@pytest.fixture(params=["threads", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    return request.param


# Contents of a batch


def test_numpy_integers_are_whole_numbers(drawn_set):
    """np.int64 is what most code has at hand; the state is JSON."""
    one = np.int64(1)
    options: dict = {"seed": np.uint64(3), "rank": np.int64(0), "world_size": one, "shuffle_block": one}
    with load(drawn_set, views=ViewSpec(size=32), batch_size=np.int64(8), **options) as loader:  # pyright: ignore
        first = next(iter(loader))
        state = loader.state_dict()
    plain: dict = {"seed": 3, "rank": 0, "world_size": 1, "shuffle_block": 1}
    with load(drawn_set, views=ViewSpec(size=32), batch_size=8, **plain) as loader:
        assert torch.equal(next(iter(loader))["views"], first["views"])
        loader.load_state_dict(json.loads(json.dumps(state)))


def test_a_batch_from_a_shard_set_on_disk(drawn_set, backend: str):
    shards = ShardSet.open(drawn_set)
    spec = ViewSpec(size=32, views=3, crop="saliency-swap", masks=True, plain=True)
    with load(shards, views=spec, batch_size=8, backend=backend) as loader:  # pyright: ignore
        assert len(loader) == 4
        assert loader.samples == 32
        batches = list(loader)
    batch = batches[0]
    assert {name: (tuple(t.shape), t.dtype) for name, t in batch.items()} == {
        "views": ((3, 8, 3, 32, 32), torch.float32),
        "masks": ((3, 8, 1, 32, 32), torch.float32),
        "plain": ((8, 3, 32, 32), torch.float32),
        "label": ((8,), torch.int64),
        "index": ((8,), torch.int64),
    }
    assert sorted(torch.cat([b["index"] for b in batches]).tolist()) == list(range(32))
    reader = shards.split("train")
    assert [int(reader.read(i)["cls"]) for i in batch["index"].tolist()] == batch["label"].tolist()


@pytest.mark.parametrize("crop", ["rrc", "saliency-swap", "contrastive", "paste", "centre"])
def test_whole_views_against_the_reference(backend: str, crop: str):
    spec = ViewSpec(size=48, crop=crop, masks=True, plain=True)  # type: ignore[arg-type]
    shards = MemorySet(10, side=(50, 300))
    with open_loader(shards, spec, 10, backend=backend, detector="rbd") as loader:
        batch = next(iter(loader))
    work = gather(shards, spec, "rbd", batch["index"].numpy(), 10, seed=3, epoch=0, batch=0)  # type: ignore[arg-type]
    images = [decode(jpeg, "") for jpeg in work.jpegs]
    levels = np.array(spec.std)[:, None, None] * 255
    for i in range(10):
        assert np.abs(batch["plain"][i].numpy() - reference.plain(images[i], spec)).max() * 58 < 6
        for v in range(2):
            behind = images[work.geometries[v].partner[i]] if spec.pastes else None
            exact = reference.view(images[i], work.geometries[v], i, spec, behind)
            error = levels * np.abs(batch["views"][v, i].numpy() - exact)
            # Roundings to 8 bits, amplified by up to 1.4^3 by the jitter, and DALI's edges (see test_dali_resize).
            assert error.mean() < 0.8
            assert np.quantile(error, 0.98) < 3
            assert np.array_equal(batch["masks"][v, i].numpy(), reference.mask(work.geometries[v], i, 48))


def test_a_very_long_image_at_test_time(backend: str):
    class Strips(MemorySet):
        def read(self, number: int) -> Sample:
            coarse = np.random.default_rng(number).integers(0, 256, (40, 3, 3), dtype=np.uint8)
            strip = cv2.resize(coarse, (24, 600), interpolation=cv2.INTER_CUBIC)
            sized = json.dumps({"id": "x", "width": 24, "height": 600}).encode()
            return as_sample(self.samples[number] | {"jpg": encode_jpeg(strip), "json": sized})

    spec, shards = ViewSpec.evaluation(48), Strips(2)
    with open_loader(shards, spec, 2, backend=backend, shuffle=False) as loader:
        batch = next(iter(loader))
    work = gather(shards, spec, "rbd", np.arange(2), 2, seed=3, epoch=0, batch=0)  # type: ignore[arg-type]
    assert work.geometries[0].source[:, 3].max() == 24 * 8
    for i in range(2):
        exact = reference.view(decode(work.jpegs[i], ""), work.geometries[0], i, spec)
        assert np.abs(batch["views"][0, i].numpy() - exact).mean() * 58 < 0.8


def test_views_do_not_depend_on_the_number_of_threads(backend: str):
    one, three = (open_loader(14, SWAP, threads=n, backend=backend, last_batch="keep") for n in (1, 3))
    with one, three:
        assert all(same(a, b) for _ in range(2) for a, b in zip(one, three, strict=True))


def test_backgrounds_come_from_another_sample_of_the_batch():
    class Colours(MemorySet):
        """Sample i is one flat grey, 20 i + 10; its patch differs from every background."""

        def read(self, number: int) -> Sample:
            grey = np.full((40, 40, 3), 20 * number + 10, np.uint8)
            sized = json.dumps({"id": "x", "width": 40, "height": 40}).encode()
            return as_sample(self.samples[number] | {"jpg": encode_jpeg(grey, 100), "json": sized})

    still = ViewSpec(size=16, crop="saliency-swap", masks=True, jitter=0, grayscale=0, blur=0)
    for count in (12, 9):  # 9 leaves a last batch of one, which takes a background from the next sample
        with open_loader(Colours(count), still, 4, last_batch="keep", detector="gt") as loader:
            for batch in loader:
                levels = (batch["views"][:, :, 0] * still.std[0] + still.mean[0]) * 255
                number = (levels - 10) / 20
                inside = batch["masks"][:, :, 0] > 0
                own = batch["index"][None, :, None, None].expand_as(number)
                assert (number - own)[inside].abs().max() < 0.1
                behind = number[~inside].round().long()
                assert (behind != own[~inside]).all()
                if len(batch["index"]) > 1:
                    assert torch.isin(behind, batch["index"]).all()


def test_a_batch_is_unchanged_while_the_caller_references_it():
    with open_loader(40) as loader:
        batches = list(loader)
        copies = [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]
        pointers = {batch["views"].data_ptr() for batch in batches}
        for _ in range(3):
            for _ in loader:
                pass
        assert all(same(a, b) for a, b in zip(batches, copies))
        assert len(pointers) == 10
        del batches, copies
        reused = set()
        for batch in loader:
            reused.add(batch["views"].data_ptr())
        assert len(reused) < 8  # memory is reused once no batch references it


# Epochs


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [12, 13, 17, 25])
def test_every_sample_once_over_all_ranks(world: int, count: int):
    order = {}
    for last_batch in ("drop", "wrap", "keep"):
        parts, lengths = [], []
        for rank in range(world):
            with open_loader(count, batch_size=4, rank=rank, world_size=world, last_batch=last_batch) as loader:
                batches = [batch["index"].tolist() for batch in loader]
                assert len(loader) == len(batches)
                assert loader.samples == sum(map(len, batches))
                parts.append(batches)
                lengths.append(len(batches))
        flat = [i for batches in parts for batch in batches for i in batch]
        whole, rest = divmod(count, 4 * world)
        if last_batch == "drop":
            assert lengths == [whole] * world
            assert len(flat) == len(set(flat)) == whole * 4 * world
        if last_batch == "wrap":
            assert lengths == [whole + bool(rest)] * world
            assert set(flat) == set(range(count))
            assert max(np.bincount(flat)) <= 2
            assert all(len(batch) == len(set(batch)) == 4 for batches in parts for batch in batches)
        if last_batch == "keep":
            assert sorted(flat) == list(range(count))
            assert max(lengths) - min(lengths) <= 1
        order[last_batch] = [batches[:whole] for batches in parts]
    assert order["drop"] == order["wrap"] == order["keep"]


def test_epochs_and_seeds_differ_and_repeat():
    def epochs(seed: int) -> list[list[int]]:
        with open_loader(40, seed=seed) as loader:
            return [[i for batch in loader for i in batch["index"].tolist()] for _ in range(3)]

    first, second = epochs(0), epochs(1)
    assert epochs(0) == first
    assert len({tuple(order) for order in first + second}) == 6
    with open_loader(10, shuffle=False, last_batch="keep") as loader:
        assert [i for batch in loader for i in batch["index"].tolist()] == list(range(10))


def test_an_epoch_left_before_its_end_is_abandoned():
    with open_loader(16) as loader, open_loader(16) as other:
        next(iter(loader))
        list(other)
        assert all(same(a, b) for a, b in zip(loader, other, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "no split 'val'"),
        ({"detector": "vsf"}, "no boxes by 'vsf'; it has: gt, rbd"),
        ({"batch_size": 9}, "8 samples.* batch takes 9"),
        ({"batch_size": 4, "world_size": 3}, "8 samples.* batch takes 4 x 3 ranks"),
        ({"batch_size": 9, "last_batch": "wrap"}, "8 samples.* batch takes 9; allowed: "),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 1}, "rank is 1 of 1"),
        ({"seed": -1}, "seed is -1"),
        ({"last_batch": "pad"}, "last_batch is 'pad'"),
        ({"backend": "ffcv"}, "backend is 'ffcv'; allowed: auto, threads, dali"),
        ({"threads": 0}, "threads is 0"),
        ({"readers": 0}, "readers is 0; allowed: 1 to 1024"),
        ({"ahead": 1025}, "ahead is 1025; allowed: 1 to 1024"),
        ({"batch_size": 4.0}, "batch_size is 4.0; allowed: a whole number"),
        ({"seed": "1"}, "seed is '1'; allowed: a whole number"),
        ({"device": "gpu"}, "device is 'gpu'; allowed: cpu, cuda"),
        ({"views": {"size": 32}}, "views is {'size': 32}; allowed: an fgdata.ViewSpec"),
    ],
)
def test_refusals(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        open_loader(8, **options)


@pytest.mark.parametrize(
    ("detector", "truth", "suggested"),
    [("gs", True, True), ("nope", True, False), ("onnx:FILE", True, False), ("gt", True, True), ("gt", False, False)],
)
@pytest.mark.parametrize("own", [("vsf", "rbd"), ()])
def test_only_a_detector_that_can_be_added_is_suggested(
    detector: str, truth: bool, suggested: bool, own: tuple, tmp_path: Path
):
    shards = MemorySet(8)
    shards.path, shards.detectors = str(tmp_path / "a set"), own  # pyright: ignore
    for sample in shards.samples:
        sample["json"] = json.dumps(json.loads(sample["json"]) | {"boxes": [[0, 0, 1, 1]] * truth}).encode()
    with pytest.raises(InputError, match=f"a set has no boxes by '{detector}'; it has") as error:
        open_loader(shards, detector=detector)
    message = str(error.value)
    assert all(name in message for name in own)
    command = shlex.split(message.partition(": fgdata add ")[2])
    assert command == (
        [str(tmp_path / "a set"), "--saliency", detector if suggested else "rbd"] if suggested or not own else []
    )
    assert not command or command[-1] == "gt" or saliency.detector(command[-1])


def test_boxes_are_required_only_if_the_views_use_them():
    bare = MemorySet(8)
    bare.detectors = ()  # pyright: ignore
    for sample in bare.samples:
        del sample["gt.npy"], sample["rbd.npy"]
    with pytest.raises(InputError, match="memory has no boxes.*--saliency"):
        open_loader(bare)
    with open_loader(bare, ViewSpec(size=16)) as loader:
        assert len(list(loader)) == 2


def test_the_default_boxes_are_ground_truth_only_without_others():
    with open_loader(8) as default, open_loader(8, detector="rbd") as rbd, open_loader(8, detector="gt") as truth:
        a, b, c = next(iter(default)), next(iter(rbd)), next(iter(truth))
    assert same(a, b)
    assert not torch.equal(a["masks"], c["masks"])


def test_saliency_swap_needs_a_second_sample():
    with pytest.raises(InputError, match="1 samples; allowed: two or more.* saliency-swap"):
        open_loader(1, SWAP, 1)


def test_a_damaged_sample_is_named_in_the_consumer():
    threads = NewThreads()
    with open_loader(MemorySet(16, broken=5)) as loader, pytest.raises(InputError, match=r"bird-5 of split .*sample 5"):
        for _ in loader:
            pass
    assert threads() == 0


def test_threads_end_with_the_loader(backend: str):
    started = NewThreads()
    with open_loader(40, backend=backend, threads=3) as loader:
        next(iter(loader))
        assert started() > 0
    with pytest.raises(RuntimeError, match="closed"):
        next(iter(loader))
    unclosed = open_loader(40, backend=backend, threads=3)
    next(iter(unclosed))
    del unclosed, loader
    gc.collect()
    deadline = time.monotonic() + 60
    while started() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert started() == 0


def test_an_iteration_that_another_one_ended_says_so():
    with open_loader(12) as loader:
        first = iter(loader)
        next(first)
        second = iter(loader)
        next(second)
        with pytest.raises(RuntimeError, match="one epoch at a time"):
            next(first)
        assert len(list(second)) == len(loader) - 1


def test_threads_are_shared_among_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [cores.share_of_cores(n) for n in (1, 4)] == [12, 12]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [cores.share_of_cores(n) for n in (1, 4, 8)] == [12, 3, 3]
    for odd in ("32", "four", ""):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", odd)
        assert cores.share_of_cores(64) == (1 if odd == "32" else 12)


def test_an_image_of_another_size_than_its_json_is_named(backend: str):
    shards = MemorySet(4)
    about = json.loads(shards.samples[2]["json"])
    shards.samples[2]["json"] = json.dumps(about | {"width": about["width"] + 1}).encode()
    with (
        open_loader(shards, batch_size=4, backend=backend) as loader,
        pytest.raises(InputError, match="bird-2.*its json"),
    ):
        next(iter(loader))
