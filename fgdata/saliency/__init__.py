"""Saliency detectors: an image (H, W, 3) uint8 RGB -> a map (H, W) float32 in [0, 1], higher where the object is.

A detector is a module with `saliency_map(rgb)` and `SETTINGS`, the constants that a shard set's manifest records. Four
more names are optional:

    TAU                      the constant of max-excess (boxes/objective.py) that suits the maps; else ANY_TAU
    LEAST_SIDE               the detector works on a small image; a build decodes JPEGs at the smallest scale at which
                             both sides are at least this many pixels
    USES_SUPERPIXELS = True  `saliency_map` takes the image's superpixels as its second argument; a build computes
                             them once and passes them to all such detectors
    files(argument)          the files that the detector reads: the path of the first, and the names of all, relative to
                             its folder. A machine of a Ray cluster that lacks them gets copies (copies.py)

A detector that reads a file or a folder is written FAMILY:PATH, possibly with settings, `onnx:u2net.onnx,size=288`. Its
module has `detector(argument)`, which returns an object with `saliency_map`, `SETTINGS` and `TAU`. A module that has
both several detectors and `detector` gets the whole name as the argument (learned.py).
Every detector is deterministic, uses one thread, and accepts any image down to one pixel; the map of an image without
contrast is all zeros. To add a detector, write its module and add its row to DETECTORS.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from ..boxes.objective import ANY_TAU, Objective
from ..errors import DetectorError, InputError, printable, suggest
from ..shards.schema import NAME

if TYPE_CHECKING:
    from .maps_folder import MapsFolder
    from .superpixels import Superpixels


__all__ = ["DETECTORS", "Detector", "DetectorRow", "detector", "saliency_map"]


class Detector(Protocol):
    """The interface of a detector."""

    SETTINGS: dict[str, Any]
    """The constants that determine the map; JSON-serialisable."""
    TAU: float
    """The tau of max-excess that suits the maps; docs/saliency.md says how it was chosen."""

    def saliency_map(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]."""
        ...


@dataclass(frozen=True)
class DetectorRow:
    """One row of `fgdata list`."""

    module: str | None
    """Imported on first use; None if the box needs no map."""
    about: str
    """One line for `fgdata list`."""
    runs_network: bool = False
    """Whether it runs on onnxruntime, with a choice of execution provider and threads."""
    trained_on: str = "nothing"
    """Whose images and labels determined its weights or constants. Column of `fgdata score` and of docs/saliency.md."""
    sharers: int = 1
    """Workers of a node of a Ray cluster for which one process opens it, because that takes much memory or time. Its
    `saliency_map` then runs on as many threads at once. 1: every worker opens it."""


WEIGHTS = (".pth", ".pt", ".ckpt", ".tar", ".bin", ".safetensors")
"""Suffixes of files that a detector's name in a shard set leaves out."""
ONNX_SHARERS = 16
"""onnxruntime computes without Python's lock."""
DETECTORS = {
    "rbd": DetectorRow("fgdata.saliency.rbd", "robust background detection, Zhu et al., CVPR 2014"),
    "rbd-centred": DetectorRow(
        "fgdata.saliency.rbd_centred",
        "rbd with a centre prior and a second pass (ours): better boxes for images of one object",
        trained_on="constants: half of cub50, duts300",
    ),
    "gs": DetectorRow("fgdata.saliency.gs", "geodesic saliency, Wei et al., ECCV 2012"),
    "spectral-residual": DetectorRow("fgdata.saliency.spectral_residual", "spectral residual, Hou & Zhang, CVPR 2007"),
    "vsf": DetectorRow("fgdata.saliency.vsf", "fine-grained visual saliency, Montabone & Soto, 2010"),
    "u2netp": DetectorRow(
        "fgdata.saliency.learned",
        "small U2-Net, Qin et al., 2020; 4.6 MB (fgdata fetch-model u2netp)",
        runs_network=True,
        sharers=ONNX_SHARERS,
        trained_on="masks of DUTS-TR",
    ),
    "u2net": DetectorRow(
        "fgdata.saliency.learned",
        "U2-Net, Qin et al., 2020; 176 MB (fgdata fetch-model u2net)",
        runs_network=True,
        sharers=ONNX_SHARERS,
        trained_on="masks of DUTS-TR",
    ),
    "isnet": DetectorRow(
        "fgdata.saliency.learned",
        "IS-Net for general use, Qin et al., ECCV 2022; 179 MB (fgdata fetch-model isnet)",
        runs_network=True,
        sharers=ONNX_SHARERS,
        trained_on="masks of DIS5K and others, not listed",
    ),
    "birefnet-lite": DetectorRow(
        "fgdata.saliency.learned",
        "BiRefNet, general, Swin-T, Zheng et al., 2024; 224 MB (fgdata fetch-model birefnet-lite)",
        runs_network=True,
        sharers=ONNX_SHARERS,
        trained_on="masks of DIS5K, DUTS, HRSOD, UHRSD, P3M and others",
    ),
    "onnx:FILE": DetectorRow(
        "fgdata.saliency.onnx_model",
        "a salient-object network (U2-Net, BASNet) exported to ONNX; needs onnxruntime",
        runs_network=True,
        sharers=ONNX_SHARERS,
        trained_on="unknown",
    ),
    "maps:DIR": DetectorRow(
        "fgdata.saliency.maps_folder",
        "maps computed elsewhere: a greyscale image named like each image",
        trained_on="unknown",
    ),
    "whole": DetectorRow("fgdata.saliency.whole", "the whole image: a control that shows what boxes contribute"),
    "gt": DetectorRow(
        None,
        "the dataset's own box, the largest where there are several; no map",
        trained_on="it is the ground truth",
    ),
}


