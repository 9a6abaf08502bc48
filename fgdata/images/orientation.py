"""EXIF orientation: how a stored image is turned to be upright.

1 is upright, 2 mirrored, 3 upside down, 4 flipped, 5 transposed, 6 to be turned clockwise, 7 transversed, 8 to be
turned counterclockwise. For 5 to 8 the upright image is as wide as the stored one is high.
"""

import io

import numpy as np

from . import jpeg

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""Formats that Pillow may open. Some of its others start programs (EPS) or are not images."""
_MIRRORED, _FLIPPED, _TRANSPOSED = (2, 3, 7, 8), (3, 4, 6, 7), (5, 6, 7, 8)

PixelBox = tuple[float, float, float, float]


def read_orientation(data: bytes) -> int:
    """The EXIF (or XMP) orientation of an encoded image, 1 to 8; 1 if it states none.

    A TIFF is always 1: decoders apply its orientation.
    """
    if data.startswith(jpeg.START):
        return jpeg.read_orientation(data)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            value = 1 if image.format == "TIFF" else image.getexif().get(0x0112, 1)
    except MemoryError:
        raise
    except Exception:  # Pillow raises many kinds of exceptions on damaged EXIF
        return 1
    return value if value in range(1, 9) else 1


def swaps_sides(orientation: int) -> bool:
    """Whether the upright image is as wide as the stored one is high."""
    return orientation in _TRANSPOSED


def turn_upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, 3) as stored -> (H, W, 3) or (W, H, 3) upright, as Pillow's `exif_transpose` does."""
    if orientation in _MIRRORED:
        rgb = rgb[:, ::-1]
    if orientation in _FLIPPED:
        rgb = rgb[::-1]
    if orientation in _TRANSPOSED:
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(rgb)


def box_to_stored(box: PixelBox, orientation: int, width: int, height: int) -> PixelBox:
    """A box (l, t, w, h) in pixels of the upright image -> the same box in pixels of the stored one.

    width, height: of the stored image.
    """
    left, top, wide, high = box
    if orientation in _TRANSPOSED:
        left, top, wide, high = top, left, high, wide
    if orientation in _MIRRORED:
        left = width - left - wide
    if orientation in _FLIPPED:
        top = height - top - high
    return left, top, wide, high
