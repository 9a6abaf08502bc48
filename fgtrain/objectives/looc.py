"""Leave-one-out contrastive learning (Xiao, Wang, Efros, Darrell, ICLR 2021), with rotation as the one augmentation
that is left out: the version that the CVSA paper compares with.

Space 0 is invariant to all augmentations. In space 1 the positive shares the query's turn, and the key of the same
image with another turn is a negative, so that space keeps the orientation. No official code exists: which keys enter
which queue, and dropping that negative where both turns agree by chance, are our choices.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..networks.ema import frozen_copy
from ..networks.encoder import Encoder
from ..networks.heads import mlp
from ..networks.optim import Rates
from ..settings.comparisons import LoocConfig
from .bases import Logs, Moco, in_parts
from .losses import feature_std, info_nce, unit
from .queue import Queue


class Heads(nn.Module):
    """(B, n) -> (B, 2 d): the projections of both spaces, side by side."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x)], 1)


class Looc(nn.Module):
    """L = 1/2 (L_0 + L_1) on MoCo v2 with two heads and two queues; three views: the query, k_0 and k_1."""

    accumulates = True
    rates: ClassVar[Rates] = {}

    def __init__(self, config: LoocConfig, samples: int):
        super().__init__()
        self.base, self.positives, moco = Moco(config, samples), config.looc.positives, config.moco
        self.views, n = self.base.views, self.encoder.dim
        self.base.projector = Heads(self.base.projector, mlp(n, n, moco.dim, norm=moco.norm))
        self.base.target_projector = frozen_copy(self.base.projector)
        self.queue = Queue(moco.queue, moco.dim, samples)  # Q_1; Q_0 is the base's

    @property
    def encoder(self) -> Encoder:
        return self.base.encoder

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        base, (x, x_0, x_1) = self.base, batch["views"]
        r, r_0 = draw_turns(len(x), x.device)  # of the query and of k_0; k_1 has the query's
        features, z = in_parts(base.encoder, base.projector, turn(x, r), base.splits(len(x)))
        q = spaces(z)
        k_0, k_1 = (spaces(base.key(turn(view, by), progress)[1]) for view, by in ((x_0, r_0), (x_1, r)))
        loss_0 = info_nce(q[0], k_0[0], base.queue.keys, base.tau)
        if self.positives == "all":
            loss_0 = (loss_0 + info_nce(q[0], k_1[0], base.queue.keys, base.tau)) / 2
        other = (q[1] * k_0[1]).sum(1).masked_fill(r == r_0, -torch.inf)  # the same image in another turn
        loss_1 = info_nce(q[1], k_1[1], self.queue.keys, base.tau, other[:, None])
        if self.training:
            base.queue.arrive(k_0[0])
            self.queue.arrive(k_1[1])
        loss = (loss_0 + loss_1) / 2
        logs = {"contrast": loss_0.detach(), "leave_one_out": loss_1.detach()}
        return loss, logs | {"feature_std": feature_std(features.pooled)}

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)
        self.queue.turn()


def spaces(z: Tensor) -> list[Tensor]:
    """(B, 2 d) -> unit rows (B, d) in space 0 and in space 1."""
    return [unit(part) for part in z.chunk(2, 1)]


def draw_turns(samples: int, device: torch.device) -> Tensor:
    """(2, B) numbers of quarter turns, uniform in 0 to 3, from the device's generator."""
    return torch.randint(4, (2, samples), device=device)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """(B, 3, S, S), (B,) -> each image turned counter-clockwise by its number of quarter turns."""
    out = x
    for number in (1, 2, 3):
        out = torch.where((turns == number)[:, None, None, None], x.rot90(number, (2, 3)), out)
    return out
