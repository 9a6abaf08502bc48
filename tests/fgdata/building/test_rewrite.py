"""The map cache and what is made from it: same bytes, same boxes within 8 bits, whole at every moment, plain errors."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from fgdata.boxes.geometry import iou
from fgdata.boxes.objective import Objective, solve
from fgdata.building.build import build
from fgdata.building.log import LOG
from fgdata.building.rewrite import add, rebox
from fgdata.cli import main
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.files import swap
from fgdata.files.lock import create_and_lock
from fgdata.images import decode, encode_jpeg
from fgdata.saliency import detector
from fgdata.shards import maps
from fgdata.shards.check import check
from fgdata.shards.reader import ShardSet, box, meta

TIGHT = Objective(tau=1.5)
MEAN = Objective("max-mean", k=1.0)


def files(folder: Path) -> dict[str, bytes]:
    """Of a set; its build log is no part of it."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != LOG)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def boxes(folder: Path, name: str) -> np.ndarray:
    shards = ShardSet.open(folder)
    return np.stack([box(shards.split(s).read(i), name) for s, n in shards.splits.items() for i in range(n)])


@pytest.fixture(scope="module")
def birds():
    return read("drawn", classes=4, images_per_class=12, size=96)


@pytest.fixture(scope="module")
def kept(birds, tmp_path_factory) -> Path:
    """drawn_set with its maps. Read only."""
    out = tmp_path_factory.mktemp("kept") / "set"
    build(birds, out, saliency=("spectral-residual", "gt"), shard_samples=12, workers=2, keep_maps=True)
    return out


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "set"))


@pytest.fixture
def in_process(monkeypatch):
    """Jobs run here: a worker process takes a second to start."""
    for room in ("build", "rewrite"):
        monkeypatch.setattr(
            f"fgdata.building.{room}.run_jobs", lambda function, jobs, **_: (function(job) for job in jobs)
        )


