"""What a loader opens first: whose boxes, the mattes, and the backend."""

import importlib.util
from typing import TYPE_CHECKING

from ..cores import share_of_cores
from ..errors import InputError
from ..shards.reader import ShardSet
from .spec import ViewSpec

if TYPE_CHECKING:
    import torch

    from .mattes import Mattes


def choose_detector(shards: ShardSet, detector: str | None) -> str:
    """The given detector, or the default one. InputError if the set has no such boxes."""
    available = ", ".join(shards.detectors) or "none"
    if detector is not None and detector not in shards.detectors:
        raise InputError(
            f"{shards.path} has no boxes by {detector!r}; it has: {available}. Choose one of them, or add them to the "
            f"set: fgdata add {shards.path} --saliency {detector}"
        )
    if not shards.detectors:
        raise InputError(
            f"{shards.path} has no boxes, which these views need. Add some: fgdata add {shards.path} --saliency rbd"
        )
    return detector or next((name for name in shards.detectors if name != "gt"), "gt")


def open_mattes(shards: ShardSet, split: str, detector: str | None) -> "Mattes":
    """The mattes of a split. InputError if the set has no maps by the detector."""
    from .mattes import Mattes  # loads OpenCV

    return Mattes(shards, split, detector or "")


def start(
    views: ViewSpec,
    batch_size: int,
    backend: str,
    threads: int | None,
    device: "str | torch.device",
    *,
    world_size: int,
    other_sets: bool,
) -> tuple:
    """Starts the backend -> (torch device, backend)."""
    try:
        import torch
    except ImportError:
        raise InputError("Loading views needs torch, which is not installed: pip install torch") from None
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {device}, but torch finds no CUDA device; allowed: cpu.")
    if backend not in ("auto", "threads", "dali"):
        raise InputError(f"backend is {backend!r}; allowed: auto, threads, dali.")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; allowed: 1 or more; omit it for all available cores.")
    threads = threads or share_of_cores(world_size)
    if backend == "dali" or (backend == "auto" and place.type == "cuda" and _has_dali()):
        from .dali import Dali

        return place, Dali(views, max(2, batch_size), threads, place, other_sets=other_sets)
    from .threads import Threads

    return place, Threads(views, threads, pinned=place.type == "cuda")


def _has_dali() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False
