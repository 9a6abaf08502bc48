"""The negatives of MoCo: keys of earlier batches."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import parallel


def own_negatives(size: int, epoch: int) -> float:
    """Length of a queue, keys that an epoch adds -> share of the images whose key of the epoch before is in the queue.

    An image comes at the uniform places u in this epoch and 1 - v in the one before, so u + v epochs lie between them:
    P(u + v <= size / epoch), in the limit of small batches.
    """
    reach = min(size / epoch, 2.0)
    return reach**2 / 2 if reach <= 1 else 1 - (2 - reach) ** 2 / 2


def auto_size(samples: int) -> int:
    """The largest power of two up to the number of training images."""
    return 1 << (samples.bit_length() - 1)


def remark_on(size: int, samples: int, each: int) -> str:
    """What to say of a queue that reaches back beyond an epoch."""
    auto, keys = auto_size(samples), "two keys" if each == 2 else "one key"
    own, usual = (own_negatives(count, each * samples) for count in (size, auto))
    return (
        f"MoCo keeps {size:,} negatives but the training split has {samples:,} images, with {keys} of each, so "
        f"{own:.0%} of the images are among their own negatives; with --moco.queue auto ({auto:,}), {usual:.0%} are"
    )


class Queue(nn.Module):
    """`keys` (K, d): the last K unit keys of all processes, random at first.

    `arrive` takes the keys of a batch; `turn` adds them after the step, so that all parts of an accumulated batch have
    the same negatives. `samples` is the number of training images; a batch adds `each` keys of each of its own. `size`
    auto is `auto_size`.
    """

    keys: Tensor
    cursor: Tensor

    def __init__(self, size: Literal["auto"] | int, dim: int, samples: int, each: int = 1):
        super().__init__()
        size = auto_size(samples) if size == "auto" else size
        self.remarks = [remark_on(size, samples, each)] if size > each * samples else []
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))
        self.arrived: list[Tensor] = []  # keys of all processes since the last step

    def arrive(self, keys: Tensor) -> None:
        """Takes this process's keys (B, d) of a batch; they become negatives with the next `turn`."""
        self.arrived.append(parallel.gather(keys))

    def turn(self) -> None:
        """Adds the keys that have arrived."""
        if self.arrived:
            self.add(torch.cat(self.arrived).to(self.keys.dtype))
            self.arrived = []

    @torch.no_grad()
    def add(self, keys: Tensor) -> None:
        """Replaces the oldest keys by `keys` (N, d)."""
        keys = keys[-len(self.keys) :]
        rows = (self.cursor + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[rows] = keys
        self.cursor.copy_((self.cursor + len(keys)) % len(self.keys))