def test_maps_change_nothing_else_and_have_the_same_bytes_every_time(kept, drawn_set, birds, tmp_path):
    with_maps, without = files(kept), files(drawn_set)
    manifest, plain = json.loads(with_maps.pop("manifest.json")), json.loads(without.pop("manifest.json"))
    assert set(with_maps) - set(without) == {"maps.h5"}
    assert with_maps | without == with_maps
    assert (manifest.pop("format_version"), plain.pop("format_version")) == ("1.2", "1.2")
    said = manifest.pop("maps")
    assert {key: manifest[key] for key in plain if key != "digest"} == {k: v for k, v in plain.items() if k != "digest"}
    assert said["bytes"] == len(with_maps["maps.h5"])
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
        # The mean of each cell by brute force: every pixel 128 times, cut into 128 equal parts, along either axis.
        rows = saliency.astype(np.float64)[np.arange(height * 128) // 128].reshape(128, height, width).mean(1)
        cells = rows[:, np.arange(width * 128) // 128].reshape(128, 128, width).mean(2)
        low, high = limits[row].astype(float)
        assert (low, high) == pytest.approx((cells.min(), cells.max()), abs=1e-6)
        np.testing.assert_allclose(low + (high - low) * stored[row] / 255, cells, atol=(high - low) / 509)


@pytest.mark.parametrize("objective", [TIGHT, MEAN, Objective("max-mean", min_area=0.3), Objective(grid=48)])
def test_rebox_gives_the_boxes_of_a_direct_build(copy, birds, tmp_path, objective):
    done = rebox(copy, objective)
    assert check(copy)[1] == []
    assert done.manifest["objective"] == asdict(objective)
    build(birds, tmp_path / "direct", saliency=("spectral-residual", "gt"), objective=objective, shard_samples=12)
    np.testing.assert_array_equal(boxes(copy, "gt"), boxes(tmp_path / "direct", "gt"))
    overlap = iou(boxes(copy, "spectral-residual"), boxes(tmp_path / "direct", "spectral-residual"))
    # Half a step of 255 moves a box's edge by a cell where two boxes are about as good; seldom further.
    assert overlap.mean() > 0.98
    assert not (tmp_path / ".new").exists()
    ours, theirs = ShardSet.open(copy).split("test").read(3), ShardSet.open(tmp_path / "direct").split("test").read(3)
    assert ours["jpg"] == theirs["jpg"]
    assert {**meta(ours), "crc32": 0} == {**meta(theirs), "crc32": 0}


def test_rebox_to_what_it_was_gives_the_same_boxes(kept, tmp_path):
    before = files(kept)
    rebox(kept, Objective(), out=tmp_path / "new", workers=2)
    assert files(kept) == before
    same = boxes(kept, "spectral-residual") == boxes(tmp_path / "new", "spectral-residual")
    assert same.all(1).mean() > 0.9
    assert files(tmp_path / "new")["maps.h5"] == before["maps.h5"]
    rebox(tmp_path / "new", TIGHT)
    first = files(tmp_path / "new")
    rebox(kept, TIGHT, out=tmp_path / "third")
    assert files(tmp_path / "third") == first, "from the same maps come the same bytes"


def test_flat_maps_stay_whole_images(tmp_path, birds):
    few = replace(birds, records=birds.records[:3], load=Flat())
    build(few, tmp_path / "set", saliency=("spectral-residual",), keep_maps=True)
    done = rebox(tmp_path / "set", TIGHT)
    assert done.manifest["fallbacks"] == {"spectral-residual": {"flat": 3}}
    cells, limits = maps.shrink_map(np.full((5, 7), np.nan, np.float32))
    assert np.isnan(limits).all()
    assert not cells.any()


class Flat:
    def __call__(self, record):
        return encode_jpeg(np.full((40, 60, 3), 90, np.uint8)), ()


def test_eight_bits_keep_small_maps(tmp_path):
    """A map that never rises above a thousandth is stored in its own range, and the box is the same."""
    saliency = np.zeros((75, 100), np.float32)
    saliency[20:50, 30:70] = 1e-3
    cells, limits = maps.shrink_map(saliency)
    restored = limits[0] + (limits[1] - limits[0]) / 255.0 * cells
    np.testing.assert_array_equal(solve(restored, Objective())[0], solve(saliency, Objective())[0])


def test_add_gives_the_bytes_of_a_direct_build(birds, tmp_path, kept):
    build(birds, tmp_path / "set", saliency=("gt",), shard_samples=12)
    (tmp_path / "set" / "notes.txt").write_text("mine")
    (tmp_path / "set" / "report.html").write_text("old boxes")
    add(tmp_path / "set", "spectral-residual", workers=2)
    found = files(tmp_path / "set")
    assert found.pop("notes.txt") == b"mine"
    build(birds, tmp_path / "direct", saliency=("gt", "spectral-residual"), shard_samples=12)
    assert found == files(tmp_path / "direct")
    with pytest.raises(InputError, match=r"has boxes by gt already; it has gt, spectral-residual"):
        add(tmp_path / "set", "gt")
    with pytest.raises(InputError, match="'magic' is not a detector"):
        add(tmp_path / "set", "magic")
    assert not (tmp_path / ".new").exists()


@pytest.mark.usefixtures("in_process")
def test_an_added_gt_is_that_of_a_direct_build_to_the_decimals_of_the_json(birds, tmp_path):
    few = replace(birds, records=birds.records[:12])
    build(few, tmp_path / "set", saliency=("spectral-residual",))
    add(tmp_path / "set", "gt")
    build(few, tmp_path / "direct", saliency=("spectral-residual", "gt"))
    ours, theirs = (boxes(tmp_path / name, "gt") for name in ("set", "direct"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)  # 7 decimals: half of the last, and float32's rounding
    for split in ("train", "test"):
        added, direct = (ShardSet.open(tmp_path / name).split(split).read(0) for name in ("set", "direct"))
        assert {**added, "gt.npy": b"", "json": b""} == {**direct, "gt.npy": b"", "json": b""}
        assert {**meta(added), "crc32": ""} == {**meta(direct), "crc32": ""}


def test_add_to_a_set_with_maps_keeps_the_new_ones_too(birds, tmp_path):
    few = replace(birds, records=birds.records[:10])
    build(few, tmp_path / "set", saliency=("spectral-residual",), shard_samples=6, keep_maps=True)
    add(tmp_path / "set", "rbd")
    build(few, tmp_path / "direct", saliency=("spectral-residual", "rbd"), shard_samples=6, keep_maps=True)
    assert files(tmp_path / "set") == files(tmp_path / "direct")
    rebox(tmp_path / "set", TIGHT)
    add(tmp_path / "set", "gt")
    assert ShardSet.open(tmp_path / "set").detectors == ("spectral-residual", "rbd", "gt")
    assert check(tmp_path / "set")[1] == []


def test_without_maps_or_with_wrong_ones_rebox_refuses(copy, drawn_set, tmp_path):
    before = files(copy)
    with pytest.raises(InputError, match=r"has no maps.h5 to solve boxes from. Build the set with --keep-maps"):
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
        with pytest.raises(InputError, match=r"maps.h5 is damaged, or of another set.*--keep-maps"):
            rebox(copy, TIGHT)
        with pytest.raises(InputError, match=r"maps.h5 is damaged, or of another set"):
            add(copy, "rbd")
        [fault] = check(copy)[1]
        assert "maps.h5 is damaged" in fault
    path.unlink()
    with pytest.raises(InputError, match=r"maps.h5 is missing"):
        rebox(copy, TIGHT)
    assert ShardSet.open(copy).splits["train"] == 32, "a reader needs no maps"
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


def owners_files(folder: Path) -> None:
    """What a person may keep beside the tars."""
    (folder / "notes.txt").write_text("mine")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "more.txt").write_text("mine too")
    (folder / "link").symlink_to("nowhere")


@pytest.mark.usefixtures("in_process")
def test_in_place_the_owners_files_are_the_same_files(copy):
    owners_files(copy)
    ours = [copy / "notes.txt", copy / "deep" / "er" / "more.txt", copy / LOG, copy / "maps.h5"]
    before = [path.stat().st_ino for path in ours]
    rebox(copy, TIGHT)
    assert [path.stat().st_ino for path in ours] == before
    assert (copy / "link").readlink() == Path("nowhere")


@pytest.mark.usefixtures("in_process")
def test_what_is_copied_is_on_the_disk_before_the_original_goes(copy, tmp_path, monkeypatch):
    owners_files(copy)
    lasting = set()
    monkeypatch.setattr(
        "os.fsync", lambda handle, fsync=os.fsync: (fsync(handle), lasting.add(os.fstat(handle).st_ino))
    )
    monkeypatch.setattr("os.link", no_links)
    rebox(copy, TIGHT)
    for path in ("notes.txt", "deep/er/more.txt", "deep/er", "deep", "maps.h5", "manifest.json", "."):
        assert (copy / path).stat().st_ino in lasting, path
    lasting.clear()
    rebox(copy, TIGHT, out=tmp_path / "new")
    assert (tmp_path / "new" / "maps.h5").stat().st_ino in lasting
    assert (tmp_path / "new" / "maps.h5").stat().st_ino != (copy / "maps.h5").stat().st_ino


def no_links(*_, **__):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.usefixtures("in_process")
def test_a_set_may_be_named_by_a_dot_or_a_link(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(copy)
    rebox(Path("."), TIGHT)
    assert ShardSet.open(copy).manifest["objective"] == asdict(TIGHT)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    rebox(copy, MEAN, out=Path("."))
    assert check(tmp_path / "empty")[1] == []
    (tmp_path / "link").symlink_to(copy)
    (tmp_path / ".new").mkdir()
    copy.rename(tmp_path / ".new" / "set.old")
    swap.recover(tmp_path / "link")
    assert check(tmp_path / "link")[1] == []


def test_other_folders_are_left_alone(copy, tmp_path):
    before = files(copy)
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        rebox(copy, TIGHT, out=copy)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        rebox(copy, TIGHT, out=tmp_path / "file")
    with pytest.raises(InputError, match="--jobs 0"):
        rebox(copy, TIGHT, workers=0)
    assert files(copy) == before


def test_a_damaged_sample_or_a_full_disk_leaves_the_set_as_it_was(copy, tmp_path, monkeypatch, capsys):
    tar = sorted(copy.glob("*.tar"))[-1]
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])
    with pytest.raises(InputError, match="is damaged: sample"):
        rebox(copy, TIGHT)
    tar.write_bytes(whole)
    before = files(copy)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "manifest.json")

    monkeypatch.setattr("fgdata.building.rewrite.write_atomic", full)
    assert main(["rebox", str(copy), "--tau", "1.5", "--jobs", "1"]) == 2
    assert "No space left on device" in (said := capsys.readouterr().err)
    assert "The shard set is as it was" in said
    assert files(copy) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set"]


