"""No detector: a flat map, whose box is the whole image. A control that shows what boxes contribute."""

import numpy as np

from ..boxes.objective import ANY_TAU

LEAST_SIDE = 1
"""The image is not looked at."""
TAU = ANY_TAU
SETTINGS: dict[str, int] = {"least_side": LEAST_SIDE}


def saliency_map(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32 zeros."""
    return np.zeros(rgb.shape[:2], np.float32)
