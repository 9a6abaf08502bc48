"""Saliency detectors: an image (H, W, 3) uint8 RGB -> a map (H, W) float32 in [0, 1], higher where the object is.

A detector is a module with `saliency_map(rgb)` and `SETTINGS`, its constants as a shard set's manifest records them.
Every detector is deterministic, uses one thread, and answers any image down to one pixel; on an image without
contrast the map is all zeros. To add one, write the module and its row here.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np

from fgdata.errors import InputError


class Detector(Protocol):
    """What a detector's module offers."""

    SETTINGS: dict[str, Any]
    """The constants that decide the map, JSON-able."""

    def saliency_map(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]."""
        ...


@dataclass(frozen=True)
class DetectorRow:
    """A detector as `fgdata list` shows it."""

    module: str | None
    """Imported when first asked for; None where the box needs no map."""
    about: str


DETECTORS = {
    "rbd": DetectorRow("fgdata.saliency.rbd", "robust background detection, Zhu et al., CVPR 2014"),
    "spectral-residual": DetectorRow("fgdata.saliency.spectral_residual", "spectral residual, Hou & Zhang, CVPR 2007"),
    "gt": DetectorRow(None, "the dataset's own box, the largest where there are several; no map"),
}


def detector(name: str) -> Detector:
    """The named detector's module; `gt` has none, its boxes are the annotations."""
    row = DETECTORS.get(name)
    if row is None or row.module is None:
        maps = ", ".join(key for key, known in DETECTORS.items() if known.module)
        found = "is not a detector" if row is None else "has no saliency map"
        raise InputError(
            f"{name!r} {found}; maps come from: {maps}. `fgdata list` describes all of {', '.join(DETECTORS)}."
        )
    return cast(Detector, import_module(row.module))
