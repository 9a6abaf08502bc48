"""`scda:WEIGHTS`: where a network's last maps are active, unlike the border of the image.

Wei et al., "Selective Convolutional Descriptor Aggregation for Fine-Grained Image Retrieval", IEEE TIP 2017, add up the
channels of the last map and keep the positions above the mean. Here the sum is multiplied by a distance from the
border (ours), which as in RBD and GS shows mostly background, and by the same product one level below, as the paper
intersects two layers. For the map f_p (C,) at position p of a level, with b the mean of f over the border,

    m_p = unit(sum_c |f_pc|) unit(1 - cos(f_p, b)),    S = unit(product over levels of unit(m))

where unit scales to [0, 1]. After a ReLU, as in the paper, |f| = f.
"""

from typing import TYPE_CHECKING

import cv2
import numpy as np

from . import check_packages
from . import files as files

if TYPE_CHECKING:
    from .weights import Source

TAU = 0.75
"""Of max-excess; chosen with EfficientNet-Lite0 on the even-numbered images of cub50 (docs/saliency.md)."""
FLAT = 1e-6
"""A plane that varies by no more than this share of its maximum is constant."""


class Scda:
    """A detector (fgdata/saliency/__init__.py)."""

    TAU = TAU

    def __init__(self, source: "Source") -> None:
        self._source = source
        self.SETTINGS = {**source.settings, "version": 1}

    def saliency_map(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]; zeros for an image of one colour."""
        height, width = rgb.shape[:2]
        if (rgb == rgb[0, 0]).all():
            return np.zeros((height, width), np.float32)
        planes = [plane(level) for level in self._source.maps(rgb)]
        rows, columns = max(each.shape for each in planes)
        product = np.ones((rows, columns))
        for each in planes:
            product *= cv2.resize(each, (columns, rows), interpolation=cv2.INTER_LINEAR)
        return cv2.resize(unit(product).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def plane(level: np.ndarray) -> np.ndarray:
    """(C, h, w) map of one level -> (h, w) in [0, 1]; zeros if all positions are alike."""
    border = np.concatenate([level[:, 0], level[:, -1], level[:, 1:-1, 0], level[:, 1:-1, -1]], 1).mean(1)  # (C,)
    norms = np.linalg.norm(level, axis=0) * np.linalg.norm(border)
    cosine = np.tensordot(border, level, 1) / np.maximum(norms, 1e-12)
    return unit(unit(np.abs(level).sum(0)) * unit(1 - cosine))


def unit(x: np.ndarray) -> np.ndarray:
    """Scales to [0, 1]; zeros if x is constant."""
    low, high = x.min(), x.max()
    return (x - low) / (high - low) if high - low > FLAT * max(abs(low), abs(high)) else np.zeros_like(x)


def detector(argument: str) -> Scda:
    """Opens `WEIGHTS[,backbone=NAME][,size=N]` (weights.py)."""
    check_packages(f"scda:{argument}")
    from .weights import open_source

    return Scda(open_source("scda", argument))
