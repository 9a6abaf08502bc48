"""Detectors that choose some of a ViT's patches by the keys of its last block: tokencut and lost."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from .weights import Source

TAU = 0.1
"""Of max-excess (ours): the box is then that of the region, as in both papers. Not chosen by figures."""


class Region:
    """A detector (fgdata/saliency/__init__.py) whose map is 1 in a region of patches, and 0 elsewhere.

    Args:
        source: The network.
        constants: Those of the method, for the manifest.
        find: (h, w, C) float64 keys -> (h, w) bool, the region.

    Raises:
        InputError: the network has no keys.
    """

    TAU = TAU

    def __init__(self, source: "Source", constants: dict[str, Any], find: Callable[[np.ndarray], np.ndarray]) -> None:
        from ..networks.keys import check_has_keys

        check_has_keys(source.encoder, source.name)
        self._source, self._find = source, find
        self.SETTINGS = {**source.settings, **constants}

    def saliency_map(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]; zeros for an image of one colour."""
        height, width = rgb.shape[:2]
        if (rgb == rgb[0, 0]).all():
            return np.zeros((height, width), np.float32)
        region = self._find(self._source.keys(rgb)).astype(np.float32)
        return cv2.resize(region, (width, height), interpolation=cv2.INTER_LINEAR)


def around(seed: int, mask: np.ndarray) -> np.ndarray:
    """(h, w) bool -> its connected component, of four neighbours each, around the seed, an index of mask.flat."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return labels == labels.flat[seed]
