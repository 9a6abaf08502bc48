"""What a loader opens first: whose boxes, the mattes, and the backend."""

import importlib.util
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..cores import share_of_cores
from ..errors import InputError
from ..shards.reader import ShardSet, meta
from ..stores.place import Url, place
from .spec import ViewSpec

if TYPE_CHECKING:
    import torch

    from .mattes import Mattes
    from .pool import Buffers


def open_set(where: "str | Path | ShardSet", cache_dir: "str | Path | None" = None, cache_gb: float = 50.0) -> ShardSet:
    """The set at a place, with copies in the folder if it is remote; a set that is open is returned as it is."""
    if not isinstance(where, str | Path):
        return where
    return ShardSet.open(where, cache_dir if _is_remote(where) else None, cache_gb)


def check_cache_dir(cache_dir: "str | Path | None", sets: "Sequence[str | Path | ShardSet]") -> None:
    """InputError if a cache folder is given and `open_set` uses it for none of the sets."""
    if cache_dir is not None and not any(map(_is_remote, sets)):
        raise InputError(
            f"cache_dir is {str(cache_dir)!r}, and no set is opened by its URL here: a cache folder keeps copies of "
            "remote sets. Omit it, or open the set with it: ShardSet.open(URL, cache_dir)."
        )


def _is_remote(where: "str | Path | ShardSet") -> bool:
    return isinstance(where, str | Path) and isinstance(place(where), Url)


def choose_detector(shards: ShardSet, detector: str | None) -> str:
    """The given detector, or the default one. InputError if the set has no such boxes."""
    available, add = ", ".join(shards.detectors), shlex.join(["fgdata", "add", str(shards.path), "--saliency"])
    if detector is not None and detector not in shards.detectors:
        advice = "Choose one of them." if available else f"Add some: {add} rbd"
        if _can_be_added(shards, detector):
            advice = f"{'Choose one of them, or add' if available else 'Add'} these boxes: {add} {detector}"
        raise InputError(f"{shards.path} has no boxes by {detector!r}; it has: {available or 'none'}. {advice}")
    if not shards.detectors:
        raise InputError(f"{shards.path} has no boxes, which these views need. Add some: {add} rbd")
    return detector or next((name for name in shards.detectors if name != "gt"), "gt")


def _can_be_added(shards: ShardSet, detector: str) -> bool:
    """Whether `fgdata add` knows the detector. gt: only if the first sample has a ground-truth box."""
    from ..saliency import DETECTORS

    if detector == "gt":
        first = next((shards.split(name) for name, count in shards.splits.items() if count), None)
        return first is not None and bool(meta(first.read(0, without="jpg")).get("boxes"))
    return detector in DETECTORS and ":" not in detector


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
    cache: bool = False,
    output: str = "float32",
    buffers: "Buffers | None" = None,
) -> tuple:
    """Starts the backend -> (torch device, backend)."""
    where = find_device(device)
    if backend not in ("auto", "threads", "dali"):
        raise InputError(f"backend is {backend!r}; allowed: auto, threads, dali.")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; allowed: 1 or more; omit it for all available cores.")
    if cache and backend == "dali":
        raise InputError(
            "cache is 'ram', which needs the backend threads: DALI decodes the images itself, in every epoch. Omit the "
            "cache, or use the backend threads or auto."
        )
    if output == "uint8" and backend == "dali":
        raise InputError(
            "output is 'uint8', which needs the backend threads: DALI finishes the views itself. Omit it, or use the "
            "backend threads or auto."
        )
    threads = threads or share_of_cores(world_size)
    wants_dali = backend == "dali" or (backend == "auto" and where.type == "cuda" and _has_dali())
    if wants_dali and not cache and output == "float32":
        try:
            from .dali import Dali

            return where, Dali(views, max(2, batch_size), threads, where, other_sets=other_sets)
        except (RuntimeError, ImportError, OSError) as error:  # an older driver than DALI's CUDA, a missing library
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if backend == "dali" and isinstance(error, ImportError):
                raise InputError(
                    f"The dali backend needs NVIDIA DALI, which is installed but cannot be imported: {reason}. Install "
                    "what it lacks, or use backend threads."
                ) from error
            if backend == "dali":
                raise
            text = f"DALI does not run here ({reason}); the views are computed by threads, which is slower"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
    from .threads import Threads

    return where, Threads(
        views,
        threads,
        pinned=where.type == "cuda",
        eight_bit=output == "uint8" or where.type != "cpu",
        buffers=buffers,
    )


def find_device(device: "str | torch.device") -> "torch.device":
    """The device of a loader's tensors. InputError if this machine lacks it, or torch."""
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError("Loading views needs torch, which is not installed: pip install torch") from None
    try:
        where = torch.device(device)
    except RuntimeError:
        raise InputError(f"device is {device!r}; allowed: cpu, cuda, cuda:N.") from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {device}, but torch finds no CUDA device; allowed: cpu.")
    return where


def _has_dali() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False
