"""rebox: the same bytes and, within 8 bits, the same boxes as a build; and the maps it reads."""

import errno
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from shard_files import MEAN, TIGHT, Flat, boxes, files

from fgdata.boxes.geometry import iou
from fgdata.boxes.objective import Objective, solve
from fgdata.building import rewrite
from fgdata.building.build import build
from fgdata.building.rewrite import add, rebox
from fgdata.cli import main
from fgdata.errors import InputError
from fgdata.images import decode
from fgdata.saliency import detector
from fgdata.shards import maps
from fgdata.shards.check import check
from fgdata.shards.manifest import dump, signed
from fgdata.shards.reader import ShardSet, meta


def test_maps_change_no_other_file_and_have_the_same_bytes_every_time(kept, drawn_set, birds, tmp_path):
    with_maps, without = files(kept), files(drawn_set)
    manifest, plain = json.loads(with_maps.pop("manifest.json")), json.loads(without.pop("manifest.json"))
    assert set(with_maps) - set(without) == {"maps.h5"}
    assert with_maps | without == with_maps
    assert (manifest.pop("format_version"), plain.pop("format_version")) == ("1.3", "1.3")
    entry = manifest.pop("maps")
    assert {key: manifest[key] for key in plain if key != "digest"} == {k: v for k, v in plain.items() if k != "digest"}
    assert entry["bytes"] == len(with_maps["maps.h5"])
    assert check(kept)[1] == []
    time.sleep(1.1)  # HDF5 would store times in whole seconds
    build(birds, tmp_path / "again", saliency=("spectral-residual", "gt"), shard_samples=12, keep_maps=True)
    assert files(tmp_path / "again") == files(kept)


