"""Picks the shard set, the device and the arithmetic of a run."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fgdata.cores import available_cores
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.stores.place import Url

SHARDS = Path("shards")


def launcher(processes: int, nodes: int) -> str:
    """How a run of so many processes starts: fgtrain, or torchrun ... -m fgtrain, on every node. For commands that are
    printed: HOST stands for the first node, which may be another one each time."""
    if processes == 1:
        return "fgtrain"
    meeting = f"--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint HOST:29500 " if nodes > 1 else ""
    return f"torchrun {meeting}--nproc-per-node {-(-processes // max(1, nodes))} -m fgtrain"


def open_shards(path: Path | Url | None, cache_dir: Path | None = None, cache_gb: float = 50.0) -> ShardSet:
    """The shard set at `path`, or if that is None the newest complete one under shards/ (a folder with manifest.json).

    cache_dir, cache_gb: see `ShardSet.open`. InputError if there is none.
    """
    if path is not None:
        return ShardSet.open(path, cache_dir, cache_gb)
    manifests = sorted((p for p in SHARDS.glob("*/manifest.json") if p.is_file()), key=lambda p: p.stat().st_mtime)
    sets = [p.parent for p in manifests if p.parent.name != "tiny"]  # shards/tiny is the format's golden example
    if not sets:
        raise InputError(
            f"No shard set was named, and {SHARDS.resolve()} has none (looked for */manifest.json). Build one:\n"
            "  fgdata build-shards --dataset cub --saliency rbd\n"
            "or name one with --shards FOLDER (for fgtrain run: --data.shards). Without a dataset, use the drawn one:\n"
            "  fgdata build-shards --dataset drawn --saliency rbd"
        )
    return ShardSet.open(sets[-1], cache_dir, cache_gb)


def pick_device(name: str):
    """auto | cpu | cuda | cuda:N | mps -> torch.device. InputError for another name, or if this machine lacks it.

    torch starts a thread for each core of the machine. If the CPU quota of a container allows fewer cores, and no
    environment variable sets the number, it gets as many threads as cores.
    """
    import torch

    if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys() and available_cores() < torch.get_num_threads():
        torch.set_num_threads(available_cores())
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name):
        raise InputError(f"--device is {name}; allowed: auto, cpu, cuda, cuda:N, mps.")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # for code that uses the current device
    except (RuntimeError, AssertionError) as error:
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--device {name} is not available ({reason}); this machine has: {', '.join(['cpu', *gpus])}."
        ) from error
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of a GPU or of the machine could not be allocated."""
    names = {kind.__name__ for kind in type(error).__mro__}
    words = ("can't allocate memory", "size calculation overflowed", "multiplication overflow", "numel: integer")
    return bool({"MemoryError", "OutOfMemoryError"} & names) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


@contextmanager
def enough_memory(message: Callable[[], str]) -> Iterator[None]:
    """InputError with the text of `message()` if a tensor cannot be allocated in the block, on a GPU or on a CPU."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise InputError(message()) from error
        raise


def has_bf16(device) -> bool:
    """Whether the device computes bfloat16 in hardware. Elsewhere torch emulates it, slowly."""
    import torch

    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def pick_precision(name: str, device) -> str:
    """auto -> bf16 on a GPU, fp16 on a GPU without bf16, fp32 on a CPU; other names are returned unchanged.

    InputError for fp16 on a CPU, where torch needs minutes for a step.
    """
    if name == "fp16" and device.type == "cpu":
        raise InputError(
            "--precision is fp16, but the device is cpu, where torch needs minutes for a step in fp16; allowed on a "
            "CPU: auto, fp32, bf16. Use --precision fp32, or a GPU (--device cuda)."
        )
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    return "bf16" if has_bf16(device) else "fp16"
