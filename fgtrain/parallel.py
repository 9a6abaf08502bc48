"""What the processes of one training do together. Alone, every function is the identity and needs no process group."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Number of this process, 0 without torchrun."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together, 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """(b, ...) of every process -> (world * b, ...), by rank, without a gradient."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def gather_with_grad(x: Tensor) -> Tensor:
    """(b, ...) of every process -> (world * b, ...), by rank; gradients flow back to the process a row came from."""
    if world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(tuple(all_gather(x)))


@torch.no_grad()
def shuffle(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(b, ...) -> (b, ...) of samples drawn from all processes, and the permutation (world * b,) that did it.

    MoCo's shuffled batch norm (He et al. 2020, section 3.3): the key's statistics must not come from the query's
    batch. `generator` must stand at the same state in every process.
    """
    b = len(x)
    order = torch.randperm(b * world_size(), generator=generator).to(x.device)
    return gather(x)[order[rank() * b : (rank() + 1) * b]], order


@torch.no_grad()
def unshuffle(x: Tensor, order: Tensor) -> Tensor:
    """The inverse of `shuffle` on what was computed from it: (b, ...) -> (b, ...) of this process's own samples."""
    b = len(x)
    return gather(x)[torch.argsort(order)[rank() * b : (rank() + 1) * b]]
