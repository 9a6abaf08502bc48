"""Decodes images to RGB pixels and encodes JPEG. The content decides the format, not the file name.

EXIF orientation is ignored everywhere: width, height and boxes are those of the stored pixel grid, as the annotators of
these datasets saw it. In a TIFF the orientation is part of the format rather than EXIF, and both decoders apply it.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np

from .errors import InputError

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_SIGNATURES = {b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tiff", b"MM\0*": "tiff"}
_FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0-15 without DHT, JPG and DAC
_MOST_PIXELS, _MOST_SIDE = 1 << 30, 1 << 20  # OpenCV's limits, unless its environment variables change them
CHROMA = {"420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444}
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
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


def header(data: bytes, name: str) -> Header:
    """Format and size of an encoded image, without decoding its pixels.

    `name` names the image in messages. InputError if the bytes are not a complete image, or one larger than `decode`
    accepts.
    """
    frame = _jpeg_header(data, name) if data.startswith(_JPEG_START) else _header_with_pillow(data, name)
    if frame.width * frame.height > _MOST_PIXELS or max(frame.width, frame.height) > _MOST_SIDE:
        limit = f"at most {_MOST_PIXELS:,} pixels and {_MOST_SIDE:,} per side are allowed"
        raise _unreadable(name, data, f"{frame.width:,} x {frame.height:,} pixels; {limit}")
    return frame


def decode(data: bytes, name: str, least_side: int | None = None) -> np.ndarray:
    """Encoded bytes -> (H, W, 3) uint8 RGB. Grey is repeated, alpha is dropped (as Pillow's convert("RGB") does).

    Args:
        data: The encoded image. OpenCV decodes what it can, Pillow the rest.
        name: Names the image in messages.
        least_side: If given, a JPEG is decoded at a half, quarter or eighth of its size (sides rounded up), as long as
            both sides keep at least this many pixels. Its blocks are transformed to fewer pixels, which saves most of
            the decoding time. Default: full size.

    Raises InputError if the bytes are not a complete image.

        rgb = decode(Path("bird.jpg").read_bytes(), "bird.jpg")
    """
    flags = _FLAGS
    if data.startswith(_JPEG_START):
        frame = header(data, name)
        side = min(frame.width, frame.height)
        flags |= next((flag for by, flag in _REDUCED if least_side and side >= by * least_side), 0)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if pixels is None:
        pixels = _decode_with_pillow(data, name)
    return pixels


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


def _jpeg_header(data: bytes, name: str) -> Header:
    """Reads the marker segments up to the first scan. Requires an end marker after it, which truncated files lack."""
    position = 2
    frame = None
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 0x01:  # fill bytes and markers without a segment
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _FRAME_MARKERS and position + 10 <= len(data):
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            frame = Header("jpeg", width, height, data[position + 9])
        if marker == 0xDA:
            break
        position += 2 + length
    if frame is None or not frame.width or not frame.height:
        raise _unreadable(name, data, "a JPEG without a frame header")
    if data.rfind(_JPEG_END, position) < 0:
        raise _unreadable(name, data, "a truncated JPEG without an end marker")
    return frame


def _header_with_pillow(data: bytes, name: str) -> Header:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return Header(_format(data, image.format), image.width, image.height, len(image.getbands()))
    except UnidentifiedImageError:
        raise _unreadable(name, data, "not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:
        raise _unreadable(name, data, str(fault)) from None


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise _unreadable(name, data, "not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:
        raise _unreadable(name, data, str(fault)) from None


def _format(data: bytes, pillow_format: str | None) -> str:
    """The format by signature, else as Pillow names it; lower case."""
    by_pillow = (pillow_format or "unknown").lower()
    return next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), by_pillow)


def _unreadable(name: str, data: bytes, reason: str) -> InputError:
    content = f"{len(data):,} bytes, {reason}" if data else "an empty file"
    return InputError(
        f"{name} cannot be read as an image: {content}. Restore the file, or skip such images: --on-bad-image skip"
    )
