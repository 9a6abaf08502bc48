"""Saliency detectors: an image (H, W, 3) uint8 RGB -> a map (H, W) float32 in [0, 1], higher where the object is.

A detector is a module with `saliency_map(rgb)` and `SETTINGS`, its constants as a shard set's manifest records them.
One that works on a small image anyway may say so: with LEAST_SIDE it gets JPEGs decoded as small as that allows. One
with USES_SUPERPIXELS = True takes the image's superpixels as a second argument; they are made once for all of these.
One that needs a file or a folder is named with it behind a colon; its module has `detector(argument)`, which returns an
object with those two names.
Every detector is deterministic, uses one thread, and answers any image down to one pixel; on an image without
contrast the map is all zeros. To add one, write the module and its row here.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from .maps_folder import MapsFolder
    from .superpixels import Superpixels


class Detector(Protocol):
    """What a detector offers."""

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
    "rbd-centred": DetectorRow(
        "fgdata.saliency.rbd_centred", "rbd with a centre prior and a second pass (ours): better boxes of single things"
    ),
    "gs": DetectorRow("fgdata.saliency.gs", "geodesic saliency, Wei et al., ECCV 2012"),
    "spectral-residual": DetectorRow("fgdata.saliency.spectral_residual", "spectral residual, Hou & Zhang, CVPR 2007"),
    "vsf": DetectorRow("fgdata.saliency.vsf", "fine-grained visual saliency, Montabone & Soto, 2010"),
    "onnx:FILE": DetectorRow(
        "fgdata.saliency.onnx_model", "a salient-object network (U2-Net, BASNet) exported to ONNX; needs fgdata[onnx]"
    ),
    "maps:DIR": DetectorRow("fgdata.saliency.maps_folder", "maps made elsewhere: a grey image by each image's name"),
    "gt": DetectorRow(None, "the dataset's own box, the largest where there are several; no map"),
}


def detector(name: str) -> "Detector | MapsFolder":
    """The named detector; `gt` has none, its boxes are the annotations."""
    family, _, argument = name.partition(":")
    key = next((key for key in DETECTORS if key.partition(":")[0] == family), "")
    row = DETECTORS.get(key)
    if row is None or row.module is None:
        maps = ", ".join(key for key, known in DETECTORS.items() if known.module)
        found = "is not a detector" if row is None else "has no saliency map"
        raise InputError(
            f"{name!r} {found}; maps come from: {maps}. `fgdata list` describes all of {', '.join(DETECTORS)}."
        )
    if (":" in key) != bool(argument):
        raise InputError(f"{name!r} is not how {family} is asked for. Write --saliency {key}")
    module = import_module(row.module)
    return module.detector(argument) if argument else cast(Detector, module)


def component(name: str) -> str:
    """A detector's name -> its name in a shard set: no colon, slash or dot.

    rbd -> rbd; onnx:models/U2-Net.onnx -> onnx-u2-net; maps:out/basnet_maps -> maps-basnet-maps
    """
    family, colon, argument = name.partition(":")
    if not colon:
        return name
    path = Path(argument.partition(",")[0] if family == "onnx" else argument).expanduser()
    words = re.findall("[a-z0-9]+", (path.stem if family == "onnx" else path.resolve().name).lower())
    return "-".join([family, *words])


def saliency_map(name: str, rgb: np.ndarray, file: str, graph: "Superpixels | None" = None) -> np.ndarray:
    """The named detector's map of an image.

    file: the image's path in the dataset, by which maps:DIR finds the map.
    graph: the image's superpixels, so that several detectors that use them share one segmentation.
    """
    found = _opened(name)
    if name.startswith("maps:"):
        return found.saliency_map(rgb, file)
    return found.saliency_map(rgb, graph) if uses_superpixels(name) else found.saliency_map(rgb)


def uses_superpixels(name: str) -> bool:
    """Whether the named detector works on superpixels, and takes them as a second argument."""
    return getattr(_opened(name), "USES_SUPERPIXELS", False)


def least_side(name: str) -> int | None:
    """Both sides in pixels that the named detector needs at least (`images.decode`); None: it wants every pixel."""
    return getattr(_opened(name), "LEAST_SIDE", None)


@lru_cache(maxsize=8)
def _opened(name: str) -> Any:
    return detector(name)


def require(names: Sequence[str], files: Iterable[str]) -> None:
    """InputError unless all of these detectors can be had, together, for all of these files of a dataset."""
    asked: dict[str, str] = {}
    for name in names:
        other = asked.setdefault(component(name), name)
        if other != name:
            raise InputError(f"{other} and {name} would both be called {component(name)} in the set. Rename a file.")
    files = list(files)
    for name in names:
        if name.startswith("maps:"):
            cast("MapsFolder", detector(name)).require(files)