def test_maps_are_the_detectors_maps_to_half_a_step(kept, birds):
    shards = ShardSet.open(kept)
    by_id = {record.id: record for record in birds.records}
    with h5py.File(kept / "maps.h5") as file:
        stored, limits, keys = (
            np.asarray(file[name]) for name in ("maps/spectral-residual", "range/spectral-residual", "key")
        )
    assert len(stored) == len(limits) == len(keys) == 48
    for split, number, row in (("train", 0, 0), ("train", 31, 31), ("test", 0, 32), ("test", 7, 39)):
        reader = shards.split(split)
        assert keys[row] == int(reader.key(number))
        record = by_id[meta(reader.read(number))["id"]]
        saliency = detector("spectral-residual").saliency_map(decode(birds.load(record)[0], record.file))
        height, width = saliency.shape
        # The mean of each cell by brute force: repeat every pixel 128 times and cut into 128 equal parts, on each axis.
        rows = saliency.astype(np.float64)[np.arange(height * 128) // 128].reshape(128, height, width).mean(1)
        cells = rows[:, np.arange(width * 128) // 128].reshape(128, 128, width).mean(2)
        low, high = limits[row].astype(float)
        assert (low, high) == pytest.approx((cells.min(), cells.max()), abs=1e-6)
        np.testing.assert_allclose(low + (high - low) * stored[row] / 255, cells, atol=(high - low) / 509)


@pytest.mark.parametrize("objective", [TIGHT, MEAN, Objective("max-mean", min_area=0.3), Objective(grid=48)])
def test_rebox_gives_the_boxes_of_a_direct_build(copy, birds, tmp_path, objective):
    done = rebox(copy, objective)
    assert check(copy)[1] == []
    assert done.manifest["objective"] == objective.settings
    build(birds, tmp_path / "direct", saliency=("spectral-residual", "gt"), objective=objective, shard_samples=12)
    np.testing.assert_array_equal(boxes(copy, "gt"), boxes(tmp_path / "direct", "gt"))
    overlap = iou(boxes(copy, "spectral-residual"), boxes(tmp_path / "direct", "spectral-residual"))
    # Rounding to 8 bits moves an edge by one cell where two boxes are almost equally good, rarely further.
    assert overlap.mean() > 0.98
    assert not (tmp_path / ".new").exists()
    ours, theirs = ShardSet.open(copy).split("test").read(3), ShardSet.open(tmp_path / "direct").split("test").read(3)
    assert ours["jpg"] == theirs["jpg"]
    assert {**meta(ours), "crc32": 0} == {**meta(theirs), "crc32": 0}


def test_rebox_with_the_same_objective_gives_the_same_boxes(kept, tmp_path):
    before = files(kept)
    rebox(kept, Objective(), out=tmp_path / "new", workers=2)
    assert files(kept) == before
    same = boxes(kept, "spectral-residual") == boxes(tmp_path / "new", "spectral-residual")
    assert same.all(1).mean() > 0.9
    assert files(tmp_path / "new")["maps.h5"] == before["maps.h5"]
    rebox(tmp_path / "new", TIGHT)
    first = files(tmp_path / "new")
    rebox(kept, TIGHT, out=tmp_path / "third")
    assert files(tmp_path / "third") == first, "the same maps give the same bytes"


def test_flat_maps_give_whole_images(tmp_path, birds):
    few = replace(birds, records=birds.records[:3], load=Flat())
    build(few, tmp_path / "set", saliency=("spectral-residual",), keep_maps=True)
    done = rebox(tmp_path / "set", TIGHT)
    assert done.manifest["fallbacks"] == {"spectral-residual": {"flat": 3}}
    cells, limits = maps.shrink_map(np.full((5, 7), np.nan, np.float32))
    assert np.isnan(limits).all()
    assert not cells.any()


def test_eight_bits_keep_small_maps(tmp_path):
    """A map with a maximum of 0.001 is stored in its own range, and its box is the same."""
    saliency = np.zeros((75, 100), np.float32)
    saliency[20:50, 30:70] = 1e-3
    cells, limits = maps.shrink_map(saliency)
    restored = limits[0] + (limits[1] - limits[0]) / 255.0 * cells
    np.testing.assert_array_equal(solve(restored, Objective())[0], solve(saliency, Objective())[0])


def test_missing_or_damaged_maps_are_refused(copy, drawn_set, tmp_path):
    before = files(copy)
    with pytest.raises(InputError, match=r"no maps.h5.*: fgdata build-shards .*--keep-maps --out .*-maps"):
        rebox(drawn_set, TIGHT)
    path = copy / "maps.h5"
    whole = path.read_bytes()
    damages = {
        "flipped": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
        "cut": whole[:-100],
        "empty": b"",
        "no HDF5": b"maps" * 1000,
    }
    for damaged in damages.values():
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"maps.h5 is damaged, or belongs to another set.*--keep-maps"):
            rebox(copy, TIGHT)
        with pytest.raises(InputError, match=r"maps.h5 is damaged, or belongs to another set"):
            add(copy, "rbd")
        [fault] = check(copy)[1]
        assert "maps.h5 is damaged" in fault
    path.unlink()
    with pytest.raises(InputError, match=r"maps.h5 is missing"):
        rebox(copy, TIGHT)
    assert ShardSet.open(copy).splits["train"] == 32, "a reader does not need the maps"
    path.write_bytes(whole)
    assert files(copy) == before
    stray = Path(shutil.copytree(drawn_set, tmp_path / "stray"))
    shutil.copy(path, stray / "maps.h5")
    assert "maps.h5 does not belong to the set" in check(stray)[1][0]
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        maps.MapFile(stray / "manifest.json")
    with pytest.raises(InputError, match=r"has no map 48 by spectral-residual"):
        maps.MapFile(path).read("spectral-residual", 48)
    with pytest.raises(InputError, match=r"has no map 0 by rbd"):
        maps.MapFile(path).read("rbd", 0)


def test_a_full_disk_in_hdf5_is_an_oserror_with_its_errno(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, maps._disk_faults(tmp_path / "maps.h5"):
        raise RuntimeError("Can't decrement id ref count (file write failed: errno = 28, error message = '...')")
    assert caught.value.errno == errno.ENOSPC


def test_a_file_size_limit_in_hdf5_is_an_oserror_with_its_errno(kept, tmp_path):
    resource = pytest.importorskip("resource", reason="this system has no limits of this kind")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            maps.merge({"spectral-residual": [kept / "maps.h5"]}, tmp_path / "maps.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_keep_maps_needs_a_detector_and_is_a_setting(birds, tmp_path, kept):
    with pytest.raises(InputError, match="--keep-maps.*--saliency"):
        build(birds, tmp_path / "gt", saliency=("gt",), keep_maps=True)
    with pytest.raises(InputError, match=r"maps.side: 128 .*nothing"):
        build(birds, kept, saliency=("spectral-residual", "gt"), shard_samples=12)


def test_rebox_changes_only_the_given_settings(birds, tmp_path, capsys):
    few = replace(birds, records=birds.records[:4])
    original = Objective("max-mean", min_area=0.2, grid=32)
    folder = tmp_path / "set"
    build(few, folder, saliency=("spectral-residual",), objective=original, keep_maps=True)
    before = boxes(folder, "spectral-residual")

    def reboxed(*words: str) -> Objective:
        assert main(["rebox", str(folder), "--jobs", "1", *words]) == 0
        return Objective(**ShardSet.open(folder).manifest["objective"])

    assert reboxed() == original
    np.testing.assert_array_equal(boxes(folder, "spectral-residual"), before)
    assert main(["rebox", str(folder), "--tau", "0.5"]) == 2
    message = capsys.readouterr().err
    assert "--tau 0.5" in message
    assert "max-mean" in message
    assert reboxed("--min-area", "0.3") == replace(original, min_area=0.3)
    assert reboxed("--k", "3") == Objective("max-mean", k=3.0, grid=32)
    assert reboxed("--grid", "16") == Objective("max-mean", k=3.0, grid=16)
    assert reboxed("--objective", "max-excess") == Objective(grid=16)
    assert reboxed("--tau", "0.5") == Objective(tau=0.5, grid=16)
    assert reboxed("--tau", "own") == Objective(grid=16)


def test_boxes_are_solved_with_each_detectors_own_tau(birds, tmp_path):
    few = replace(birds, records=birds.records[:6])
    names = ("rbd", "vsf")
    own = {name: detector(name).TAU for name in names}
    assert own["rbd"] != own["vsf"]
    build(few, tmp_path / "own", saliency=names, keep_maps=True)
    manifest = ShardSet.open(tmp_path / "own").manifest
    assert {name: manifest["detectors"][name]["tau"] for name in names} == own
    assert "tau" not in manifest["objective"]
    for name in names:
        build(few, tmp_path / name, saliency=names, objective=Objective(tau=own[name]), keep_maps=True)
        np.testing.assert_array_equal(boxes(tmp_path / "own", name), boxes(tmp_path / name, name))
    assert (boxes(tmp_path / "own", "vsf") != boxes(tmp_path / "rbd", "vsf")).any()
    # A set of format 1.2 records one tau for all and none of a detector.
    old = ShardSet.open(tmp_path / "vsf").manifest | {"format_version": "1.2"}
    old["detectors"] = {name: {k: v for k, v in old["detectors"][name].items() if k != "tau"} for name in names}
    (tmp_path / "vsf" / "manifest.json").write_bytes(dump(signed(old)))
    rebox(tmp_path / "vsf", rewrite.objective_of(tmp_path / "vsf").override(tau="own"))
    renewed = ShardSet.open(tmp_path / "vsf").manifest
    assert (renewed["detectors"], renewed["objective"]) == (manifest["detectors"], manifest["objective"])
    np.testing.assert_allclose(boxes(tmp_path / "vsf", "rbd"), boxes(tmp_path / "own", "rbd"), atol=2 / 64)


def test_another_tau_of_a_detector_is_another_set(birds, tmp_path, monkeypatch):
    few = replace(birds, records=birds.records[:2])
    build(few, tmp_path / "set", saliency=("vsf",))
    monkeypatch.setattr("fgdata.saliency.vsf.TAU", 0.25)
    with pytest.raises(InputError, match=r"detectors.vsf.tau: 0.9 in the set, 0.25 now"):
        build(few, tmp_path / "set", saliency=("vsf",))
