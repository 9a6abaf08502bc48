"""PAPN (Tan, Wei, Zhao, ICCV 2025): MoCo v2 on a feature with parts, and stages aligned on views of growing strength.

    L = InfoNCE(g(x_4), g'(y_4)) + weight * sum over stages l of MSE(z_l(x_l), z'_l(y_l))
    z_l(x) = unit(W_l mean over positions of A_l)                                            A_l: the map of stage l
    part   = mean over m of sum over positions of cos(A_4, p_m) A_4                          p_m: learned prototypes
    g(x)   = unit(MLP([mean A_2, mean A_3, mean A_4, part]))

x_2 to x_4 and y_2 to y_4 are the views of the stages, weakest first; the last view of each side is MoCo's. Primes are
the moving averages; the online prototypes serve both sides. MSE is the mean over dimensions and images. Evaluations use
[mean A_4, max over m of the sums], as the authors' linear probe does.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgdata.errors import abbreviate

from .. import parallel
from ..networks.architecture import beyond_stages, stage_channels
from ..networks.ema import frozen_copy
from ..networks.encoder import Encoder
from ..networks.heads import mlp
from ..networks.norm import uses_batch
from ..networks.optim import Rates
from ..networks.parts import Parts
from ..settings.papn import PapnConfig
from .bases import Logs, Moco
from .losses import feature_std, unit

STAGES = 3
"""The last stages of the network, each with a view of its own."""
Embed = Callable[[Tensor], Tensor]


class Heads(nn.Module):
    """The projections of the stages and of the whole feature."""

    def __init__(self, channels: tuple[int, ...], stage_dim: int, dim: int, norm: bool):
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(count, stage_dim) for count in channels)
        self.whole = mlp(sum(channels) + channels[-1], dim, dim, norm=norm)


class Papn(nn.Module):
    """Views in the order of the batch: three of the query's stages, the query, three of the key's stages, the key."""

    rates: ClassVar[Rates] = {}

    def __init__(self, config: PapnConfig, samples: int):
        super().__init__()
        config = replace(config, model=replace(config.model, parts=config.papn.parts))
        self.base, self.weight = Moco(config, samples), config.papn.weight
        self.views, self.accumulates = self.base.views, self.base.accumulates
        channels = stage_channels(config.model, STAGES)
        self.base.projector = Heads(channels, config.papn.dim, config.moco.dim, config.moco.norm)
        self.base.target_projector = frozen_copy(self.base.projector)
        self.remarks = self.freeze_rest(beyond_stages(config.model, STAGES))

    @property
    def encoder(self) -> Encoder:
        return self.base.encoder

    @property
    def parts(self) -> Parts:
        """The online encoder's; those of its moving average are not used."""
        assert self.encoder.parts is not None
        return self.encoder.parts

    def freeze_rest(self, names: tuple[str, ...]) -> list[str]:
        """Freezes weights that get no gradient, which several processes would wait for -> a line that says so."""
        for name in names:
            self.encoder.network.get_parameter(name).requires_grad_(False)
        what = f"not trained, since this method learns from the maps of stages only: {abbreviate(names)}"
        return [f"{what} of {self.encoder.model.backbone}"] if names else []

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        base, (*x, x_whole), (*y, y_whole) = self.base, *batch["views"].split(STAGES + 1)
        online, target = (base.encoder, base.projector), (base.target_encoder, base.target_projector)
        aligned = torch.stack([
            F.mse_loss(self.query(view, stage(*online, level)), self.key(other, progress, stage(*target, level)))
            for level, (view, other) in enumerate(zip(x, y))
        ])  # fmt: skip
        q = unit(self.query(x_whole, whole(*online, self.parts)))
        k = self.key(y_whole, progress, whole(*target, self.parts))
        contrast = base.contrast(q, k)
        if self.training:
            base.queue.arrive(k)
        logs = {"contrast": contrast.detach(), "align": aligned.detach().sum(), "feature_std": feature_std(q)}
        return contrast + self.weight * aligned.sum(), logs

    def query(self, view: Tensor, embed: Embed) -> Tensor:
        """(B, 3, S, S) -> unit rows (B, d), in the parts into which batch norm splits a batch."""
        return unit(torch.cat([embed(part) for part in view.tensor_split(self.base.splits(len(view)))]))

    @torch.no_grad()
    def key(self, view: Tensor, progress: float, embed: Embed) -> Tensor:
        """As `query`, on samples that are shuffled as MoCo's keys are."""
        base = self.base
        if not uses_batch(base.target_encoder, base.target_projector):
            return self.query(view, embed)
        shuffled, order = parallel.shuffle(view, base.shuffling(progress))
        return parallel.unshuffle(self.query(shuffled, embed), order)

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)


def stage(encoder: nn.Module, heads: nn.Module, level: int) -> Embed:
    """The function from images to the projection of one stage, before its length is set to 1."""
    return lambda x: heads.stages[level](pool(encoder.stages(x, STAGES)[level]))  # pyright: ignore


def whole(encoder: nn.Module, heads: nn.Module, parts: Parts) -> Embed:
    """The function from images to the projection of all stages and the parts."""

    def embed(x: Tensor) -> Tensor:
        maps = encoder.stages(x, STAGES)  # pyright: ignore[reportCallIssue]
        return heads.whole(torch.cat([*map(pool, maps), parts(maps[-1]).mean(1)], 1))  # pyright: ignore

    return embed


def pool(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C)."""
    return maps.mean((2, 3))
