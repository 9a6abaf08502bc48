"""Mattes: how much of each cell of an image is object, from the saliency maps of a shard set (maps.h5)."""

from typing import NamedTuple

import cv2
import numpy as np

from ..errors import InputError
from ..shards.maps import MAPS, MapFile
from ..shards.reader import ShardSet
from ..shards.rebuild import build_beside
from ..stores.place import need_local

SOFT = 0.2
"""Width of a matte's soft edge around the threshold, as a share of the map's range (ours)."""


class Matte(NamedTuple):
    """The matte of one image."""

    alpha: np.ndarray  # (SIDE, SIDE) uint8, 255 on the object; all 255 for a constant map
    box: np.ndarray  # (4,) float32 in [0, 1], the extents of the cells above the threshold; no area for a constant map


def matte(saliency: np.ndarray) -> Matte:
    """(SIDE, SIDE) map of any range -> its matte: clip(1/2 + (S - theta) / (SOFT range), 0, 1), theta by Otsu."""
    low, high = saliency.min(), saliency.max()
    if not np.isfinite(low + high) or high <= low:
        return Matte(np.full(saliency.shape, 255, np.uint8), np.zeros(4, np.float32))
    levels = np.rint(255 * (saliency - low) / (high - low)).astype(np.uint8)
    theta, above = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    alpha = np.clip(0.5 + (levels - theta) / (SOFT * 255), 0, 1)
    left, top, width, height = cv2.boundingRect(above)
    box = np.array([left, top, width, height], np.float32) / np.float32(saliency.shape[0])
    return Matte(np.rint(255 * alpha).astype(np.uint8), box)


class Mattes:
    """The mattes of a split by number, 0 to len - 1. Thread-safe, as h5py is."""

    def __init__(self, shards: ShardSet, split: str, detector: str):
        """Opens the maps of a detector. InputError if the set has none."""
        if detector == "gt" or "maps" not in shards.manifest:
            command = build_beside(shards.path, shards.manifest, "-maps", keep_maps=True)
            raise InputError(
                f"{shards.path} has no saliency maps by {detector}, which the crop matte-paste and mattes need. Choose "
                f"a detector other than gt, of a set built with maps: {command}"
            )
        self._file, self._detector = MapFile(need_local(shards.path, "Reading maps.h5") / MAPS), detector
        self._shards, self._split = shards, split

    def read(self, number: int) -> Matte:
        """The matte of a sample of the split. InputError if the file is damaged."""
        return matte(self._file.read(self._detector, self._shards.map_row(self._split, number)))
