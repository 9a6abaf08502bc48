"""Every kind of unusual image, name and box in a build."""

import io
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image
from shard_files import BOX, NOISE, dataset, encode, jpeg, samples

from fgdata import images
from fgdata.boxes.geometry import WHOLE
from fgdata.building.build import build
from fgdata.building.log import read_log
from fgdata.building.rewrite import add
from fgdata.building.sample import find_fault
from fgdata.cli import main
from fgdata.datasets import Record, read
from fgdata.datasets.parsing import Files
from fgdata.errors import InputError
from fgdata.images.jpeg import read_frame
from fgdata.saliency import DETECTORS, DetectorRow
from fgdata.shards.check import check
from fgdata.shards.reader import ShardSet, box, meta


def test_formats_are_recognised_by_content_and_reencoded(tmp_path):
    files = {
        "a.jpg": jpeg(),
        "gif.jpg": encode("GIF"),
        "rgba.jpg": encode("PNG", "RGBA"),
        "grey.jpg": encode("JPEG", "L"),
        "cmyk.jpg": encode("JPEG", "CMYK"),
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


@pytest.mark.parametrize("damaged", [b"no image", jpeg()[:600] + b"\xff\xd9"])
def test_the_advice_for_a_bad_image_is_the_users_own_command(tmp_path, monkeypatch, capsys, damaged):
    (tmp_path / "my photos").mkdir()
    for name, data in {"a.jpg": jpeg(), "b.jpg": damaged}.items():
        (tmp_path / "my photos" / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    words = ["build-shards", "--dataset", "flat", "--root", "my photos", "--saliency", "spectral-residual"]
    words += ["--out", "a set", "--max-side", "32", "--jobs", "1"]
    assert main(words) == 2
    program, *advised = shlex.split(capsys.readouterr().err.split("without such images: ")[1])
    assert (program, advised) == ("fgdata", [*words, "--on-bad-image", "skip"])
    assert main(advised) == 0
    (skipped,) = ShardSet.open(tmp_path / "a set").manifest["skipped"]
    assert skipped["file"] == "b.jpg"
    assert "--on-bad-image" not in skipped["why"]


def test_the_first_call_of_a_detector_is_not_timed(tmp_path, monkeypatch):
    """It compiles loops, for up to 20 s. Here the first call takes 100 s of a clock of our own, all others take 1."""
    clock, calls = [0.0], []

    class Slow:
        SETTINGS, USES_SUPERPIXELS = {}, True

        @staticmethod
        def saliency_map(rgb, graph):
            clock[0] += 1 if calls else 100
            calls.append(graph)
            return rgb[..., 0] / np.float32(255)

    monkeypatch.setattr("fgdata.saliency.detector", lambda name: Slow)
    monkeypatch.setitem(DETECTORS, "slow", DetectorRow("slow", "a detector of this test"))
    monkeypatch.setattr("fgdata.building.log.time.perf_counter", lambda: clock[0])
    data = dataset(tmp_path, {"a.jpg": jpeg(), "b.jpg": jpeg()})
    build(data, tmp_path / "set", saliency=("slow",))
    add(tmp_path / "set", "gt")
    (line,) = read_log(ShardSet.open(tmp_path / "set"))
    assert (line["seconds"]["slow"], line["seconds"]["start-up"]) == (2, 100)
    assert [one["seconds"] for one in line["slowest"]] == [1, 1]


def test_damaged_scans_stop_the_build_or_are_skipped(tmp_path):
    whole = jpeg()
    data = dataset(tmp_path, {"a.jpg": whole, "cut.jpg": whole[: len(whole) // 2] + b"\xff\xd9"})
    for detector, folder in (("spectral-residual", "other"), ("gt", "set")):
        with pytest.raises(InputError, match=r"^cut.jpg is a damaged JPEG: .*OpenCV decodes it.*--on-bad-image skip$"):
            build(data, tmp_path / folder, saliency=(detector,))
    assert not (tmp_path / "set" / "manifest.json").exists()
    [skipped] = build(data, tmp_path / "set", saliency=("gt",), on_bad_image="skip").manifest["skipped"]
    assert skipped["file"] == "cut.jpg"
    assert "damaged JPEG" in skipped["why"]
    assert list(samples(tmp_path / "set")) == ["a.jpg"]


def test_the_check_before_a_build_reads_the_ends_of_a_jpeg(tmp_path):
    """The same verdict as of whole files, wherever the header ends and whatever the file ends with."""
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    plain = images.encode_jpeg(picture, 95)
    long, longer = ((b"\xff\xe2\xff\xff" + bytes(65533)) * times for times in (1, 3))
    half = len(plain) // 2
    files = {
        "plain.jpg": plain,
        "profile.jpg": plain[:2] + long + plain[2:],
        "history.jpg": plain[:2] + longer + plain[2:],
        "padded.jpg": plain + bytes(5000),
        "cut.jpg": plain[:-2],
        "cut-header.jpg": (plain[:2] + long + plain[2:])[:9000],
        "marker-inside.jpg": plain[:half] + b"\xff\xd9" + plain[half:-2],
        "damaged.jpg": plain[: len(plain) // 2] + bytes(len(plain) // 2 - 2) + b"\xff\xd9",
        "small.jpg": jpeg(),
        "cmyk.jpg": encode("JPEG", "CMYK"),
        "none.jpg": b"",
        "png.jpg": encode("PNG"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    load = Files("folder", tmp_path)
    ends, read = replace(load, only_ends=True), {}
    for name, data in files.items():
        record = Record(name, name, 0, "a", "train", (BOX,))
        assert str(find_fault(record, load)) == str(find_fault(record, lambda record: load(record)))
        read[name] = len(ends(record)[0]) / len(data) if data else 1
        if data.startswith(b"\xff\xd8\xff"):
            with suppress(ValueError):
                assert read_frame(ends(record)[0]) == read_frame(data)
    assert {name for name, share in read.items() if share < 0.9} == {"plain.jpg", "profile.jpg", "damaged.jpg"}
    assert read["plain.jpg"] < 0.02


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
    assert counts[:3] == [3, 3, 2]


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


def test_a_box_outside_its_image_stops_the_build_before_anything_is_written(tmp_path):
    data = dataset(tmp_path, {f"{i}.jpg": jpeg() for i in range(3)}, {"2.jpg": ((100.0, 0.0, 5.0, 5.0),)})
    with pytest.raises(InputError, match=r"2.jpg: box .* has no area inside its 64 x 48 image"):
        build(data, tmp_path / "set", saliency=("gt",), shard_samples=1)
    assert not (tmp_path / "set").exists()


def test_chroma_444_keeps_the_colours_of_reencoded_images_and_is_a_setting(tmp_path):
    stripes = np.zeros((48, 64, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255  # red and blue columns of one pixel
    buffer = io.BytesIO()
    Image.fromarray(stripes).save(buffer, "PNG")
    data = dataset(tmp_path, {"sign.png": buffer.getvalue(), "a.jpg": jpeg()})
    make = partial(build, data, saliency=("gt",))
    half, full = make(tmp_path / "420").manifest, make(tmp_path / "444", chroma="444").manifest
    settings = {"version": images.VERSION, "max_side": None, "quality": 90}
    assert half["images"] == settings, "the default is not recorded: older sets stay the same"
    assert full["images"] == settings | {"chroma": "444"}
    pictures = {name: samples(tmp_path / name) for name in ("420", "444")}
    errors = {
        name: np.abs(images.decode(found["sign.png"]["jpg"], name).astype(int) - stripes).mean()
        for name, found in pictures.items()
    }
    assert errors["444"] < 10 < 50 < errors["420"]
    assert pictures["444"]["a.jpg"]["jpg"] == jpeg()
    assert images.encode_jpeg(NOISE, 90) == images.encode_jpeg(NOISE, 90, "420")
    ok, plain = cv2.imencode(".jpg", NOISE[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert ok
    assert images.encode_jpeg(NOISE, 90) == plain.tobytes(), "the bytes of existing sets"
    for chroma, folder in (("444", "420"), ("420", "444")):
        with pytest.raises(InputError, match="images.chroma: .*444"):
            make(tmp_path / folder, chroma=chroma)
    with pytest.raises(InputError, match="--chroma 411: .*420, 444"):
        make(tmp_path / "411", chroma="411")
    assert make(tmp_path / "444", chroma="444").was_complete
