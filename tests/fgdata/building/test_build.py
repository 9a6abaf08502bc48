"""Building: the same bytes after any stop, clear errors, and every kind of unusual image."""

import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgdata import images
from fgdata.boxes.geometry import WHOLE
from fgdata.boxes.objective import Objective
from fgdata.building.build import build
from fgdata.building.log import LOG
from fgdata.cli import main
from fgdata.datasets import Dataset, Record, read
from fgdata.errors import InputError
from fgdata.shards.check import check
from fgdata.shards.manifest import dump, signed
from fgdata.shards.reader import ShardSet, box, meta

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
BOX = (8.0, 6.0, 32.0, 24.0)


def jpeg(rgb: np.ndarray = NOISE) -> bytes:
    return images.encode_jpeg(rgb, 90)


def other(form: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(buffer, form)
    return buffer.getvalue()


def from_folder(root: Path, record: Record):
    return (root / record.file).read_bytes(), record.boxes


def dataset(root: Path, files: dict[str, bytes], boxes: dict[str, tuple] | None = None) -> Dataset:
    """A dataset of the given files, all of one class and the train split, each with BOX unless `boxes` has another."""
    records = []
    for name, data in files.items():
        (root / name).write_bytes(data)
        records.append(Record(name.split(".")[0], name, 0, "bird", "train", (boxes or {}).get(name, (BOX,))))
    return Dataset("files", ("bird",), tuple(records), partial(from_folder, root))


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOG  # its times differ
    }


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every train sample by its file name."""
    reader = ShardSet.open(folder).split("train")
    return {meta(sample)["file"]: sample for sample in map(reader.read, range(len(reader)))}


def test_same_bytes_for_any_number_of_workers(drawn_set, tmp_path):
    birds = read("drawn", classes=4, images_per_class=12, size=96)
    done = build(birds, tmp_path / "one", saliency=("spectral-residual", "gt"), shard_samples=12, workers=1)
    assert done.written == 48
    assert hashes(tmp_path / "one") == hashes(drawn_set)
    log = [json.loads(line) for line in (tmp_path / "one" / LOG).read_text().splitlines()]
    assert {line["shard"] for line in log} == {f"train-00000{i}" for i in range(3)} | {
        f"test-00000{i}" for i in range(2)
    }
    assert all({"read", "decode", "spectral-residual", "write"} <= set(line["seconds"]) for line in log)
    assert list(tmp_path.iterdir()) == [tmp_path / "one"], "nothing is written outside the folder"


def test_ray_writes_the_same_bytes(drawn_set, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}  # the workers must find this file's functions
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=here)
    try:
        birds = read("drawn", classes=4, images_per_class=12, size=96)
        settings = {"saliency": ("spectral-residual", "gt"), "shard_samples": 12, "engine": "ray"}
        build(birds, tmp_path / "ray", **settings)
        assert hashes(tmp_path / "ray") == hashes(drawn_set)
        with pytest.raises(InputError, match=r"^\S+ is cursed$"):
            build(replace(birds, load=cursed), tmp_path / "bad", **settings)
    finally:
        ray.shutdown()


def test_a_complete_set_is_unchanged_and_other_settings_are_refused(tmp_path):
    data = dataset(tmp_path, {"a.jpg": jpeg(), "b.jpg": jpeg(NOISE[::-1])})
    make = partial(build, data, tmp_path / "set", saliency=("gt",))
    assert make().written == 2
    before = hashes(tmp_path / "set")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    assert make(workers=2).written == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()} == stamps
    with pytest.raises(InputError, match=r"objective.tau: 0.75 .*0.5"):
        make(objective=Objective(tau=0.5))
    with pytest.raises(InputError, match=r"images.max_side: null .*32"):
        make(max_side=32)
    with pytest.raises(InputError, match=r"detectors.gt: \{\} .*nothing"):
        make(saliency=("spectral-residual",))
    fewer = replace(data, records=data.records[:1])
    with pytest.raises(InputError, match=r"files, labels or boxes .*: 2 images then, 1 now\n.*rm -r \S+set$"):
        build(fewer, tmp_path / "set", saliency=("gt",))
    two = replace(fewer, classes=("bird", "cat"))
    with pytest.raises(InputError, match=r"2 images then, 1 now; classes: 1 then, 2 now\n  objective.tau: 0.75"):
        build(two, tmp_path / "set", saliency=("gt",), objective=Objective(tau=0.5))
    with pytest.raises(InputError, match=r"images:\n  dataset.name: \"files\" .*\"others\" .*\n.*--out FOLDER"):
        build(replace(fewer, name="others"), tmp_path / "set", saliency=("gt",))
    assert hashes(tmp_path / "set") == before
    unused = {**asdict(Objective()), "k": 3.0, "min_area": 0.2}  # as an older fgdata recorded them
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


@pytest.mark.slow
def test_killed_at_ten_random_moments_and_resumed_it_ends_with_the_same_bytes(tmp_path):
    settings = "--classes 5 --images-per-class 24 --size 160 --saliency rbd gt --shard-samples 6 --jobs 2".split()

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "fgdata.cli", "build-shards", *settings, "--out", str(tmp_path / out)]

    def shards() -> int:
        return len(list((tmp_path / "killed").glob("*.tar")))

    subprocess.run(command("whole"), check=True, capture_output=True)
    moment, kills, counts = random.Random(0), 0, []
    while kills < 10:
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = shards() + moment.randrange(3)  # 0: during the start; 1 and 2: while a later shard is built
        while process.poll() is None and shards() < goal:
            time.sleep(0.01)
        time.sleep(moment.uniform(0, 0.5))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            kills += 1
            counts.append(shards())
        else:  # it ended before the kill; start again
            assert process.returncode == 0
            assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
            shutil.rmtree(tmp_path / "killed")
    assert max(counts) > 0, "no kill came after a finished shard, so nothing was resumed"
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def test_an_unfinished_build_refuses_other_settings_too(tmp_path):
    data = dataset(tmp_path, {f"{i}.jpg": jpeg() for i in range(3)} | {"z.jpg": jpeg()})
    bad = replace(data, load=partial(fail_on, "z.jpg", tmp_path))
    with pytest.raises(InputError, match=r"z.jpg is cursed"):
        build(bad, tmp_path / "set", saliency=("gt",), shard_samples=1)
    assert not (tmp_path / "set" / "manifest.json").exists()
    assert not list((tmp_path / "set").glob("**/*.part"))
    with pytest.raises(InputError, match=r"4 images then, 3 now"):
        build(replace(data, records=data.records[1:]), tmp_path / "set", saliency=("gt",), shard_samples=1)
    with pytest.raises(InputError, match=r"shard_samples: 1 .*2"):
        build(data, tmp_path / "set", saliency=("gt",), shard_samples=2)
    assert build(data, tmp_path / "set", saliency=("gt",), shard_samples=1).manifest["splits"]["train"]["samples"] == 4
    assert check(tmp_path / "set")[1] == []


def fail_on(name: str, root: Path, record: Record):
    """Succeeds the first time, in the check before the build, and fails when the sample is made."""
    marker = root / f"{record.id}.read"
    if record.file == name and marker.exists():
        raise InputError(f"{name} is cursed")
    marker.touch()
    return from_folder(root, record)


def cursed(record: Record):
    raise InputError(f"{record.file} is cursed")


def test_two_builds_of_one_folder_at_once_are_refused(tmp_path):
    import fcntl
    import os

    data = dataset(tmp_path, {"a.jpg": jpeg()})
    (tmp_path / "set").mkdir()
    handle = os.open(tmp_path / "set", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="set.*--out FOLDER"):
        build(data, tmp_path / "set", saliency=("gt",))
    os.close(handle)
    assert build(data, tmp_path / "set", saliency=("gt",)).written == 1


def test_formats_are_recognised_by_content_and_reencoded(tmp_path):
    files = {
        "a.jpg": jpeg(),
        "gif.jpg": other("GIF"),
        "rgba.jpg": other("PNG", "RGBA"),
        "grey.jpg": other("JPEG", "L"),
        "cmyk.jpg": other("JPEG", "CMYK"),
    }
    done = build(dataset(tmp_path, files), tmp_path / "set", saliency=("spectral-residual", "gt"))
    assert done.manifest["reencoded"] == 3
    stored = samples(tmp_path / "set")
    assert stored["a.jpg"]["jpg"] == files["a.jpg"], "the original bytes of a JPEG are kept"
    assert stored["grey.jpg"]["jpg"] == files["grey.jpg"]
    assert "source" not in meta(stored["grey.jpg"])
    for name, form in {"gif.jpg": "gif", "rgba.jpg": "png", "cmyk.jpg": "jpeg"}.items():
        assert meta(stored[name])["source"] == {"format": form, "width": 64, "height": 48}
        assert images.header(stored[name]["jpg"], name) == images.Header("jpeg", 64, 48, 3)
        wanted = images.decode(files[name], name).astype(int)
        # Noise is the worst case for JPEG's halved chroma; equal means show that it is the same picture.
        assert np.abs(images.decode(stored[name]["jpg"], name).mean((0, 1)) - wanted.mean((0, 1))).max() < 3


def test_a_build_that_lacks_only_its_manifest_reports_that_it_wrote_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "build-shards --classes 2 --images-per-class 4 --size 64 --saliency spectral-residual --jobs 1".split()
    with monkeypatch.context() as stopped:
        stopped.setattr("fgdata.building.build.merge", stop)
        assert main([*words, "--keep-maps"]) == 130
    assert main([*words, "--keep-maps"]) == 0
    assert "already built; wrote the manifest" in capsys.readouterr().out
    assert main([*words, "--keep-maps"]) == 0
    assert "already complete" in capsys.readouterr().out


def stop(*_):
    raise KeyboardInterrupt


def test_unreadable_images_stop_the_build_at_once_or_are_skipped_and_listed(tmp_path):
    files = {"a.jpg": jpeg(), "cut.jpg": jpeg()[:-40], "none.jpg": b"", "text.jpg": b"not here"}
    data = dataset(tmp_path, files)
    with pytest.raises(InputError, match=r"(?s)\w+.jpg cannot be read as an image.*--on-bad-image skip.*first of 3"):
        build(data, tmp_path / "set", saliency=("gt",))
    assert not (tmp_path / "set").exists(), "it stops before it writes anything"
    done = build(data, tmp_path / "set", saliency=("gt",), on_bad_image="skip")
    assert (done.written, done.was_complete) == (1, False)
    assert {entry["file"] for entry in done.manifest["skipped"]} == {"cut.jpg", "none.jpg", "text.jpg"}
    assert all("cannot be read" in entry["why"] for entry in done.manifest["skipped"])
    assert list(samples(tmp_path / "set")) == ["a.jpg"]
    assert check(tmp_path / "set")[1] == []


def test_images_are_checked_one_shard_at_a_time(tmp_path, monkeypatch):
    """A pool keeps a future for every image passed to `map`: 2 GB for ImageNet's 1.3 million."""
    counts = []

    class Pool(ThreadPoolExecutor):
        def map(self, function, images):
            images = list(images)
            counts.append(len(images))
            return super().map(function, images)

    monkeypatch.setattr("fgdata.building.build.ThreadPoolExecutor", Pool)
    data = dataset(tmp_path, {f"{i}.jpg": jpeg() for i in range(8)})
    build(data, tmp_path / "set", saliency=("gt",), shard_samples=3)
    assert counts == [3, 3, 2]


