"""Communication between the processes of one training run. With one process every function is the identity.

    torchrun --nproc-per-node 2 -m fgtrain run cvsa        one process per GPU (NCCL), or on the CPU (gloo)

CPU tensors and Python values go through gloo, GPU tensors through NCCL. Where one process may work for long while the
others wait, they wait for a Python value (`collect`, `together`, `any_of`). NCCL is only used where all arrive
together, so it gives up early.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from fgdata.errors import InputError

from .place import pick_device

PATIENCE = timedelta(days=2)  # one process may work for hours, as in an evaluation, while the others wait
NCCL_TIMEOUT = timedelta(minutes=10)
JOIN_TIMEOUT = timedelta(minutes=10)
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Set by torchrun for each process, and by other launchers of torch.distributed."""
LOST_PROCESS = "Another process of this run ended; see its output for the reason."

_launcher: int | None = None
"""The parent of this process when it joined the others."""
_all_stop = False
"""Whether `together` has stopped all processes."""
_patient: Any = None
"""The group for Python values, if it is not the default one."""


@contextmanager
def group(name: str) -> Iterator[torch.device]:
    """Joins the process group if torchrun started several processes. Yields this process's device.

    name: --device. InputError if the device is missing, if the environment variables of torchrun are incomplete, or if
    another process ends while this one waits for it.
    """
    global _launcher, _all_stop, _patient
    if dist.is_initialized() or not _is_launched():
        yield pick_device(name)
        return
    device = _own_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _launcher, _all_stop = os.getppid(), False
    _patient = _join(device)
    try:
        yield device
    except RuntimeError as error:
        if is_lost_process(error):
            raise InputError(LOST_PROCESS) from error
        raise
    except (InputError, SystemExit):
        if _all_stop:  # threads of gloo that outlive the group may abort the exit of the process
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()  # not after the error of one process: it would wait for those that are elsewhere
    _launcher = _patient = None


def _is_launched() -> bool:
    """Whether a launcher started several processes. InputError if only some of its variables are set, or wrongly."""
    if os.environ.get("WORLD_SIZE", "1").strip() == "1":
        return False
    values = {name: os.environ.get(name, "") for name in VARIABLES}
    numbers = {name: int(value) for name, value in values.items() if value.isdecimal() and len(value) < 10}
    world, local = numbers.get("WORLD_SIZE", 0), numbers.get("LOCAL_WORLD_SIZE", 0)
    wrong = [name for name in VARIABLES if name != "MASTER_ADDR" and name not in numbers]
    wrong += ["MASTER_ADDR"] * (not values["MASTER_ADDR"])
    if not wrong:
        wrong += ["WORLD_SIZE"] * (world < 1) + ["RANK"] * (numbers["RANK"] >= world)
        wrong += ["LOCAL_RANK"] * (numbers["LOCAL_RANK"] >= local) + ["MASTER_PORT"] * (numbers["MASTER_PORT"] > 65535)
    if wrong:
        given = ", ".join(f"{name} is {values[name]!r}" if values[name] else f"{name} is not set" for name in wrong)
        raise InputError(
            f"WORLD_SIZE is {values['WORLD_SIZE']!r}, which means several processes started by torchrun, but {given}. "
            "For one process, unset the variable: env -u WORLD_SIZE fgtrain ...\n"
            "For several, start them with: torchrun --nproc-per-node N -m fgtrain ..."
        )
    return True


def _join(device: torch.device) -> Any:
    """Joins the process group -> the group for Python values, None for the default one. InputError if the others cannot
    be reached; a training run later waits much longer."""
    address, world = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", os.environ["WORLD_SIZE"]
    gpu = device.type == "cuda"
    backend, patience = ("cpu:gloo,cuda:nccl", NCCL_TIMEOUT) if gpu else ("gloo", PATIENCE)
    try:
        store, rank, count = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=patience)
        return dist.new_group(backend="gloo", timeout=PATIENCE) if gpu else None
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"Process {os.environ['RANK']} of {world} cannot join the others at {address}: {reason}\nIf torchrun did "
            "not start it, unset the leftover variable: env -u WORLD_SIZE fgtrain ..."
        ) from error


