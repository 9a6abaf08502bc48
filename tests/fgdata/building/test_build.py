"""Building: the same bytes every time, and clear refusals."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from shard_files import NOISE, dataset, hashes, jpeg

from fgdata.boxes.objective import Objective
from fgdata.building.build import build
from fgdata.building.log import LOG
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.shards.check import check
from fgdata.shards.manifest import dump, signed


def test_same_bytes_for_any_number_of_workers(drawn_set, tmp_path):
    birds = read("drawn", classes=4, images_per_class=12, size=96)
    done = build(birds, tmp_path / "three", saliency=("spectral-residual", "gt"), shard_samples=12, workers=3)
    assert done.written == 48
    assert hashes(tmp_path / "three") == hashes(drawn_set)
    log = [json.loads(line) for line in (tmp_path / "three" / LOG).read_text().splitlines()]
    assert {line["shard"] for line in log} == {f"train-00000{i}" for i in range(3)} | {
        f"test-00000{i}" for i in range(2)
    }
    assert all({"read", "decode", "spectral-residual", "write"} <= set(line["seconds"]) for line in log)
    assert list(tmp_path.iterdir()) == [tmp_path / "three"], "nothing is written outside the folder"


def test_a_complete_set_is_unchanged_and_other_settings_are_refused(tmp_path):
    data = dataset(tmp_path, {"a.jpg": jpeg(), "b.jpg": jpeg(NOISE[::-1])})
    make = partial(build, data, tmp_path / "set", saliency=("gt",))
    assert make().written == 2
    before = hashes(tmp_path / "set")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    assert make(workers=2).written == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()} == stamps
    with pytest.raises(InputError, match=r"objective.tau: \"own\" .*0.5"):
        make(objective=Objective(tau=0.5))
    with pytest.raises(InputError, match=r"images.max_side: null .*32"):
        make(max_side=32)
    with pytest.raises(InputError, match=r"detectors: gt in the set, spectral-residual now"):
        make(saliency=("spectral-residual",))
    fewer = replace(data, records=data.records[:1])
    with pytest.raises(InputError, match=r"files, labels or boxes .*: 2 images then, 1 now\n.*rm -r \S+set$"):
        build(fewer, tmp_path / "set", saliency=("gt",))
    two = replace(fewer, classes=("bird", "cat"))
    with pytest.raises(InputError, match=r"2 images then, 1 now; classes: 1 then, 2 now\n  objective.tau: .own"):
        build(two, tmp_path / "set", saliency=("gt",), objective=Objective(tau=0.5))
    with pytest.raises(InputError, match=r"images:\n  dataset.name: \"files\" .*\"others\" .*\n.*--out FOLDER"):
        build(replace(fewer, name="others"), tmp_path / "set", saliency=("gt",))
    assert hashes(tmp_path / "set") == before
    unused = {**Objective().settings, "k": 3.0, "min_area": 0.2}  # as an older fgdata recorded them
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_bytes())
    (tmp_path / "set" / "manifest.json").write_bytes(dump(signed(manifest | {"objective": unused})))
    assert make().was_complete


def test_a_folder_of_something_else_is_refused(tmp_path):
    data = dataset(tmp_path, {"a.jpg": jpeg()})
    with pytest.raises(InputError, match="not empty .*not a shard set.*--out FOLDER"):
        build(data, tmp_path, saliency=("gt",))
    with pytest.raises(InputError, match="is a file"):
        build(data, tmp_path / "a.jpg", saliency=("gt",))
    for below in (tmp_path / "a.jpg" / "set", Path("/proc/set")):
        with pytest.raises(InputError, match=r"set cannot be created: .* --out FOLDER"):
            build(data, below, saliency=("gt",))


@pytest.mark.parametrize("damage", ["a cut tar", "no index", "an edited manifest", "no maps"])
def test_a_damaged_complete_set_is_refused(tmp_path, damage):
    data = dataset(tmp_path, {"a.jpg": jpeg(), "b.jpg": jpeg(NOISE[::-1])})
    out = tmp_path / "my set"
    make = partial(build, data, out, saliency=("spectral-residual",), keep_maps=True)
    make()
    files = {"a cut tar": "train-000000.tar", "no index": "train-000000.idx", "no maps": "maps.h5"}
    path = out / files.get(damage, "manifest.json")
    if damage.startswith("no"):
        path.unlink()
    elif damage == "a cut tar":
        path.write_bytes(path.read_bytes()[:-512])
    else:
        path.write_text(path.read_text().replace('"samples": 2', '"samples": 1', 1))
    with pytest.raises(InputError, match=rf"{path.name}.*`fgdata check '.*my set'`.*rm -r '.*my set'"):
        make()


def test_two_builds_of_one_folder_at_once_are_refused(tmp_path):
    import fcntl

    data = dataset(tmp_path, {"a.jpg": jpeg()})
    (tmp_path / "set").mkdir()
    handle = os.open(tmp_path / "set", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="set.*--out FOLDER"):
        build(data, tmp_path / "set", saliency=("gt",))
    os.close(handle)
    assert build(data, tmp_path / "set", saliency=("gt",)).written == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saliency": ()}, "--saliency"),
        ({"saliency": ("gt", "gt")}, "gt gt"),
        ({"saliency": ("basnet",)}, "'basnet' is not a detector.*rbd"),
        ({"max_side": 3}, "--max-side 3: .*16"),
        ({"quality": 0}, "--quality 0: .*1 to 100"),
        ({"shard_samples": 0}, "--shard-samples 0"),
        ({"workers": 0}, "--jobs 0"),
        ({"engine": "slurm"}, "--engine slurm: .*local, ray"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, changes, message):
    data = dataset(tmp_path, {"a.jpg": jpeg()})
    with pytest.raises(InputError, match=message):
        build(data, tmp_path / "set", **({"saliency": ("gt",)} | changes))
    assert not (tmp_path / "set").exists() or not list((tmp_path / "set").iterdir())


def test_gt_without_boxes_and_an_empty_dataset_are_refused(tmp_path):
    bare = dataset(tmp_path, {"a.jpg": jpeg(), "b.jpg": jpeg()}, {"b.jpg": ()})
    with pytest.raises(InputError, match=r"--saliency gt: 1 of 2 images .* \(the first is b.jpg\).*--saliency rbd"):
        build(bare, tmp_path / "set", saliency=("gt",))
    with pytest.raises(InputError, match="files has no images"):
        build(replace(bare, records=()), tmp_path / "set", saliency=("gt",))


def test_cub50_builds_with_its_published_counts(real_data, tmp_path):
    done = build(read("cub", real_data / "cub50"), tmp_path / "set", saliency=("gt",), workers=2)
    assert {name: split["samples"] for name, split in done.manifest["splits"].items()} == {"train": 1500, "test": 1389}
    assert done.manifest["skipped"] == []
    assert check(tmp_path / "set")[1] == []
