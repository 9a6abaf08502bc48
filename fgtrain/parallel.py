"""What the processes of one training do together. Alone, every function is the identity and needs no process group.

    torchrun --nproc-per-node 2 -m fgtrain run cvsa        one process per GPU (NCCL), or on the CPU (gloo)

Tensors on the CPU and Python values travel by gloo, tensors on a GPU by NCCL.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fgdata.errors import InputError

from .place import pick_device

PATIENCE = timedelta(days=2)  # one process may do hours of work, such as a decoder's warm-up, while the others wait


@contextmanager
def group(name: str) -> Iterator[torch.device]:
    """Joins the processes that torchrun started, if it did -> this process's device. `name` is --device."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        yield pick_device(name)
        return
    device = _own_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise InputError("Another process of this training ended; what it printed says why.") from error
        raise
    dist.destroy_process_group()  # not after a fault: the other processes may wait where this one will never come


def _own_device(name: str) -> torch.device:
    """auto | cpu | cuda for a process of torchrun: every process takes the GPU of its local number."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return pick_device("cpu")
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if name not in ("auto", "cuda"):
        raise InputError(f"--device {name} with several processes; allowed: auto, cuda (each takes its own GPU), cpu.")
    if local >= gpus:
        raise InputError(
            f"Process {local} of this machine has no GPU of its own: it has {gpus}. Allowed: torchrun "
            f"--nproc-per-node {max(1, gpus)}, or --device cpu."
        )
    return pick_device(f"cuda:{local}")


def command() -> str:
    """What starts fgtrain as this process was started, for commands that are printed."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return "fgtrain" if world_size() == 1 else f"torchrun --nproc-per-node {local} -m fgtrain"


def collect(value: Any) -> list[Any]:
    """A Python value of every process -> those of all, by rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def any_of(flag: bool) -> bool:
    """Whether it holds in any process; every process learns it in the same call, so all can act on it together."""
    if world_size() == 1:
        return flag
    seen = torch.tensor(int(flag))
    dist.all_reduce(seen, dist.ReduceOp.MAX)
    return bool(seen)


@contextmanager
def together() -> Iterator[None]:
    """What refuses one process ends all of them, told once: by the lowest rank that was refused.

    The block must call nothing that processes do together.
    """
    fault = None
    try:
        yield
    except InputError as error:
        fault = error
    refused = [number for number, one in enumerate(collect(fault is not None)) if one]
    if fault is not None and refused[0] == rank():
        raise fault
    if refused:
        sys.exit(2)


def rank() -> int:
    """Number of this process, 0 without torchrun."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together, 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_world_size() -> int:
    """How many of them share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """(b, ...) of every process -> (world * b, ...), by rank, without a gradient."""
    if world_size() == 1:
        return x
    x = x.contiguous()  # NCCL moves bytes, and `empty_like` keeps strides: channels-last maps would come out scrambled
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def gather_with_grad(x: Tensor) -> Tensor:
    """(b, ...) of every process -> (world * b, ...), by rank; gradients flow back to the process a row came from."""
    return x if world_size() == 1 else _Gather.apply(x)  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    """Every process has a gradient for every row; a row's own process needs their sum. torch's function for it has
    moved from release to release."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


@torch.no_grad()
def shuffle(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(b, ...) -> (b, ...) of samples drawn from all processes, and the permutation (world * b,) that did it.

    MoCo's shuffled batch norm (He et al. 2020, section 3.3): the key's statistics must not come from the query's
    batch. `generator` must stand at the same state in every process.
    """
    b = len(x)
    order = torch.randperm(b * world_size(), generator=generator).to(x.device, non_blocking=True)
    return gather(x)[order[rank() * b : (rank() + 1) * b]], order


@torch.no_grad()
def unshuffle(x: Tensor, order: Tensor) -> Tensor:
    """The inverse of `shuffle` on what was computed from it: (b, ...) -> (b, ...) of this process's own samples."""
    b = len(x)
    return gather(x)[torch.argsort(order)[rank() * b : (rank() + 1) * b]]
