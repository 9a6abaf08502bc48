"""Box distillation (ours): views of the whole image learn the features that the starting network has of the object's
box, enlarged, and how they relate to those of other images.

    t_i = unit(f0(object_i))     the box, grown to a square, at --distill.size; f0: the starting network, frozen
    s   = unit(f(view))          a view of the whole image i
    L   = KL(softmax over j of t_i t_j / tau || softmax over j of s t_j / tau) + weight (1 - s t_i)

j are the images of a bank other than i. The boxes are privileged information (Lopez-Paz et al., ICLR 2016): a test
image needs none. The first term is that of SEED (Fang et al., ICLR 2021), without the image itself, which would
outweigh all others. There is no head: the starting features anchor the network.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import parallel
from ..networks import initial
from ..networks.ema import frozen_copy
from ..networks.encoder import Encoder
from ..networks.optim import Rates
from ..settings.distillation import BoxDistillConfig
from .bases import Logs
from .losses import feature_std, relation, unit, wide

MOST_ROWS, LARGEST_VIEW = 65_536, 4096
REMARK = (
    "this method learns from the network that it starts from, whose weights are random; name trained ones with --init"
)


class BoxDistill(nn.Module):
    """The teacher stays in evaluation mode and never moves. The student's batch norm keeps its statistics, so that it
    starts as its teacher."""

    accumulates = True
    rates: ClassVar[Rates] = {}

    def __init__(self, config: BoxDistillConfig, samples: int):
        super().__init__()
        self.tau, self.weight = config.distill.tau, config.distill.weight
        self.encoder = initial.encoder(config)
        self.encoder.hold = True
        self.views = replace(self.encoder.normalised(config.views), object_size=teacher_size(self.encoder, config))
        self.target_encoder = frozen_copy(self.encoder)
        rows = config.distill.bank
        self.bank = Bank(min(samples, MOST_ROWS) if rows == "auto" else rows, self.encoder.dim)
        self.remarks = [] if config.init is not None else [REMARK]

    def train(self, mode: bool = True) -> "BoxDistill":
        super().train(mode)
        self.target_encoder.eval()
        return self

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        with torch.no_grad():
            t = unit(self.target_encoder(batch["object"]).pooled)  # (B, n)
        s = [unit(self.encoder(view).pooled) for view in batch["views"]]
        others = self.bank.others(batch["index"])  # (B, K)
        relations = torch.stack([relation(x, t, self.bank.rows, others, self.tau) for x in s]).mean()
        distance = torch.stack([1 - (x * t).sum(1).mean() for x in s]).mean()
        if self.training:
            self.bank.arrive(t, batch["index"])
        logs = {"relation": relations.detach(), "distance": distance.detach(), "feature_std": feature_std(s[0])}
        return relations + self.weight * distance, logs

    def momentum(self, progress: float) -> float:
        """The teacher is never updated."""
        return 1.0

    def after_step(self, progress: float) -> None:
        """Updates the bank."""
        self.bank.turn()


def teacher_size(encoder: Encoder, config: BoxDistillConfig) -> int:
    """--distill.size in pixels. InputError when the network cannot process views of that size."""
    size, own = config.distill.size, config.views.size
    if size == "auto":
        wanted = min(LARGEST_VIEW, max(own, 32 * round(1.75 * own / 32)))
        return next((s for s in range(wanted, own, -1) if encoder.shape.fits(encoder.model, s)), own)
    encoder.check_size(size, "distill.size")
    return size


class Bank(nn.Module):
    """The teacher's features of the images that were seen: `rows` (K, n), and `owners` (K,), the images' numbers, -1 in
    an empty row. Image i has row i mod K."""

    rows: Tensor
    owners: Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("owners", torch.full((size,), -1))
        self.arrived: list[tuple[Tensor, Tensor]] = []  # of all processes since the last step

    def others(self, index: Tensor) -> Tensor:
        """(B,) numbers of images -> (B, K), whether a row holds another image."""
        return (self.owners >= 0) & (self.owners != index[:, None])

    def arrive(self, features: Tensor, index: Tensor) -> None:
        """Takes this process's features (B, n) of the images `index` (B,); they enter the bank with the next `turn`."""
        self.arrived.append((parallel.gather(wide(features)), parallel.gather(index)))

    def turn(self) -> None:
        """Adds the features that have arrived."""
        for features, index in self.arrived:
            own = index % len(self.rows)
            last = torch.where(own[:, None] == own, torch.arange(len(own), device=own.device), -1).amax(1)
            self.rows[own], self.owners[own] = features[last].to(self.rows.dtype), index[last]  # of those with one row
        self.arrived = []
