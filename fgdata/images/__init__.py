"""Decodes images to RGB pixels and encodes JPEG. The content decides the format, not the file name.

Transparent pixels are shown on white, as an image viewer shows them: what is stored under them is often black or noise.
EXIF orientation is ignored everywhere: width, height and boxes are those of the stored pixel grid, as the annotators of
these datasets saw it. In a TIFF the orientation is part of the format rather than EXIF, and both decoders apply it.
"""

import errno
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg

from ..errors import BadImage, InputError, NotEnoughMemory, printable
from . import jpeg
from .orientation import FORMATS

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

VERSION = 2
"""Version of the rules by which an image becomes a stored JPEG: 1 dropped the alpha channel. Scaling PGM and PPM by
their white did not raise it: the published datasets have no such files, and every set would be out of date."""
_PNG_START = b"\x89PNG"
_SIGNATURES = {_PNG_START: "png", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tiff", b"MM\0*": "tiff"}
_MOST_PIXELS = 178_956_970
"""Of one image, 0.5 GB decoded. Pillow opens no larger ones, so neither could many readers of a shard set."""
_MOST_SIDE = 1 << 20  # OpenCV's limit, unless its environment variables change it
CHROMA = {"420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444}
_BLENDED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""Pillow's modes whose transparency `decode` applies; the others are of 16 bits and more, or have none."""
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_PNM = re.compile(rb"P([2356])(?:(?:\s|#[^\r\n]*+)++(\d++)){3}")
"""Header of a PGM or PPM: its kind (2 and 3 are text), width, height and the value of white."""
# OpenCV's flags for reduced decoding also choose grey or BGR. The grey ones only reduce; _FLAGS chooses RGB.
_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)


@dataclass(frozen=True)
class Header:
    """What the header of an encoded image states."""

    format: str
    """Lower case, by content: jpeg, png, gif, bmp, tiff, webp, ..."""
    width: int
    height: int
    channels: int
    plain: bool = field(default=False, compare=False)
    """A JPEG that every decoder reads: 8-bit baseline, extended or progressive, with 1 or 3 channels."""
    transparent: bool = field(default=False, compare=False)
    """It has an alpha channel or a transparent colour."""


def header(data: bytes, name: str) -> Header:
    """Format and size of an encoded image, without decoding its pixels.

    `name` names the image in messages. InputError if the bytes are not a complete image, or one larger than `decode`
    accepts.
    """
    if data.startswith(jpeg.START):
        try:
            frame = jpeg.read_frame(data)
        except ValueError as fault:
            raise _unreadable(name, data, str(fault)) from None
        content = Header("jpeg", frame.width, frame.height, frame.components, frame.plain)
    else:
        if data.startswith(_PNG_START):
            _check_png_chunks(data, name)
        content = _header_with_pillow(data, name)
    if content.width * content.height > _MOST_PIXELS or max(content.width, content.height) > _MOST_SIDE:
        limit = f"at most {_MOST_PIXELS:,} pixels and {_MOST_SIDE:,} per side are allowed"
        raise _unreadable(name, data, f"{content.width:,} x {content.height:,} pixels; {limit}")
    return content


def decode(data: bytes, name: str, least_side: int | None = None, ground: int = 255) -> np.ndarray:
    """Encoded bytes -> (H, W, 3) uint8 RGB. Grey is repeated; transparent pixels are blended with the ground.

    Args:
        data: The encoded image. OpenCV decodes what it can, Pillow the rest.
        name: Names the image in messages.
        least_side: If given, a JPEG is decoded at a half, quarter or eighth of its size (sides rounded up), as long as
            both sides keep at least this many pixels. Its blocks are transformed to fewer pixels, which saves most of
            the decoding time. Default: full size.
        ground: The grey level behind transparent pixels. Default: white.

    Raises InputError if the bytes are not a complete image, NotEnoughMemory if its pixels do not fit into memory.

        rgb = decode(Path("bird.jpg").read_bytes(), "bird.jpg")
    """
    size = header(data, name)  # before any decoder reserves memory for it
    if size.transparent:
        return _decode_on_ground(data, name, ground)
    if size.format == "ppm" and (white := _white_to_scale(data)):
        return _decode_scaled(data, name, white)
    flags = _FLAGS
    if size.format == "jpeg" and least_side:
        side = min(size.width, size.height)
        flags |= next((flag for by, flag in _REDUCED if side >= by * least_side), 0)
    with name_image(name):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None and size.format == "jpeg" and not size.plain:
        pixels = _decode_odd_jpeg(data, name)
    return _decode_with_pillow(data, name) if pixels is None else pixels


def _white_to_scale(data: bytes) -> int | None:
    """The value of white of a PGM or PPM that OpenCV would decode too dark: it scales only text of up to 8 bits."""
    stated = _PNM.match(data)
    white = int(stated[2]) if stated else 255
    return None if not stated or white in (255, 65535) or (stated[1] in b"23" and white < 255) else white


def _decode_scaled(data: bytes, name: str, white: int) -> np.ndarray:
    with name_image(name):
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS | cv2.IMREAD_ANYDEPTH)
    if stored is None:
        return _decode_with_pillow(data, name)
    return np.rint(np.minimum(stored, white) * (255 / white)).astype(np.uint8)


@contextmanager
def name_image(name: str, *advice: str) -> Iterator[None]:
    """Raises NotEnoughMemory, which names the image, for whatever NumPy, OpenCV and torch raise in the block.

    advice: what to do about it, if not what NotEnoughMemory says by itself.
    """
    try:
        yield
    except NotEnoughMemory as fault:
        raise NotEnoughMemory(fault.image, *(advice or (fault.advice,))) from None
    except MemoryError:
        raise NotEnoughMemory(printable(name), *advice) from None
    except (cv2.error, RuntimeError) as fault:
        from_opencv = isinstance(fault, cv2.error) and fault.code == cv2.Error.StsNoMem
        if not from_opencv and "can't allocate memory" not in str(fault):  # the second: torch
            raise
        raise NotEnoughMemory(printable(name), *advice) from None


