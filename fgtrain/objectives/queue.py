"""The negatives of MoCo: keys of earlier batches."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import parallel


class Queue(nn.Module):
    """`keys` (K, d): the last K unit keys of all processes, random at first.

    `arrive` takes the keys of a batch; `turn` adds them after the step, so that all parts of an accumulated batch have
    the same negatives. `size` auto is the largest power of two up to the number of training images.
    """

    keys: Tensor
    cursor: Tensor

    def __init__(self, size: Literal["auto"] | int, dim: int, samples: int):
        super().__init__()
        size = 1 << (samples.bit_length() - 1) if size == "auto" else size
        self.remarks = [
            f"MoCo keeps {size:,} negatives but the training split has {samples:,} images, so half of the images or "
            "more are among their own negatives; with --moco.queue auto, an eighth to a half are"
        ] * (size > samples)
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