def test_a_box_does_not_depend_on_which_other_detectors_ran(tmp_path):
    # spectral-residual needs fewer pixels than rbd: it decodes drawn images of 288 pixels at half the size.
    birds = read("drawn", classes=2, images_per_class=3, size=288)
    build(birds, tmp_path / "alone", saliency=("spectral-residual",))
    build(birds, tmp_path / "both", saliency=("rbd", "spectral-residual"))
    alone, both = (ShardSet.open(tmp_path / name).split("train") for name in ("alone", "both"))
    for i in range(len(alone)):
        np.testing.assert_array_equal(*(box(s.read(i), "spectral-residual") for s in (alone, both)))


def test_names_that_are_not_utf8_are_refused_before_the_build_or_skipped(tmp_path, monkeypatch):
    data = dataset(tmp_path, {"a.jpg": jpeg(), "b.jpg": jpeg()})
    odd = replace(data.records[1], file="caf\udce9.jpg")  # how Python represents the byte E9
    data = replace(data, records=(data.records[0], odd))
    make = partial(build, data, tmp_path / "set", saliency=("gt",))
    with pytest.raises(InputError, match=r"^caf\\udce9.jpg: .* not UTF-8.*--on-bad-image skip"):
        make()
    assert not (tmp_path / "set").exists()
    with monkeypatch.context() as ascii_only:
        ascii_only.setattr(sys, "getfilesystemencoding", lambda: "ascii")
        with pytest.raises(InputError, match=r"ascii.*PYTHONUTF8=1"):
            make()
    [skipped] = make(on_bad_image="skip").manifest["skipped"]
    assert skipped["file"] == "caf\\udce9.jpg"
    assert list(samples(tmp_path / "set")) == ["a.jpg"]
    with pytest.raises(InputError, match=r"the name of class ortol\\udce9 is not UTF-8"):
        build(replace(data, classes=("ortol\udce9",)), tmp_path / "other", saliency=("gt",))