def test_hdf5_says_a_full_disk_as_the_system_does(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, maps._disk_faults(tmp_path / "maps.h5"):
        raise RuntimeError("Can't decrement id ref count (file write failed: errno = 28, error message = '...')")
    assert caught.value.errno == errno.ENOSPC


def test_hdf5_says_a_limit_on_files_as_the_system_does(kept, tmp_path):
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


def test_keep_maps_needs_a_map_and_is_a_setting(birds, tmp_path, kept):
    with pytest.raises(InputError, match="--keep-maps: gt has no saliency map"):
        build(birds, tmp_path / "gt", saliency=("gt",), keep_maps=True)
    with pytest.raises(InputError, match=r"maps.side: 128 there, nothing asked"):
        build(birds, kept, saliency=("spectral-residual", "gt"), shard_samples=12)


def test_two_at_once_are_refused(copy):
    fcntl = pytest.importorskip("fcntl", reason="this system has no file locks of this kind")
    handle = os.open(copy, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="Another fgdata is writing"):
        rebox(copy, TIGHT)
    os.close(handle)


def test_folders_swap_also_where_the_system_cannot_do_it_at_once(tmp_path, monkeypatch):
    for system in (swap._system_swap, lambda: None, lambda: lambda new, old: -1):
        monkeypatch.setattr(swap, "_system_swap", system)
        monkeypatch.setattr(swap.ctypes, "get_errno", lambda: errno.EINVAL)
        for name in ("new", "old"):
            (tmp_path / name).mkdir()
            (tmp_path / name / name).touch()
        swap.exchange(tmp_path / "new", tmp_path / "old")
        assert (tmp_path / "old" / "new").exists()
        assert (tmp_path / "new" / "old").exists()
        shutil.rmtree(tmp_path / "new")
        shutil.rmtree(tmp_path / "old")
    (tmp_path / ".new" / "set.old").mkdir(parents=True)
    swap.recover(tmp_path / "set")
    assert (tmp_path / "set").is_dir()


@pytest.mark.slow
def test_killed_at_random_moments_the_set_is_the_old_or_the_new(kept, tmp_path):
    folder = Path(shutil.copytree(kept, tmp_path / "set"))
    old = files(folder)
    rebox(kept, TIGHT, out=tmp_path / "wanted")
    new = files(tmp_path / "wanted")
    script = (  # many swaps in one process, so that kills come at every stage and not only while it starts
        "import sys; from pathlib import Path; from fgdata.boxes import Objective; from fgdata import engine, rebox\n"
        "rebox.run_jobs = lambda f, jobs, **_: (f(job) for job in jobs)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for tau in (1.5, 0.75): rebox.rebox(Path(sys.argv[1]), Objective(tau=tau))\n"
    )
    rebox(kept, Objective(), out=tmp_path / "first")
    again = files(tmp_path / "first")
    moment = random.Random(0)
    seen = set()
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment.uniform(0.4, 1.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = files(folder)
        assert found in (old, new, again)
        seen.add(found == new)
        assert check(folder)[1] == []
    rebox(folder, TIGHT)
    assert files(folder) == new
    assert not (tmp_path / ".new").exists()


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "build-shards --classes 2 --images-per-class 6 --size 96 --saliency spectral-residual --jobs 1".split()
    assert main([*words, "--keep-maps"]) == 0
    assert main(["rebox", "shards/drawn", "--objective", "max-mean", "--k", "1.5", "--out", "new", "--jobs", "1"]) == 0
    assert "new: boxes of 12 samples (8 train, 4 test) solved again" in capsys.readouterr().out
    assert main(["add", "new", "--saliency", "gt", "--jobs", "1"]) == 0
    assert "boxes by gt added to 12 samples" in capsys.readouterr().out
    assert main(["check", "new"]) == 0
    assert main(["add", "new", "--saliency", "gt"]) == 2
    left = Path(".new/new")  # as a kill leaves it
    left.mkdir(parents=True)
    for words in (["check", "new"], ["list", "--folder", "."]):
        capsys.readouterr()
        assert main(words) == 0
        assert "new was left by a stopped `fgdata rebox` or `fgdata add`" in capsys.readouterr().out
    with create_and_lock(left):
        assert main(["check", "new"]) == 0
        assert "new is being written" in capsys.readouterr().out
    left.rename(".new/gone.old")
    assert main(["list", "--folder", "."]) == 0
    assert "Put it back: mv .new/gone.old gone" in capsys.readouterr().out
    assert ShardSet.open(Path("shards/drawn")).manifest["objective"] == asdict(Objective())
    assert main(["rebox", "nowhere"]) == 2
    assert "There is no shard set at nowhere" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_rebox_keeps_what_the_set_was_built_with_but_for_what_is_asked(birds, tmp_path, capsys):
    few = replace(birds, records=birds.records[:4])
    own = Objective("max-mean", min_area=0.2, grid=32)
    folder = tmp_path / "set"
    build(few, folder, saliency=("spectral-residual",), objective=own, keep_maps=True)
    before = boxes(folder, "spectral-residual")

    def reboxed(*words: str) -> Objective:
        assert main(["rebox", str(folder), "--jobs", "1", *words]) == 0
        return Objective(**ShardSet.open(folder).manifest["objective"])

    assert reboxed() == own
    np.testing.assert_array_equal(boxes(folder, "spectral-residual"), before)
    assert main(["rebox", str(folder), "--tau", "0.5"]) == 2
    assert "--tau 0.5 decides nothing: the objective is max-mean. Leave --tau away" in capsys.readouterr().err
    assert reboxed("--min-area", "0.3") == replace(own, min_area=0.3)
    assert reboxed("--k", "3") == Objective("max-mean", k=3.0, grid=32)
    assert reboxed("--grid", "16") == Objective("max-mean", k=3.0, grid=16)
    assert reboxed("--objective", "max-excess") == Objective(grid=16)
    assert reboxed("--tau", "0.5") == Objective(tau=0.5, grid=16)
