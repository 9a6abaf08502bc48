"""Tasks with known answers: classes, and two pretext tasks that make their own labels.

task(batch) -> images x (N, 3, S, S), answers y (M,);   L = CE(head(f(x)), y)
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgdata.views import ViewSpec

from ..networks import initial
from ..networks.encoder import Encoder
from ..networks.optim import Rates
from ..settings.common import Config
from ..settings.comparisons import RelativeLocationConfig, RotationConfig
from .bases import Logs
from .losses import feature_std, wide

Task = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]


class Pretext(nn.Module):
    """The encoder and a classifier of the task's answers on its pooled features. `task` must not hold parameters."""

    accumulates = True
    rates: ClassVar[Rates] = {}

    def __init__(self, encoder: Encoder, views: ViewSpec, head: nn.Module, task: Task):
        super().__init__()
        self.encoder, self.views, self.head, self.task = encoder, encoder.normalised(views), head, task

    def compare(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Logs]:
        """A batch -> logits (M, answers), answers (M,), logs."""
        x, y = self.task(batch)
        pooled = self.encoder(x).pooled
        logits = wide(self.head(pooled))
        accuracy = (logits.detach().argmax(1) == y).float().mean()
        return logits, y, {"accuracy": accuracy, "feature_std": feature_std(pooled)}

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        logits, y, logs = self.compare(batch)
        return F.cross_entropy(logits, y), logs

    def after_step(self, progress: float) -> None:
        """No extra state to update."""


def linear(inputs: int, outputs: int, std: float, bias: float = 0.0) -> nn.Linear:
    """A linear layer with weights from N(0, std) and a constant bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.constant_(layer.bias, bias)
    return layer


def supervised(config: Config, samples: int, classes: int) -> Pretext:
    """Cross-entropy on the labels with a linear layer on the pooled features (He et al., CVPR 2016)."""
    encoder = initial.encoder(config)
    return Pretext(encoder, config.views, linear(encoder.dim, classes, std=0.01), labelled)


def labelled(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The first view and the label of every sample."""
    return batch["views"][0], batch["label"]


def rotation(config: RotationConfig, samples: int) -> Pretext:
    """Which of four quarter turns (Gidaris, Singh, Komodakis, ICLR 2018)."""
    encoder = initial.encoder(config)
    return Pretext(encoder, config.views, linear(encoder.dim, 4, std=0.01), turned)


def turned(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) -> (4 B, 3, S, S) turned counter-clockwise by 0, 90, 180 and 270 degrees, and the turn (4 B,).

    All four are one batch: batch norm must not see one turn alone.
    """
    x = batch["views"][0]
    return torch.cat([x.rot90(r, (2, 3)) for r in range(4)]), answers(4, x)


def answers(number: int, x: Tensor) -> Tensor:
    """(B, ...) -> (number * B,): 0 for the first B, then 1 for B, ..."""
    return torch.arange(number, device=x.device).repeat_interleave(len(x))


def relative_location(config: RelativeLocationConfig, samples: int) -> Pretext:
    """In which of eight directions a patch lies from another (Doersch, Gupta, Efros, ICCV 2015), as in OpenMixup.

    The nine patches are encoded once. OpenMixup encodes the centre once for each of its eight pairs, so its batch norm
    counts the centre eight times; without batch statistics both are equal. Here the head has the encoder's weight
    decay; in OpenMixup it has five times that.
    """
    settings, size = config.relative, config.relative.side(config.views.size)
    encoder = initial.encoder(config, size, "relative.patch")
    head = nn.Sequential(
        Pairs(),
        linear(2 * encoder.dim, settings.hidden, std=0.005, bias=0.1),
        nn.BatchNorm1d(settings.hidden, momentum=0.003),
        nn.ReLU(inplace=True),
        nn.Dropout(settings.dropout),
        linear(settings.hidden, 8, std=0.005),
    )
    return Pretext(encoder, config.views, head, partial(neighbours, patch=size))


class Pairs(nn.Module):
    """(9 B, n) features of 3 x 3 patches in order of reading -> (8 B, 2 n): each neighbour beside its centre."""

    def forward(self, features: Tensor) -> Tensor:
        f = features.unflatten(0, (9, -1))
        others = torch.cat([f[:4], f[5:]])  # (8, B, n)
        return torch.cat([others, f[4].expand_as(others)], 2).flatten(0, 1)


def neighbours(batch: dict[str, Tensor], patch: int) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) -> (9 B, 3, patch, patch) patches, each at a random place in its cell of the 3 x 3, in order of
    reading, and the direction of the eight neighbours (8 B,)."""
    x = batch["views"][0]
    cell = x.shape[-1] // 3
    places = torch.randint(cell - patch + 1, (2, 9, len(x)), device=x.device)
    return cut(x, places, cell, patch), answers(8, x)


def cut(x: Tensor, places: Tensor, cell: int, patch: int) -> Tensor:
    """(B, 3, S, S), (2, 9, B) rows and columns within the cells -> (9 B, 3, patch, patch)."""
    corner = torch.arange(9, device=x.device)[:, None]
    side, sample = torch.arange(patch, device=x.device), torch.arange(len(x), device=x.device)[:, None, None]
    rows = (corner // 3 * cell + places[0])[..., None] + side  # (9, B, patch)
    columns = (corner % 3 * cell + places[1])[..., None] + side
    pixels = x.permute(0, 2, 3, 1)[sample, rows[..., None], columns[:, :, None]]  # (9, B, patch, patch, 3)
    return pixels.flatten(0, 1).permute(0, 3, 1, 2)