def silence_decoders() -> None:
    """Stops what OpenCV and Pillow print to stderr about odd files, in this process.

    What makes an image unusable is raised as InputError instead. To see OpenCV's lines, set OPENCV_LOG_LEVEL.
    """
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def find_scan_damage(data: bytes, name: str) -> BadImage | None:
    """What is wrong with the compressed pixels of a JPEG; None if nothing is found.

    OpenCV shows whatever it can decode, so a damaged file becomes a partly wrong image. libjpeg-turbo warns of it, and
    simplejpeg can turn its warnings into errors. About a quarter of single wrong bytes are found, and all truncation.

    name: names the image. Formats other than JPEG, and JPEGs that only OpenCV or Pillow supports, are not checked.
    Raises InputError if no decoder can decode it.
    """
    if not data.startswith(jpeg.START):
        return None
    try:  # the smallest size: all of the scan is read, but few pixels are computed
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
        return None
    except ValueError as fault:
        reason = str(fault).rstrip(". ")
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=False)
    except ValueError:  # TurboJPEG cannot decode it at all
        decode(data, name)
        return None
    return BadImage(
        f"{name} is a damaged JPEG: {reason} (simplejpeg {simplejpeg.__version__}). OpenCV decodes it, perhaps to a "
        "partly wrong image"
    )


def encode_jpeg(rgb: np.ndarray, quality: int = 95, chroma: str = "420") -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG bytes. quality: 1 to 100. chroma: "420" (half resolution) or "444" (full)."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, CHROMA[chroma]]
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), flags)
    if not ok:
        raise InputError(f"OpenCV could not encode an image of shape {rgb.shape} as JPEG.")
    return data.tobytes()


def shrink(rgb: np.ndarray, max_side: int) -> np.ndarray:
    """(H, W, 3) -> the image downscaled by area averaging so that its longer side is at most `max_side` pixels.

    Returns `rgb` itself if it is small enough.
    """
    height, width = rgb.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return rgb
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def _header_with_pillow(data: bytes, name: str) -> Header:
    with _open_with_pillow(data, name) as image:
        kind, transparent = _format(data, image.format), _is_transparent(image)
        return Header(kind, image.width, image.height, len(image.getbands()), transparent=transparent)


def _is_transparent(image: "PillowImage") -> bool:
    key = image.info.get("transparency")
    deep = isinstance(key, tuple) and max(key, default=0) > 255  # a colour of 16 bits per channel, where Pillow has 8
    return image.mode in _BLENDED and image.has_transparency_data and not deep


def _decode_on_ground(data: bytes, name: str, ground: int) -> np.ndarray:
    """(H, W, 3): colour x alpha + ground x (1 - alpha), rounded."""
    from PIL import Image

    with _open_with_pillow(data, name) as image:
        above = image.convert("RGBA")
        alpha = above.getchannel("A")
        if alpha.getextrema() == (0, 0):
            raise ValueError("all of its pixels are transparent")
        page = Image.new("RGB", image.size, (ground, ground, ground))
        page.paste(above, mask=alpha)
        return np.array(page)


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
    with _open_with_pillow(data, name) as image:
        if image.mode.startswith(("F", "I")):  # Pillow would cut values at 255: floats of 0 to 1 become black
            raise ValueError(
                f"a {image.format} with floating-point or 32-bit pixels, whose range of values is unknown; convert it "
                "to 8 or 16 bits per channel"
            )
        return np.array(image.convert("RGB"))


def _decode_odd_jpeg(data: bytes, name: str) -> np.ndarray:
    try:
        return _decode_with_pillow(data, name)
    except NotEnoughMemory:
        raise
    except InputError:
        kind = jpeg.read_frame(data).kind
        raise _unreadable(name, data, f"{kind}; use 8-bit baseline or progressive JPEG, grey or RGB") from None


@contextmanager
def _open_with_pillow(data: bytes, name: str) -> Iterator["PillowImage"]:
    """Yields the opened image; any Pillow error, including one in the block, becomes an InputError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError:
        raise _unreadable(name, data, "not an image") from None
    except Image.DecompressionBombError:
        raise _unreadable(name, data, f"more pixels than the {_MOST_PIXELS:,} allowed") from None
    except MemoryError:
        raise NotEnoughMemory(name) from None
    except Exception as fault:  # Pillow raises many kinds of exceptions on damaged files
        if isinstance(fault, OSError) and (fault.errno == errno.ENOMEM or "out of memory" in str(fault)):
            raise NotEnoughMemory(name) from None
        raise _unreadable(name, data, str(fault)) from None


def _check_png_chunks(data: bytes, name: str) -> None:
    """InputError if a chunk of a PNG is longer than the file: decoders reserve its stated length, up to 4 GB."""
    position = 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if position + 12 + length > len(data):
            raise _unreadable(name, data, "a truncated PNG, or one with a wrong chunk length")
        if data[position + 4 : position + 8] == b"IEND":
            return
        position += 12 + length
    raise _unreadable(name, data, "a truncated PNG without an end chunk")


def _format(data: bytes, pillow_format: str | None) -> str:
    """The format by signature, else as Pillow names it; lower case."""
    by_pillow = (pillow_format or "unknown").lower()
    return next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), by_pillow)


def _unreadable(name: str, data: bytes, reason: str) -> BadImage:
    content = f"{len(data):,} bytes, {reason}" if data else "an empty file"
    return BadImage(f"{name} cannot be read as an image: {content}")