def is_lost_process(error: BaseException) -> bool:
    """Whether a communication failed because another process ended."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def lost_launcher() -> bool:
    """Whether torchrun has ended and left this process behind, as SIGUSR1 to torchrun alone may do."""
    return _launcher is not None and os.getppid() != _launcher


def _own_device(name: str) -> torch.device:
    """auto | cpu | cuda for a process of torchrun: each process takes the GPU with its local rank."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return pick_device("cpu")
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if name not in ("auto", "cuda"):
        raise InputError(
            f"--device is {name} with several processes; allowed: auto, cuda (a GPU for each process), cpu."
        )
    if local >= gpus:
        raise InputError(
            f"Process {local} of this machine has no GPU of its own (GPUs here: {gpus}). Use torchrun "
            f"--nproc-per-node {max(1, gpus)}, or --device cpu."
        )
    return pick_device(f"cuda:{local}")


def nodes() -> int:
    """The number of machines of this run, which have equally many processes."""
    world = world_size()
    return 1 if world == 1 else -(-world // int(os.environ.get("LOCAL_WORLD_SIZE", world)))


def collect(value: Any) -> list[Any]:
    """A Python value of each process -> the values of all, by rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value, _patient)
    return values


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process. All get the same answer in the same call, so all can act on it."""
    if world_size() == 1:
        return flag
    highest = torch.tensor(int(flag))
    dist.all_reduce(highest, dist.ReduceOp.MAX, _patient)
    return bool(highest)


@contextmanager
def together() -> Iterator[None]:
    """An InputError on any rank stops all ranks; the lowest one raises it, the others exit with 2.

    The block must not call anything that processes do together.
    """
    error = None
    try:
        yield
    except InputError as raised:
        error = raised
    global _all_stop
    failed = [number for number, has_error in enumerate(collect(error is not None)) if has_error]
    _all_stop = bool(failed)
    if error is not None and failed[0] == rank():
        raise error
    if failed:
        sys.exit(2)


def rank() -> int:
    """The number of this process; 0 without torchrun."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def own_seed(seed: int, *more: int) -> int:
    """The seed of this process's own draws: the run's in the first process, else one that no other run and process
    have. `more` makes it another one."""
    if rank() == 0 and not more:
        return seed % (1 << 63)
    state = np.random.SeedSequence([seed % (1 << 63), rank(), *more]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def world_size() -> int:
    """The number of processes of this run; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def averaged(module: nn.Module, device: torch.device) -> nn.Module:
    """(all) The module with the first process's weights and buffers, whose gradients are means over all processes.

    Buffers are copied only now, not in every step.
    """
    if world_size() == 1:
        return module
    wrapped = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)
    wrapped.broadcast_buffers = False  # torch 2.13 deprecates the argument, and 2.11 has no replacement
    return wrapped


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """(b, ...) of each process -> (world * b, ...), by rank, without a gradient."""
    if world_size() == 1:
        return x
    x = x.contiguous()  # NCCL copies bytes and `empty_like` keeps strides, which would scramble channels-last maps
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def gather_with_grad(x: Tensor) -> Tensor:
    """(b, ...) of each process -> (world * b, ...), by rank; gradients flow back to the process a row came from."""
    return x if world_size() == 1 else _Gather.apply(x)  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    """Each process has a gradient for every row, and the row's own process needs their sum. torch has a function for
    this, but has moved it between releases."""

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
    """(b, ...) -> (b, ...) of samples drawn from all processes, and the permutation (world * b,) that was used.

    MoCo's shuffled batch norm (He et al. 2020, section 3.3): the key's statistics must not come from the query's
    batch. `generator` must have the same state in every process.
    """
    b = len(x)
    order = torch.randperm(b * world_size(), generator=generator).to(x.device, non_blocking=True)
    return gather(x)[order[rank() * b : (rank() + 1) * b]], order


@torch.no_grad()
def unshuffle(x: Tensor, order: Tensor) -> Tensor:
    """The inverse of `shuffle`: (b, ...) results of shuffled samples -> (b, ...) results of this process's samples."""
    b = len(x)
    return gather(x)[torch.argsort(order)[rank() * b : (rank() + 1) * b]]
