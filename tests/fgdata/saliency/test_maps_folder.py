"""maps:DIR, maps computed elsewhere."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from fgdata import progress, saliency
from fgdata.boxes.objective import Objective, solve
from fgdata.errors import InputError
from fgdata.saliency import detector


def test_reading_many_maps_shows_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((4, 4), np.uint8))
    assert detector(f"maps:{tmp_path}").SETTINGS["files"] == 3
    assert "Reading maps: 3 of 3 images" in capsys.readouterr().err


def test_a_map_is_found_by_path_or_by_stem(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    for name in ("a/one.png", "two.png", "one.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), 255 - grey if name == "one.png" else grey)
    maps = detector(f"maps:{tmp_path}")
    rgb = np.zeros((6, 8, 3), np.uint8)
    for file in ("images/a/one.jpg", "a/one.jpg", "images/b/two.jpeg", "two.jpg"):
        np.testing.assert_array_equal(maps.saliency_map(rgb, file), grey / np.float32(255))
    np.testing.assert_array_equal(maps.saliency_map(rgb, "b/one.jpg"), (255 - grey) / np.float32(255))
    large = maps.saliency_map(np.zeros((60, 80, 3), np.uint8), "two.jpg")
    assert large.shape == (60, 80)
    assert 0 <= large.min() <= large.max() <= 1
    assert saliency.saliency_map(f"maps:{tmp_path}", rgb, "two.jpg").shape == (6, 8)


def test_unusable_maps_are_named(tmp_path):
    grey = np.zeros((6, 8), np.uint8)
    for name in ("one.png", "one.jpg", "three.png"):
        cv2.imwrite(str(tmp_path / name), grey)
    cv2.imwrite(str(tmp_path / "jet.png"), np.dstack([grey, grey, grey + 200]))
    cv2.imwrite(str(tmp_path / "stored.png"), grey.T)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    maps, rgb = detector(f"maps:{tmp_path}"), np.zeros((6, 8, 3), np.uint8)
    with pytest.raises(InputError, match=r"one.jpg .*maps.*/one.jpg .*/one.png"):
        maps.saliency_map(rgb, "one.jpg")
    with pytest.raises(InputError, match=r"jet.png .*colour.*differ by 200.*grey"):
        maps.saliency_map(rgb, "jet.jpg")
    with pytest.raises(InputError, match=r"stored.png is 6 x 8 pixels .* but the image is 8 x 6: .* EXIF"):
        maps.saliency_map(rgb, "stored.jpg")
    with pytest.raises(InputError, match=r"torn.png"):
        maps.saliency_map(rgb, "torn.jpg")
    with pytest.raises(InputError, match=r"a/four.jpg has no map.*a/four.png"):
        maps.saliency_map(rgb, "a/four.jpg")
    with pytest.raises(InputError, match=r"a/four.jpg has no map.*\n.* 2 images"):
        maps.check_complete(["three.jpg", "a/four.jpg", "five.jpg"])
    with pytest.raises(InputError, match=r"a/three.jpg and b/three.jpg .*map .*three.png"):
        maps.check_complete(["a/three.jpg", "b/three.jpg"])
    with pytest.raises(InputError, match="none.*--saliency maps:DIR"):
        detector(f"maps:{tmp_path / 'none'}")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_a_map_keeps_all_its_levels(tmp_path, dtype):
    shares = np.linspace(0, 1, 48).reshape(6, 8)
    full = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    stored = (np.rint(shares * full) if full > 1 else shares).astype(dtype)
    cv2.imwrite(str(tmp_path / "grey.tiff"), stored)
    cv2.imwrite(str(tmp_path / "three.tif"), np.dstack([stored] * 3))
    if full > 1:
        cv2.imwrite(str(tmp_path / "grey16.png"), stored)
    maps, rgb = detector(f"maps:{tmp_path}"), np.zeros((6, 8, 3), np.uint8)
    for file in tmp_path.iterdir():
        map_ = maps.saliency_map(rgb, file.name)
        assert map_.dtype == np.float32
        np.testing.assert_array_equal(map_, stored.astype(np.float32) / np.float32(full))
    assert maps.SETTINGS["files"] == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((6, 8), 255, np.float32), ".*255.0 to 255.0; allowed: 0 to 1"),
        (np.full((6, 8), -0.5, np.float32), ".*-0.5 to -0.5; allowed: 0 to 1"),
        (np.full((6, 8), np.nan, np.float32), ".*nan to nan; allowed: 0 to 1"),
        (np.full((6, 8), np.inf, np.float64), ".*inf to inf; allowed: 0 to 1"),
        (np.full((6, 8), 7, np.int16), ".*int16.*; allowed: .*8 or 16 bits, or floats"),
        (np.full((6, 8, 3), (0, 0, 50_000), np.uint16), r".*colour.*differ by 195.*grey"),
        (np.full((6, 8, 3), (0, 0, 0.5), np.float32), r".*colour.*differ by 128.*grey"),
    ],
)
def test_values_that_are_not_saliency_are_refused(tmp_path, pixels, message):
    cv2.imwrite(str(tmp_path / "a.tif"), pixels)
    with pytest.raises(InputError, match=f"a.tif {message}"):
        detector(f"maps:{tmp_path}").saliency_map(np.zeros((6, 8, 3), np.uint8), "a.jpg")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_the_map_of_a_cut_out_is_its_alpha_channel(tmp_path, dtype, suffix):
    """A white or a coloured image whose alpha channel is the mask; a constant alpha channel is ignored."""
    if (suffix, dtype) not in ((".webp", np.uint8), (".png", np.uint8), (".png", np.uint16)) and suffix != ".tif":
        pytest.skip("the format has no such channels")
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    mask = np.zeros((40, 60))
    mask[10:30, 15:45] = full
    grey = np.linspace(0, full, 2400).reshape(40, 60)
    for name, bgr, alpha in (
        ("white", np.full((40, 60, 3), full), mask),
        ("coloured", np.dstack([grey, mask, grey[::-1]]), mask),
        ("opaque", np.dstack([mask] * 3), np.full((40, 60), full)),
    ):
        image = np.dstack([bgr, alpha]).astype(dtype)
        options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
        assert cv2.imwrite(str(tmp_path / f"{name}{suffix}"), image, options)
        map_ = detector(f"maps:{tmp_path}").saliency_map(np.zeros((40, 60, 3), np.uint8), f"{name}.jpg")
        np.testing.assert_array_equal(map_, (mask / full).astype(np.float32))
    box, fallback = solve(map_, Objective())
    np.testing.assert_allclose(box, [0.25, 0.25, 0.5, 0.5], atol=1 / 64)
    assert fallback is None


def png(width, height):
    """A valid PNG header that promises so many pixels, with almost no data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    data = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), chunk(b"IDAT", zlib.compress(b"0"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(data) + chunk(b"IEND", b"")


def tiff(width, height):
    """A TIFF of float64 that promises so many pixels, with almost no data; Pillow does not open it."""
    tags = {256: width, 257: height, 258: 64, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 8, 339: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("name", "data"), [("a.png", png(9_000, 9_000)), ("a.tif", tiff(9_000, 9_000))])
def test_a_map_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch, name, data):
    (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(InputError, match=f"{name} has 9,000 x 9,000 pixels; allowed: at most 16,777,216 .*Shrink"):
        saliency.saliency_map(f"maps:{tmp_path}", np.zeros((6, 8, 3), np.uint8), "a.jpg")


@pytest.mark.parametrize(
    "data", [b"", b"II*\0", tiff(8, 6)[:40], b"MM\0*" + bytes(60), b"II+\0" + bytes(60), png(8, 6)[:-30]]
)
def test_a_damaged_map_is_named(tmp_path, data):
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match=r"a.tif .*Restore"):
        saliency.saliency_map(f"maps:{tmp_path}", np.zeros((6, 8, 3), np.uint8), "a.jpg")


def test_maps_behind_links_are_hashed_and_only_regular_files_are_maps(tmp_path):
    for folder in ("maps", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "maps/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "maps")
    os.mkfifo(tmp_path / "maps/b.png")
    settings = []
    for level in (10, 20):
        cv2.imwrite(str(tmp_path / "elsewhere/a.png"), np.full((6, 8), level, np.uint8))
        maps = detector(f"maps:{tmp_path / 'maps'}")
        assert maps.find("linked/a.jpg") == tmp_path / "maps/linked/a.png"
        settings.append(maps.SETTINGS)
    assert settings[0]["files"] == settings[1]["files"] == 1
    assert settings[0] != settings[1]
    with pytest.raises(InputError, match="b.jpg has no map"):
        maps.find("b.jpg")


def test_a_maps_suffix_may_be_in_any_case(tmp_path):
    for name in ("one.PNG", "two.Tif", "two.b.png", "three.png", "threefold.png", "three"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.full((6, 8), len(name), np.uint8))[1].tobytes())
    (tmp_path / "four.png").mkdir()
    maps, rgb = detector(f"maps:{tmp_path}"), np.zeros((6, 8, 3), np.uint8)
    for stem, name in (("one", "one.PNG"), ("two", "two.Tif"), ("two.b", "two.b.png"), ("three", "three.png")):
        assert maps.find(f"a/{stem}.jpg") == tmp_path / name
        np.testing.assert_array_equal(maps.saliency_map(rgb, f"{stem}.jpg"), np.float32(len(name)) / np.float32(255))
    assert maps.SETTINGS["files"] == 5
    with pytest.raises(InputError, match=r"four.jpg has no map"):
        maps.find("four.jpg")