def detector(name: str) -> "Detector | MapsFolder":
    """Opens a detector.

    Args:
        name: A name of DETECTORS, with the path after the colon: `rbd`, `onnx:u2net.onnx`, `maps:out/basnet`.

    Raises:
        InputError: the name is unknown, it is `gt` (which has boxes but no maps), or its file cannot be used.
    """
    family, separator, rest = _split(name)
    key = find_row(name)
    row = DETECTORS.get(key)
    if row is None or row.module is None:
        with_maps = ", ".join(key for key, other in DETECTORS.items() if other.module)
        problem = f"is not a detector.{suggest(name, DETECTORS)}" if row is None else "has no saliency map."
        raise InputError(
            f"{name!r} {problem} Detectors with maps: {with_maps}. Run `fgdata list` for a description of each. "
            "For one of your own, add --plugin MODULE (docs/extending.md)"
        )
    module = import_module(row.module)
    allowed = (":",) if ":" in key else ("", ",") if hasattr(module, "detector") else ("",)
    if separator not in allowed or (separator and not rest):
        raise InputError(f"{name!r} is not a valid form of {family}. Use --saliency {key}")
    if not hasattr(module, "detector"):
        return cast(Detector, module)
    return module.detector(rest if ":" in key else name)


def find_row(name: str) -> str:
    """The key in DETECTORS of a detector's name: onnx:u2net.onnx -> onnx:FILE; "" if there is none."""
    return next((key for key in DETECTORS if key.partition(":")[0] == _split(name)[0]), "")


def component(name: str) -> str:
    """Converts a detector's name to its name in a shard set, which has no colon, slash or dot.

    rbd -> rbd; onnx:models/U2-Net.onnx -> onnx-u2-net; maps:out/basnet_maps -> maps-basnet-maps;
    scda:runs/byol -> scda-byol; scda:lite0.pth,backbone=tf_efficientnet_lite0 -> scda-lite0
    """
    family, separator, argument = _split(name)
    if separator != ":":
        return family
    path = Path(argument if family == "maps" else argument.partition(",")[0]).expanduser()
    weights = family == "onnx" or (family != "maps" and path.suffix in WEIGHTS)
    words = re.findall("[a-z0-9]+", (path.stem if weights else path.resolve().name).lower())
    return "-".join([family, *words])


def _split(name: str) -> tuple[str, str, str]:
    """onnx:a.onnx,size=32 -> onnx : a.onnx,size=32; u2netp,threads=2 -> u2netp , threads=2; rbd -> rbd and twice ""."""
    family = re.split("[:,]", name, maxsplit=1)[0]
    return family, name[len(family) : len(family) + 1], name[len(family) + 1 :]


def saliency_map(name: str, rgb: np.ndarray, file: str, graph: "Superpixels | None" = None) -> np.ndarray:
    """Computes an image's saliency map with the named detector.

        rgb = fgdata.images.decode(Path("bird.jpg").read_bytes(), "bird.jpg")
        saliency = saliency_map("rbd", rgb, "bird.jpg")
        box, _ = fgdata.boxes.objective.solve(saliency, suit(Objective(), "rbd"))

    Args:
        name: The detector, as in `detector`.
        rgb: (H, W, 3) uint8 RGB.
        file: The image's path in the dataset; maps:DIR finds the map by it.
        graph: The image's superpixels; computed if None and needed. Pass them to share one segmentation.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        InputError: the detector cannot be opened, or its map of this image cannot be used. A DetectorError if a
            network fails on this image, or if a plug-in's map has another size, or values outside [0, 1].
    """
    opened = _open(name)
    if name.startswith("maps:"):
        return opened.saliency_map(rgb, file)
    row = DETECTORS.get(find_row(name))
    if row and row.runs_network:
        try:
            return opened.saliency_map(rgb)
        except InputError as fault:  # it ran on another image: its provider, or the model, fails on this one
            raise DetectorError(f"{printable(file)}: {fault}") from None
    images = (rgb, graph) if uses_superpixels(name) else (rgb,)
    if row is None or row.module is None or row.module.startswith("fgdata."):
        return opened.saliency_map(*images)
    try:
        saliency = np.asarray(opened.saliency_map(*images), np.float32)
    except Exception as fault:
        fault.add_note(f"{printable(file)}: this image was given to the detector {name} ({row.module}).")
        raise
    _check_map(saliency, rgb, f"{printable(file)}: the map of {name} ({row.module})")
    return saliency


