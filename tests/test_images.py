"""Decoding by content: oracles are Pillow's own decoder and files cut or made wrong by hand."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from fgdata import images
from fgdata.errors import InputError


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (6, 9, 3), np.uint8), (90, 60), interpolation=cv2.INTER_CUBIC)


def saved(rgb: np.ndarray, form: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_every_format_is_told_by_its_content(picture, form):
    data = saved(picture, form)
    header = images.header(data, "called.jpg")
    assert (header.format, header.width, header.height) == (form.lower(), 90, 60)
    theirs = np.array(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    # JPEG and WebP decoders may round chroma upsampling differently; the others are exact.
    assert np.abs(images.decode(data, "called.jpg") - theirs).mean() < (2 if form in ("JPEG", "WEBP") else 1e-9)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1"])
def test_odd_colour_modes_become_rgb(picture, mode):
    data = saved(picture, "PNG", mode)
    theirs = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(images.decode(data, "x"), theirs)


def test_grey_and_cmyk_jpegs(picture):
    assert images.header(saved(picture, "JPEG", "L"), "x").channels == 1
    grey = images.decode(saved(picture, "JPEG", "L"), "x")
    assert grey.shape == (60, 90, 3)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert images.header(saved(picture, "JPEG", "CMYK"), "x").channels == 4
    assert images.decode(saved(picture, "JPEG", "CMYK"), "x").shape == (60, 90, 3)


def test_exif_orientation_is_ignored(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(picture, "JPEG", exif=exif)
    assert images.decode(data, "x").shape == (60, 90, 3)
    assert images.header(data, "x").width == 90


def test_progressive_jpeg(picture):
    data = saved(picture, "JPEG", progressive=True)
    assert images.header(data, "x").width == 90
    assert images.decode(data, "x").shape == (60, 90, 3)


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
def test_what_is_no_whole_image_is_refused_by_name(picture, what):
    with pytest.raises(InputError, match="some/where.jpg cannot be read as an image"):
        images.decode(broken(picture)[what], "some/where.jpg")


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
def test_a_jpeg_comes_as_small_as_asked_but_no_smaller(picture, size, least, comes):
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    small = images.decode(saved(large, "JPEG", quality=95), "x", least)
    assert small.shape == (comes[1], comes[0], 3)
    averaged = cv2.resize(large, comes, interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(small - averaged).mean() < 6  # chroma at half resolution, and blocks averaged by frequency


def test_other_formats_come_at_their_size(picture):
    assert images.decode(saved(picture, "PNG"), "x", 8).shape == (60, 90, 3)