def test_a_shard_with_only_bad_images_is_omitted(tmp_path):
    data = dataset(tmp_path, {f"{i}.jpg": b"" for i in range(4)} | {"z.jpg": jpeg()})
    done = build(data, tmp_path / "set", saliency=("gt",), on_bad_image="skip", shard_samples=1)
    assert [shard["samples"] for shard in done.manifest["splits"]["train"]["shards"]] == [1]
    assert check(tmp_path / "set")[1] == []
    nothing = dataset(tmp_path, {"0.jpg": b""})
    with pytest.raises(InputError, match="--on-bad-image stop"):
        build(nothing, tmp_path / "empty", saliency=("gt",), on_bad_image="skip")


def test_boxes_beyond_the_image_are_clipped_and_counted(tmp_path):
    boxes = {"over.jpg": ((50.0, 40.0, 30.0, 30.0),), "in.jpg": (BOX, (0.0, 0.0, 64.0, 48.0))}
    data = dataset(tmp_path, {"over.jpg": jpeg(), "in.jpg": jpeg()}, boxes)
    done = build(data, tmp_path / "set", saliency=("gt",))
    assert done.manifest["boxes_clipped"] == 1
    stored = samples(tmp_path / "set")
    np.testing.assert_allclose(box(stored["over.jpg"], "gt"), [50 / 64, 40 / 48, 14 / 64, 8 / 48], rtol=1e-6)
    assert meta(stored["over.jpg"])["boxes_clipped"] is True
    np.testing.assert_array_equal(box(stored["in.jpg"], "gt"), WHOLE)  # the largest of its two
    assert len(meta(stored["in.jpg"])["boxes"]) == 2
    outside = dataset(tmp_path, {"out.jpg": jpeg()}, {"out.jpg": ((100.0, 0.0, 5.0, 5.0),)})
    with pytest.raises(InputError, match=r"out.jpg: box .* has no area inside its 64 x 48 image"):
        build(outside, tmp_path / "out", saliency=("gt",))