def _check_map(saliency: np.ndarray, rgb: np.ndarray, what: str) -> None:
    """DetectorError unless the map of another package's detector has the image's size and values in [0, 1]."""
    if saliency.shape != rgb.shape[:2]:
        raise DetectorError(f"{what} has the shape {saliency.shape}; allowed: that of the image, {rgb.shape[:2]}.")
    low, high = float(saliency.min()), float(saliency.max())
    if not -1e-6 <= low <= high <= 1 + 1e-6:  # rounding; a NaN fails too
        raise DetectorError(f"{what} has values from {low:g} to {high:g}; allowed: 0 to 1.")


def uses_superpixels(name: str) -> bool:
    """Whether the named detector takes the image's superpixels as its second argument."""
    return getattr(_open(name), "USES_SUPERPIXELS", False)


def least_side(name: str) -> int | None:
    """The least side in pixels that the named detector needs (see `images.decode`); None if it needs full size."""
    return getattr(_open(name), "LEAST_SIDE", None)


def own_settings(name: str) -> dict[str, Any]:
    """What a manifest records about the named detector: its SETTINGS and its TAU; nothing about `gt`."""
    if name == "gt":
        return {}
    opened = _lent.get(name) or detector(name)
    return {**opened.SETTINGS, "tau": getattr(opened, "TAU", ANY_TAU)}


def own_tau(stored: str) -> float:
    """The TAU of a detector, by its name in a shard set (see `component`); ANY_TAU if this version does not know it."""
    row = row_of(stored)
    if row is None or row.module is None:
        return ANY_TAU
    return getattr(import_module(row.module), "TAU", ANY_TAU)


def row_of(stored: str) -> DetectorRow | None:
    """The row of a detector, by its name in a shard set; None if this version does not know it."""
    family = stored if stored in DETECTORS else stored.partition("-")[0]
    return next((row for key, row in DETECTORS.items() if key.partition(":")[0] == family), None)


def suit(objective: Objective, name: str) -> Objective:
    """The objective for the maps of the named detector: a tau of "own" is replaced by the detector's TAU."""
    return objective.suit(getattr(_open(name), "TAU", ANY_TAU))


def own_files(name: str) -> tuple[str, list[str]]:
    """The files that the named detector reads: the path of the first, and the names of all, relative to its folder."""
    row = DETECTORS[find_row(name)]
    module = import_module(row.module) if row.module else None
    argument = _split(name)[2] if ":" in find_row(name) else name
    return module.files(argument) if module and hasattr(module, "files") else ("", [])


_lent: dict[str, Any] = {}


def lend(name: str, opened: Any) -> None:
    """Sets what this process uses as the named detector; None: it opens the detector itself."""
    _lent[name] = opened


def _open(name: str) -> Any:
    return _lent.get(name) or open_once(name)


@lru_cache(maxsize=8)
def open_once(name: str) -> Any:
    """The named detector, opened in this process when it is first asked for."""
    return detector(name)


def with_onnx(names: Sequence[str], provider: str, threads: int) -> tuple[str, ...]:
    """Names of detectors -> the same with an execution provider and a number of threads, where they run a network.

    u2netp -> u2netp,provider=cuda; rbd stays rbd. A setting that a name already has is kept.
    Raises InputError if one is given and no detector runs a network.
    """
    settings = {"provider": provider, "threads": str(threads)}
    chosen = {key: value for key, value in settings.items() if value not in ("cpu", "1")}
    networks = {name for name in names if (row := DETECTORS.get(find_row(name))) and row.runs_network}
    if chosen and not networks and all(map(find_row, names)):
        given = " ".join(f"--onnx-{key} {value}" for key, value in chosen.items())
        those = ", ".join(key for key, row in DETECTORS.items() if row.runs_network)
        raise InputError(
            f"{given} has no effect: onnxruntime runs none of the detectors ({', '.join(names)}). "
            f"Omit it, or name one of {those}."
        )
    added = {name: [f",{key}={value}" for key, value in chosen.items() if f",{key}=" not in name] for name in networks}
    return tuple(name + "".join(added.get(name, ())) for name in names)


def check_available(names: Sequence[str], files: Iterable[str]) -> None:
    """Checks that detectors can be used together on a dataset.

    Args:
        names: Detectors, as in `detector`.
        files: Paths of the dataset's images, relative to its folder.

    Raises:
        InputError: two detectors get the same name in a shard set, one gets a name that a set cannot have, or maps:DIR
            lacks a map.
    """
    name_of_component: dict[str, str] = {}
    for name in names:
        stored = component(name)
        if find_row(name) and not re.fullmatch(NAME, stored):  # what is unknown has its own message
            raise InputError(
                f"{name} would be called {stored} in the set. Allowed: 1 to 80 of a-z, 0-9 and -. Rename the file "
                "or folder, or for a plug-in the detector."
            )
        other = name_of_component.setdefault(stored, name)
        if other != name:
            raise InputError(f"{other} and {name} would both be called {stored} in the set. Rename one file.")
    files = list(files)
    for name in names:
        if name.startswith("maps:"):
            cast("MapsFolder", detector(name)).check_complete(files)
