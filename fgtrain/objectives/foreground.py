"""Foreground against background (Wu et al., BMVC 2022, appendix A): images of the set (1) against images of other sets
(0), optionally mixed in pairs (i, j).

    x = s x_i + (1 - s) x_j                                             Mixup (Zhang et al., ICLR 2018)
    x = x_i with a rectangle of x_j; s = share of x_i that remains      CutMix (Yun et al., ICCV 2019), SaliencyMix
    L = s CE(z, y_i) + (1 - s) CE(z, y_j),   z = head(f(x))
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks import initial
from ..networks.optim import Rates
from ..settings.regions import ForegroundConfig, MixSettings
from .bases import Logs
from .leak import check_leak
from .losses import feature_std, wide
from .pretext import linear

if TYPE_CHECKING:
    from fgdata.shards.reader import ShardSet

    from ..runs.rundir import RunDir


class Foreground(nn.Module):
    """An encoder and a classifier of two classes. The weights of a pair's answers follow the pixels that remain."""

    accumulates = True  # apart from the random pairs, which a part of a batch draws among its own images
    rates: ClassVar[Rates] = {}

    def __init__(self, config: ForegroundConfig, samples: int):
        super().__init__()
        self.config, self.mix = config, config.mix
        self.encoder = initial.encoder(config)
        views = self.encoder.normalised(config.views)
        self.views = replace(views, lent=True, boxes=config.mix.kind == "saliencymix")
        self.head = linear(self.encoder.dim, 2, std=0.01)

    def prepare(
        self,
        run: "RunDir",
        shards: "ShardSet",
        device: torch.device,
        say: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """Says before the first step how well thumbnails alone tell both kinds of images apart, also in run.json."""
        if found := check_leak(self.config, self.views, shards, say, stop):
            run.note(leak=found)

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        ours, lent = batch["views"][0], batch["lent"]
        x = torch.cat([ours, lent])  # (2 B, 3, S, S)
        y = torch.arange(2, device=x.device).flip(0).repeat_interleave(len(ours))  # 1 for ours, 0 for lent
        other, share = torch.arange(len(x), device=x.device), torch.ones(len(x), device=x.device)
        if self.mix.kind != "none":
            other, share = another(len(x), x.device), draw_shares(len(x), self.mix, x.device)
            if self.mix.kind == "mixup":
                x = blended(x, other, share)
            else:
                spots = box_centres(batch["boxes"][0], x) if "boxes" in batch else uniform_spots(x)
                x, share = pasted(x, other, rectangles(share, spots[other], x.shape[-1]))
        pooled = self.encoder(x).pooled
        logits, share = wide(self.head(pooled)), share.to(wide(pooled).dtype)
        loss = mixed_cross_entropy(logits, y, y[other], share)
        right = logits.detach().argmax(1)
        accuracy = (share * (right == y) + (1 - share) * (right == y[other])).mean()
        logs = {"accuracy": accuracy, "mixed_classes": (y != y[other]).float().mean()}
        return loss, logs | {"feature_std": feature_std(pooled)}

    def after_step(self, progress: float) -> None:
        """No extra state to update."""


def mixed_cross_entropy(logits: Tensor, y: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """(N, 2), (N,), (N,), (N,) weights of the first answers -> ()."""
    first, second = (F.cross_entropy(logits, answer, reduction="none") for answer in (y, other))
    return (share * first + (1 - share) * second).mean()


def another(n: int, device: torch.device) -> Tensor:
    """For each of n images another one: (n,), a random cycle."""
    order = torch.randperm(n, device=device)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def draw_shares(n: int, mix: MixSettings, device: torch.device) -> Tensor:
    """(n,) shares of the first image of each pair, Beta(alpha, alpha)-distributed, from the CPU's generator."""
    alpha = torch.full((n if mix.per == "pair" else 1,), mix.alpha)
    return torch.distributions.Beta(alpha, alpha).sample().to(device, non_blocking=True).expand(n)


def blended(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """(N, 3, S, S), (N,), (N,) -> (N, 3, S, S)."""
    weight = share.to(x.dtype)[:, None, None, None]
    return weight * x + (1 - weight) * x[other]


def uniform_spots(x: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, 2) places (x, y) in pixels, uniform in the image."""
    return torch.rand(len(x), 2, device=x.device) * x.shape[-1]


def box_centres(boxes: Tensor, x: Tensor) -> Tensor:
    """(B, 4), (2 B, 3, S, S) -> (2 B, 2) places: centres of the boxes; uniform for a lent image or an empty box."""
    spots = uniform_spots(x)
    seen = (boxes[:, 2:] > 0).all(1, keepdim=True)
    first = torch.where(seen, boxes[:, :2] + boxes[:, 2:] / 2, spots[: len(boxes)])
    return torch.cat([first, spots[len(boxes) :]])


def rectangles(share: Tensor, spots: Tensor, size: int) -> Tensor:
    """(N,) shares of the view that should remain, (N, 2) centres -> (N, 4) left, top, right, bottom in whole pixels,
    clipped to the view."""
    half = size * (1 - share).clamp(min=0).sqrt()[:, None] / 2
    return torch.cat([spots - half, spots + half], 1).round().clamp(0, size)


def pasted(x: Tensor, other: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3, S, S), (N,), (N, 4) -> images with a rectangle of their other image, and the share (N,) that remains."""
    size = x.shape[-1]
    position = torch.arange(size, device=x.device)
    left, top, right, bottom = edges[..., None].unbind(1)  # (N, 1)
    columns, rows = (position >= left) & (position < right), (position >= top) & (position < bottom)  # (N, S)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    area = (right - left) * (bottom - top) / size**2
    return torch.where(inside, x[other], x), 1 - area[:, 0]