def test_a_flat_image_gets_the_whole_image_and_a_fallback(tmp_path):
    flat = np.full((48, 64, 3), 77, np.uint8)
    data = dataset(tmp_path, {"flat.jpg": jpeg(flat), "noise.jpg": jpeg()})
    done = build(data, tmp_path / "set", saliency=("rbd", "spectral-residual"))
    assert done.manifest["fallbacks"] == {"rbd": {"flat": 1}, "spectral-residual": {"flat": 1}}
    sample = samples(tmp_path / "set")["flat.jpg"]
    np.testing.assert_array_equal(box(sample, "rbd"), WHOLE)
    assert meta(sample)["detectors"]["rbd"] == {"fallback": "flat"}


def test_max_side_shrinks_images_and_keeps_boxes(tmp_path):
    big = np.repeat(np.repeat(NOISE, 4, 0), 4, 1)  # 192 x 256
    data = dataset(tmp_path, {"big.jpg": jpeg(big), "small.jpg": jpeg()}, {"big.jpg": (tuple(4 * v for v in BOX),)})
    build(data, tmp_path / "set", saliency=("gt",), max_side=64)
    stored = samples(tmp_path / "set")
    assert images.header(stored["big.jpg"]["jpg"], "x") == images.Header("jpeg", 64, 48, 3)
    assert (meta(stored["big.jpg"])["width"], meta(stored["big.jpg"])["height"]) == (64, 48)
    assert meta(stored["big.jpg"])["source"] == {"format": "jpeg", "width": 256, "height": 192}
    np.testing.assert_allclose(box(stored["big.jpg"], "gt"), np.array(BOX) / [64, 48, 64, 48], rtol=1e-6)
    assert stored["small.jpg"]["jpg"] == jpeg()


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


def test_a_box_outside_its_image_stops_the_build_before_anything_is_written(tmp_path):
    data = dataset(tmp_path, {f"{i}.jpg": jpeg() for i in range(3)}, {"2.jpg": ((100.0, 0.0, 5.0, 5.0),)})
    with pytest.raises(InputError, match=r"2.jpg: box .* has no area inside its 64 x 48 image"):
        build(data, tmp_path / "set", saliency=("gt",), shard_samples=1)
    assert not (tmp_path / "set").exists()
