"""Cross-view saliency alignment (Wu et al., BMVC 2022): a contrastive base plus an alignment loss on its features."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgdata.errors import InputError

from ..networks.ema import frozen_copy, move_towards
from ..networks.encoder import Encoder
from ..networks.heads import conv_head
from ..networks.optim import Rates
from ..settings.methods import CvsaConfig
from .bases import Byol, Logs, Moco
from .losses import alignment, attention


class Aligner(nn.Module):
    """g_conv, p_conv and the moving average of g_conv for one level of the network."""

    def __init__(self, channels: int, hidden: int, dim: int):
        super().__init__()
        self.projector = conv_head(channels, hidden, dim)
        self.predictor = conv_head(dim, hidden, dim)
        self.target_projector = frozen_copy(self.projector)

    def forward(self, online: list[Tensor], target: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps (B, C, H, W) of both views -> predictions p_conv(h_q), p_conv(h_k) and targets h_q, h_k (B, d, H, W)."""
        predictions = [self.predictor(self.projector(z)) for z in online]
        with torch.no_grad():
            targets = [self.target_projector(z) for z in target]
        return predictions, targets


class Cvsa(nn.Module):
    """L = L_cont + weight * L_align (CVSA Eq. 5-7), on BYOL or on symmetric MoCo v2.

    The mask is a rectangle, or with --views.crop matte-paste the object's matte, soft at its edge.
    """

    rates: ClassVar[Rates] = {}

    def __init__(self, config: CvsaConfig, samples: int):
        super().__init__()
        self.align = config.align
        byol = config.base == "byol"
        self.base = Byol(config, samples) if byol else Moco(config, samples, symmetric=True, maps=True)
        self.target = "mattes" if config.views.crop == "matte-paste" else "masks"  # of the alignment
        self.views, self.accumulates = replace(self.base.views, **{self.target: True}), self.base.accumulates
        check_levels(self.encoder, config)
        self.aligners = nn.ModuleDict(
            {
                str(level): Aligner(self.encoder.channels[level], config.align.hidden, config.align.dim)
                for level in config.align.stages
            }
        )

    @property
    def encoder(self) -> Encoder:
        return self.base.encoder

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        contrast, logs, online, target = self.base.compare(batch["views"], progress)
        halves, saturated = [], []
        for level, aligner in self.aligners.items():
            (p_q, p_k), (h_q, h_k) = aligner(*([f.maps[int(level)] for f in features] for features in (online, target)))
            shape = (p_q.shape[2], p_q.shape[3])
            for p, h, mask in ((p_q, h_k, batch[self.target][0]), (p_k, h_q, batch[self.target][1])):
                a = attention(p, h, self.align.normalize, self.align.scale)  # (B, HW, HW)
                halves.append(alignment(a, mask, shape, self.align.reduction))
                saturated.append((a.detach().abs() > 8).float().mean())
        align = torch.stack(halves).sum()
        logs |= {"align": align.detach(), "align_saturated": torch.stack(saturated).mean()}
        return contrast + self.align.weight * align, logs

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)
        for aligner in self.aligners.values():
            assert isinstance(aligner, Aligner)
            move_towards(aligner.target_projector, aligner.projector, self.base.momentum(progress))


def check_levels(encoder: Encoder, config: CvsaConfig) -> None:
    """InputError unless the network has a map at every level of --align.stages, into which the masks divide evenly."""
    levels, strides = config.align.stages, encoder.shape.strides
    if missing := [level for level in levels if level not in strides]:
        raise InputError(
            f"--align.stages is {' '.join(map(str, levels))}, but {config.model.backbone} has no map at level "
            f"{missing[0]}; allowed: {' '.join(map(str, strides))}."
        )
    step = max(strides[level] for level in levels)
    if config.views.size % step:
        raise InputError(
            f"--views.size is {config.views.size}; allowed: a multiple of {step}, so that the masks fit the maps of "
            f"--align.stages {' '.join(map(str, levels))}."
        )
