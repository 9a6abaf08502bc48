"""Attention fitted to what explains a loss or a class, with little capacity: it keeps what many images have in common.

    cam = ReLU(sum over channels of A * dL/dA)                    (B, h, w)   LCR: L is the contrastive loss
    cam = ReLU(sum over channels of A * sum over h w of dz_y/dA)  (B, h, w)   SAM: z_y is the score of the true class
    a   = max over filters of ReLU(BN(conv(A)))                   (B, h, w)   networks/attention.py
    L   = L_base + weight * mean over images of KL(softmax(cam / tau) || softmax(a / tau))

A is the last map. LCR: Shu, van den Hengel, Liu, CVPR 2023. SAM: Shu, Yu, Xu, Liu, ECCV 2022. The released code of LCR
computes a target that is uniform to five digits, because the gradient of a mean over images and positions is about
1e-5; `--attend.target raw` keeps that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgdata.errors import InputError

from ..networks.architecture import pools_last_map
from ..networks.attention import Attention
from ..networks.encoder import Encoder
from ..networks.optim import Rates
from ..settings.comparisons import AttendSettings, LcrConfig, SamConfig
from .bases import Byol, Logs, Moco
from .losses import wide
from .pretext import supervised

AnyConfig = TypeVar("AnyConfig", LcrConfig, SamConfig)


def with_branch(config: AnyConfig) -> AnyConfig:
    """The config of an encoder that has the attention branch, if evaluations use it. InputError for a network without
    a derivative by its last map."""
    if not pools_last_map(config.model):
        raise InputError(
            f"--model.backbone is {config.model.backbone}, whose pooled feature is not computed from its last map, as "
            f"{config.method} needs; allowed: convolutional networks, such as resnet50, convnext_tiny or "
            "tf_efficientnet_lite0."
        )
    filters = config.attend.filters if config.attend.pool == "attend" else 0
    return replace(config, model=replace(config.model, attend=filters))


@contextmanager
def last_maps(encoder: Encoder) -> Iterator[list[Tensor]]:
    """Collects the last map of every forward pass of an encoder within the block: MoCo makes several, one per part of
    the batch, and BYOL one per view."""
    maps: list[Tensor] = []
    with encoder.register_forward_hook(lambda _, __, features: maps.append(features.maps[4])):
        yield maps


class Fit(nn.Module):
    """The divergence of an attention branch from its target. The branch is the encoder's, or one that is only used in
    training."""

    def __init__(self, encoder: Encoder, settings: AttendSettings):
        super().__init__()
        self.settings = settings
        self.attend = None if encoder.attend else Attention(encoder.channels[4], settings.filters)

    def forward(self, encoder: Encoder, maps: Tensor, cam: Tensor) -> tuple[Tensor, Logs]:
        """(B, C, h, w), (B, h, w) 0 or more -> weighted divergence (), logs."""
        settings, branch = self.settings, self.attend or encoder.attend
        assert branch is not None
        a = wide(branch(maps.detach() if settings.detach else maps))
        divergence, target = kl(scaled(cam) if settings.target == "scaled" else cam, a, settings.tau)
        return settings.weight * divergence, {"attend": divergence.detach(), "target_peak": target.amax(1).mean()}


class Lcr(nn.Module):
    """LCR on MoCo v2 (maps of the query) or on BYOL (maps of both online views)."""

    def __init__(self, config: LcrConfig, samples: int):
        super().__init__()
        config = with_branch(config)
        self.base = Moco(config, samples) if config.base == "moco" else Byol(config, samples)
        self.fit, self.sign = Fit(self.encoder, config.attend), 1 if config.sign == "loss" else -1
        self.remarks = self.encoder.position_remarks(config.views.size)
        self.views, self.rates = self.base.views, {f"base.{prefix}": rate for prefix, rate in self.base.rates.items()}
        scaled = config.attend.target == "scaled"  # a raw target has the scale of a mean over the batch
        self.accumulates = self.base.accumulates and scaled

    @property
    def encoder(self) -> Encoder:
        return self.base.encoder

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        with last_maps(self.encoder) as maps:
            contrast, logs, *_ = self.base.compare(batch["views"], progress)
        size = sum(x[:, 0].numel() for x in maps)  # B h w: half precision would round smaller gradients to zero
        slopes = torch.autograd.grad(contrast * size, maps, retain_graph=True)
        joined = torch.cat(maps)
        cam = F.relu(self.sign * (wide(joined.detach()) * wide(torch.cat(slopes))).sum(1)) / size
        divergence, more = self.fit(self.encoder, joined, cam)
        return contrast + divergence, logs | more

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)


class Sam(nn.Module):
    """SAM on supervised training, with Grad-CAM of the true class in a form that is CAM (w_y . A) for a linear layer on
    the mean of the map. The classifier learns ten times as fast, as published."""

    accumulates = True
    rates: ClassVar[Rates] = {"base.head.": 10.0}

    def __init__(self, config: SamConfig, samples: int, classes: int):
        super().__init__()
        self.base = supervised(with_branch(config), samples, classes)
        self.fit, self.views = Fit(self.encoder, config.attend), self.base.views
        self.remarks = self.encoder.position_remarks(config.views.size)

    @property
    def encoder(self) -> Encoder:
        return self.base.encoder

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        with last_maps(self.encoder) as maps:
            logits, y, logs = self.base.compare(batch)
        (slope,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), maps, retain_graph=True)
        weight = wide(slope).sum((2, 3), keepdim=True)  # (B, C, 1, 1)
        cam = F.relu((weight * wide(maps[0].detach())).sum(1))
        divergence, more = self.fit(self.encoder, maps[0], cam)
        return F.cross_entropy(logits, y) + divergence, logs | more

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)


def scaled(cam: Tensor) -> Tensor:
    """(B, h, w) 0 or more -> the same divided by the largest value of each image; a map of zeros stays."""
    peak = cam.amax((1, 2), keepdim=True)
    return cam / peak.where(peak > 0, 1)


def kl(cam: Tensor, a: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """(B, h, w), (B, h, w) -> mean over images of KL(softmax(cam / tau) || softmax(a / tau)) (), the first (B, hw)."""
    p, q = ((x / tau).flatten(1).log_softmax(1) for x in (cam, a))
    return F.kl_div(q, p, log_target=True, reduction="batchmean"), p.exp()
