"""Decoding by content. Oracles are Pillow's decoder and truncated or altered files."""

import io
import re
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image
from shard_files import dataset, encode, samples

from fgdata import images
from fgdata.boxes.objective import Objective
from fgdata.building import sample
from fgdata.building.build import build
from fgdata.building.log import Log
from fgdata.building.worker import prepare_libraries
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.images.jpeg import FRAMES


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (6, 9, 3), np.uint8), (90, 60), interpolation=cv2.INTER_CUBIC)


def saved(rgb: np.ndarray, form: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_the_content_decides_the_format(picture, form):
    data = saved(picture, form)
    header = images.header(data, "called.jpg")
    assert (header.format, header.width, header.height) == (form.lower(), 90, 60)
    theirs = np.array(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    # JPEG and WebP decoders may round chroma upsampling differently; the others are exact.
    assert np.abs(images.decode(data, "called.jpg") - theirs).mean() < (2 if form in ("JPEG", "WEBP") else 1e-9)


@pytest.mark.parametrize("marker", sorted(FRAMES))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_of_another_process_than_its_frame_states_never_becomes_a_sample(tmp_path, marker, mode):
    """A baseline JPEG whose frame header says progressive, lossless, arithmetic-coded and so on.

    0xC0 is what it is, and 0xC1, extended, contains baseline.
    """
    original = encode("JPEG", mode)
    place = original.index(b"\xff\xc0")
    patched = original[: place + 1] + bytes([marker]) + original[place + 2 :]
    files = dataset(tmp_path, {"good.jpg": original, "odd.jpg": patched})
    if marker in (0xC0, 0xC1):
        assert sample.find_fault(files.records[1], files.load) is None
        np.testing.assert_array_equal(images.decode(patched, "odd.jpg"), images.decode(original, "good.jpg"))
        return
    recipe = sample.Recipe(files.load, ("gt",), Objective(), None, 90, "stop")
    with pytest.raises(InputError, match=r"^odd\.jpg (cannot be read as an image|is a damaged JPEG): "):
        sample.make(files.records[1], recipe, Log())


def pillows(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_odd_colour_modes_become_rgb(picture, form, mode):
    data = saved(picture, form, mode)
    np.testing.assert_array_equal(images.decode(data, "x"), pillows(data))


def on_white(rgba: np.ndarray, ground: int = 255) -> np.ndarray:
    """colour x alpha + ground x (1 - alpha), in float64."""
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + ground * (1 - alpha)


@pytest.fixture
def cut_out(picture) -> np.ndarray:
    """(60, 90, 4): black and noise under transparent pixels, a ramp of alpha, an opaque part."""
    alpha = np.repeat(np.clip(np.arange(90) * 4 - 40, 0, 255)[None], 60, 0).astype(np.uint8)
    rgba = np.dstack([picture, alpha])
    rgba[:30, :10, :3] = 0
    return rgba


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparent_pixels_are_shown_on_white(cut_out, form, options):
    buffer = io.BytesIO()
    Image.fromarray(cut_out).save(buffer, form, **options)
    for ground in (255, 0):
        found = images.decode(buffer.getvalue(), "x", ground=ground)
        assert np.abs(found - on_white(cut_out, ground)).max() <= 0.5 + 1e-9
    assert (images.decode(buffer.getvalue(), "x")[:, :10] == 255).all()


def test_an_image_that_nobody_can_see_is_a_bad_image(cut_out, tmp_path):
    cut_out[..., 3] = 0
    buffer = io.BytesIO()
    Image.fromarray(cut_out).save(buffer, "PNG")
    data = dataset(tmp_path, {"a.png": buffer.getvalue(), "b.jpg": saved(cut_out[..., :3], "JPEG")})
    with pytest.raises(InputError, match=r"^a\.png cannot be read as an image: .*all of its pixels are transparent"):
        build(data, tmp_path / "set", saliency=("gt",))
    assert sample.find_fault(data.records[1], data.load) is None


def test_grey_with_alpha_and_sixteen_bits_with_alpha_are_shown_on_white(cut_out):
    grey = cut_out[..., [0, 0, 0, 3]]
    data = saved(cut_out[..., 0], "PNG", "L")
    buffer = io.BytesIO()
    Image.merge("LA", [Image.fromarray(cut_out[..., i]) for i in (0, 3)]).save(buffer, "PNG")
    assert np.abs(images.decode(buffer.getvalue(), "x") - on_white(grey)).max() <= 0.5 + 1e-9
    assert (images.decode(data, "x") == grey[..., :3]).all()
    deep = cv2.imencode(".png", cut_out[..., [2, 1, 0, 3]].astype(np.uint16) * 257)[1].tobytes()
    assert np.abs(images.decode(deep, "x") - on_white(cut_out)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_shown_on_white(form):
    index = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(index, "L").convert("P")
    image.putpalette([value for i in range(12) for value in (i * 20, 100, 7)])
    buffer = io.BytesIO()
    image.save(buffer, form, transparency=5)
    expected = np.dstack([index * 20, np.full_like(index, 100), np.full_like(index, 7)])
    expected[index == 5] = 255
    np.testing.assert_array_equal(images.decode(buffer.getvalue(), "x"), expected)


def test_a_transparent_colour_without_a_palette_is_shown_on_white():
    rgb = np.full((6, 8, 3), (10, 200, 30), np.uint8)
    rgb[2:4] = (0, 0, 0)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", transparency=(0, 0, 0))
    assert (images.decode(buffer.getvalue(), "x")[2:4] == 255).all()
    assert (images.decode(buffer.getvalue(), "x")[:2] == rgb[:2]).all()


def test_what_is_under_transparent_pixels_is_not_stored(cut_out, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(cut_out).save(buffer, "PNG")
    build(dataset(tmp_path, {"a.png": buffer.getvalue()}), tmp_path / "set", saliency=("gt",))
    stored = images.decode(samples(tmp_path / "set")["a.png"]["jpg"], "x").astype(float)
    assert stored[:, :8].min() > 245  # 255 up to JPEG's rounding; black and noise in the file
    assert np.abs(stored - on_white(cut_out)).mean() < 8


@pytest.fixture
def loud(monkeypatch):
    """OpenCV at its default log level, before and after the test."""
    monkeypatch.delenv("OPENCV_LOG_LEVEL", raising=False)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)
    with warnings.catch_warnings():
        yield
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)


def test_decoders_print_nothing_during_a_build(tmp_path, capfd, loud):
    """A TIFF with a tag that libtiff does not know: OpenCV prints a warning unless it is silenced."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(buffer, "TIFF", tiffinfo={65001: "odd", 65002: 7})
    images.decode(buffer.getvalue(), "a.tif")
    assert "tag 65001" in capfd.readouterr().err, "OpenCV no longer warns of such a file: this test needs another"
    files = dataset(tmp_path, {"a.tif": buffer.getvalue(), "b.tif": b"II*\0" + bytes(40)})
    done = build(files, tmp_path / "set", saliency=("gt",), on_bad_image="skip")
    assert capfd.readouterr().err == ""
    assert [entry["file"] for entry in done.manifest["skipped"]] == ["b.tif"], "our own message is in the manifest"
    with pytest.raises(InputError, match=r"^b\.tif cannot be read as an image"):
        build(files, tmp_path / "other", saliency=("gt",))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("level", ["", "INFO"])
def test_workers_silence_decoders_unless_the_environment_says_otherwise(monkeypatch, loud, level):
    if level:
        monkeypatch.setenv("OPENCV_LOG_LEVEL", level)
    prepare_libraries()
    assert (cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT) == (not level)


def test_grey_jpegs(picture):
    assert images.header(saved(picture, "JPEG", "L"), "x").channels == 1
    grey = images.decode(saved(picture, "JPEG", "L"), "x")
    assert grey.shape == (60, 90, 3)
    assert (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(picture, form):
    data = saved(picture, form, "CMYK")
    assert images.header(data, "x").channels == 4
    rgb = images.decode(data, "x").astype(int)
    assert np.abs(rgb - pillows(data)).max() <= 2  # the product of an ink and black is rounded up or down
    assert np.abs(rgb - picture).mean() < (6 if form == "JPEG" else 1e-9)


def test_sixteen_bits_become_eight(picture):
    deep = picture.astype(np.uint16) * 257
    for form in (".png", ".tiff"):
        data = cv2.imencode(form, deep[..., ::-1])[1].tobytes()
        assert np.abs(images.decode(data, "x").astype(int) - pillows(data)).max() <= 1  # divided by 256 or by 257
        grey = cv2.imencode(form, deep[..., 0])[1].tobytes()  # Pillow cuts these off at 255 instead
        assert np.abs(images.decode(grey, "x").astype(int) - picture[..., [0, 0, 0]]).max() <= 1


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_ignored(picture, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture, form, exif=exif)
    assert images.header(data, "x").width == 90
    assert np.abs(images.decode(data, "x").astype(int) - picture).mean() < 8  # upside down: 60
    assert np.abs(images.decode(data, "x").astype(int) - pillows(data)).mean() < 2


def test_progressive_jpeg(picture):
    data = saved(picture, "JPEG", progressive=True)
    assert images.header(data, "x").width == 90
    assert images.decode(data, "x").shape == (60, 90, 3)


@pytest.mark.parametrize(
    "settings", [{}, {"progressive": True}, {"keep_rgb": True}, {"subsampling": 0}, {"restart_marker_rows": 1}]
)
def test_damage_in_a_scan_is_found_where_opencv_decodes_it(picture, settings):
    data = saved(picture, "JPEG", quality=95, **settings)
    assert images.find_scan_damage(data, "x.jpg") is None
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    damaged = data[:middle] + b"\xff\xd9"
    assert images.decode(damaged, "x.jpg").shape == (60, 90, 3)
    assert re.search(
        r"^x.jpg is a damaged JPEG: .+ \(simplejpeg .*OpenCV decodes it, .*--on-bad-image skip$",
        str(images.find_scan_damage(damaged, "x.jpg")),
    )


def test_only_scans_that_turbojpeg_knows_are_judged(picture):
    assert images.find_scan_damage(saved(picture, "PNG"), "x.png") is None
    buffer = io.BytesIO()
    Image.fromarray(picture).convert("CMYK").save(buffer, "JPEG")
    assert images.find_scan_damage(buffer.getvalue(), "x.jpg") is None
    grey = io.BytesIO()
    Image.fromarray(picture).convert("L").save(grey, "JPEG")
    assert images.find_scan_damage(grey.getvalue(), "x.jpg") is None


def broken(picture: np.ndarray) -> dict[str, bytes]:
    jpeg, png, gif = saved(picture, "JPEG"), saved(picture, "PNG"), saved(picture, "GIF")
    return {
        "empty": b"",
        "text": b"<html>404 not found</html>",
        "cut jpeg": jpeg[: len(jpeg) // 2],
        "jpeg without its end": jpeg[:-2],
        "jpeg header only": jpeg[:20],
        "jpeg magic only": b"\xff\xd8\xff",
        "cut png": png[: len(png) // 2],
        "cut gif": gif[: len(gif) // 3],
    }


@pytest.mark.parametrize("what", list(broken(np.zeros((8, 8, 3), np.uint8))))
def test_an_incomplete_image_is_refused_by_name(picture, what):
    with pytest.raises(InputError, match="some/where.jpg cannot be read as an image"):
        images.decode(broken(picture)[what], "some/where.jpg")


def forged(jpeg: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its frame header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[at + 4 :]


def test_more_pixels_than_allowed_are_a_bad_image(picture, tmp_path):
    jpeg = saved(picture, "JPEG")
    assert images.header(forged(jpeg, 13_377, 13_377), "x").width == 13_377
    huge, long = forged(jpeg, 65_000, 20_000), saved(np.zeros((1, (1 << 20) + 1, 3), np.uint8), "PNG", "1")
    for data, expected in (
        (huge, "65,000 x 20,000 pixels; at most 178,956,970 pixels"),
        (long, "1,048,577 x 1 pixels"),
    ):
        with pytest.raises(InputError, match=f"a.jpg cannot be read as an image: .* bytes, {expected}"):
            images.header(data, "a.jpg")
    with pytest.raises(InputError, match="65,000 x 20,000"):
        images.decode(huge, "a.jpg")
    for name, data in (("whole", jpeg), ("huge", huge), ("long", long)):
        (tmp_path / "birds" / "auk").mkdir(parents=True, exist_ok=True)
        (tmp_path / "birds" / "auk" / f"{name}.jpg").write_bytes(data)
    birds = read("folder", tmp_path / "birds")
    with pytest.raises(InputError, match="1,048,577 x 1|65,000 x 20,000"):
        build(birds, tmp_path / "set", saliency=("spectral-residual",), workers=1)
    built = build(birds, tmp_path / "set", saliency=("spectral-residual",), workers=1, on_bad_image="skip")
    assert len(built.manifest["skipped"]) == 2


def test_awkward_real_files(real_data):
    gif = (real_data / "awkward" / "Abyssinian_34.jpg").read_bytes()
    png = (real_data / "awkward" / "Abyssinian_5.jpg").read_bytes()
    assert images.header(gif, "x") == images.Header("gif", 250, 202, 1)
    assert images.header(png, "x") == images.Header("png", 200, 150, 4)
    assert images.decode(gif, "x").shape == (202, 250, 3)
    assert images.decode(png, "x").shape == (150, 200, 3)


def test_encode_and_shrink(picture):
    back = images.decode(images.encode_jpeg(picture, 95), "x")
    assert np.abs(back.astype(int) - picture).mean() < 6  # chroma is stored at half resolution
    assert images.shrink(picture, 45).shape == (30, 45, 3)
    assert images.shrink(picture, 500) is picture
    assert images.shrink(np.zeros((1, 900, 3), np.uint8), 10).shape == (1, 10, 3)


@pytest.mark.parametrize(
    ("size", "least", "comes"),
    [
        ((64, 48), 48, (64, 48)),
        ((160, 96), 48, (80, 48)),
        ((161, 97), 48, (81, 49)),
        ((161, 95), 48, (161, 95)),
        ((700, 400), 48, (88, 50)),
        ((40, 900), 48, (40, 900)),
        ((160, 96), None, (160, 96)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_allowed_size(picture, size, least, comes):
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    small = images.decode(saved(large, "JPEG", quality=95), "x", least)
    assert small.shape == (comes[1], comes[0], 3)
    averaged = cv2.resize(large, comes, interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(small - averaged).mean() < 6  # chroma at half resolution, and blocks averaged by frequency


def test_other_formats_are_decoded_at_full_size(picture):
    assert images.decode(saved(picture, "PNG"), "x", 8).shape == (60, 90, 3)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
@pytest.mark.parametrize("top", [1, 255, 65535])
def test_pixels_without_a_range_are_refused_and_never_become_black_or_white(kind: type, top: int):
    ramp = (np.linspace(0, 1, 48 * 32).reshape(32, 48) * top).astype(kind)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "TIFF")
    with pytest.raises(InputError, match=r"ramp\.tif.*8 or 16 bits.*--on-bad-image skip"):
        images.decode(buffer.getvalue(), "ramp.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_to_eight(suffix: str):
    ramp = np.arange(0, 65536, 64, np.uint16).reshape(32, 32)
    rgb = images.decode(cv2.imencode(suffix, ramp)[1].tobytes(), f"ramp{suffix}")
    assert np.abs(rgb[..., 0].astype(int) - ramp / 257).max() <= 1


@pytest.mark.parametrize("white", [1, 15, 100, 254, 255, 256, 1023, 65534, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_grey_levels_of_a_portable_map_are_shares_of_its_white(kind: int, white: int):
    """PGM (P2, P5) and PPM (P3, P6), as text and as bytes. Two levels may be off by one: decoders round differently."""
    values = (
        np.linspace(0, white, 12).astype(int).reshape(2, 2, 3) if kind in (3, 6) else np.array([[0, white // 3, white]])
    )
    shape = f"{values.shape[1]} # columns\n{values.shape[0]}"
    body = " ".join(map(str, values.ravel())).encode() + b"\n"
    if kind in (5, 6):
        body = values.astype(">u2" if white > 255 else "u1").tobytes()
    pixels = images.decode(f"P{kind} # 7 7 7\n{shape}\n{white}\n".encode() + body, "a.ppm")
    expected = np.broadcast_to(values.reshape(*values.shape[:2], -1) * 255 / white, pixels.shape)
    assert np.abs(pixels - expected).max() < 1
    assert pixels.max() == 255
