"""Operations on boxes: the two baselines, overlap, and clipping boxes in pixels to an image.

A box is (l, t, w, h), float32, in [0, 1] of the image's width and height.
"""

import numpy as np

from ..errors import BadImage

WHOLE = np.array([0.0, 0.0, 1.0, 1.0], np.float32)
"""Baseline: the whole image."""
CENTRED = np.array([0.15, 0.15, 0.7, 0.7], np.float32)
"""Baseline: the centred box with 70 % of each side."""


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(..., 4), (..., 4) boxes, broadcast -> (...) float64 intersection over union; 0 for two boxes without area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    common = np.maximum(high - low, 0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


LEAST_SIDE = 1e-6
"""Of a box, a share of the image's side: a shard set has seven decimals."""


def clip_boxes(boxes, width: int, height: int) -> tuple[np.ndarray, bool]:
    """Converts boxes from pixels to fractions of the image, and clips them to it.

    Args:
        boxes: (n, 4) boxes (l, t, w, h) in pixels, any real type; n may be 0.
        width: The image's width in pixels.
        height: Its height.

    Returns:
        (n, 4) float32 in [0, 1], and whether a box was clipped. An overrun of less than a pixel comes from
        rounding and does not count.

    Raises:
        BadImage: a box is not finite or has no area inside the image.
    """
    pixels = np.asarray(boxes, np.float64).reshape(-1, 4)
    size = np.array([width, height], np.float64)
    low = np.minimum(np.maximum(pixels[:, :2], 0), size)
    high = np.minimum(np.maximum(pixels[:, :2] + pixels[:, 2:], 0), size)
    bad = ~(np.isfinite(pixels).all(1) & ((high - low) / size >= LEAST_SIDE).all(1))
    if bad.any():
        raise BadImage(
            f"box (l, t, w, h) = {tuple(pixels[bad][0].tolist())} has no area inside its {width} x {height} image",
            "Correct it in the dataset's list of boxes",
        )
    outside = np.maximum(-pixels[:, :2], pixels[:, :2] + pixels[:, 2:] - size)
    return np.hstack([low / size, (high - low) / size]).astype(np.float32), bool((outside >= 1).any())
