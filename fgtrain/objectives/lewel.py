"""LEWEL on BYOL (Huang et al., CVPR 2022): the projector, applied to every position, gives maps; features pooled by
these maps are aligned embeddings, of which each is compared with the one of the same number in the other view.

    [z, M] = g([x, X])                                     x (B, C) pooled, X (B, C, P) the last map; one batch norm
    W = softmax over positions (M / |M| over channels / s)              (B, d, P)
    V = X W^T: channels of group h are pooled by the maps of group h    (B, C, d / heads)
    o = g_obj(V)                                                        (B, d, d / heads)
    L = (1 - weight) D(p(z), z') + weight D(p_obj(o), o'),  D = -cos, the mean of both directions

With weight 1/2 this is the authors' loss over 4, up to a constant. x is what the network's own classifier would see,
which for a ResNet is the mean of X.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgdata.errors import InputError

from ..networks import initial
from ..networks.ema import frozen_copy, move_towards, target_momentum
from ..networks.encoder import Encoder
from ..networks.heads import position_head
from ..networks.optim import Rates
from ..settings.comparisons import LewelConfig
from .bases import Logs
from .losses import feature_std, negative_cosine, wide


class Lewel(nn.Module):
    """Online and target network each compute their own maps of their own view; gradients flow through the maps."""

    accumulates = True
    rates: ClassVar[Rates] = {}

    def __init__(self, config: LewelConfig, samples: int):
        super().__init__()
        self.settings = s = config.lewel
        self.encoder = initial.encoder(config)
        self.views = self.encoder.normalised(config.views)
        check_channels(self.encoder, config)
        self.remarks = self.encoder.position_remarks(config.views.size)
        self.projector = position_head(self.encoder.dim, s.hidden, s.dim)
        self.object_projector = position_head(self.encoder.dim, s.hidden, s.dim)
        self.predictor = position_head(s.dim, s.hidden, s.dim)
        self.object_predictor = position_head(s.dim, s.hidden, s.dim)
        self.target_encoder = frozen_copy(self.encoder)
        self.target_projector = frozen_copy(self.projector)
        self.target_object_projector = frozen_copy(self.object_projector)

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        views, s = batch["views"], self.settings
        online = [self.embed(self.encoder, self.projector, self.object_projector, view) for view in views]
        with torch.no_grad():
            targets = (self.target_encoder, self.target_projector, self.target_object_projector)
            target = [self.embed(*targets, view) for view in views]
        whole, aligned = [], []
        for a, b in ((0, 1), (1, 0)):
            whole.append(negative_cosine(self.predictor(online[a][0]), target[b][0]))
            aligned.append(negative_cosine(self.object_predictor(online[a][1]), target[b][1]))
        contrast, align = torch.stack(whole).mean(), torch.stack(aligned).mean()
        logs = {"contrast": contrast.detach(), "align": align.detach()}
        logs |= {"map_entropy": entropy(online[0][2]), "feature_std": feature_std(online[0][3])}
        return (1 - s.weight) * contrast + s.weight * align, logs

    def embed(
        self, encoder: nn.Module, projector: nn.Module, object_projector: nn.Module, view: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, S, S) -> z (B, d, 1), o (B, d, d / heads), W (B, d, P), pooled (B, C)."""
        features = encoder(view)
        x, last = features.pooled[..., None], features.maps[4].flatten(2)
        z, m = projector(torch.cat([x, last], 2)).split([1, last.shape[2]], 2)
        w = (F.normalize(wide(m), dim=1) / self.settings.scale).softmax(2)
        return z, object_projector(pool(last, w, self.settings.heads)), w, features.pooled

    def momentum(self, progress: float) -> float:
        return target_momentum(progress, self.settings.ema)

    def after_step(self, progress: float) -> None:
        for name in ("encoder", "projector", "object_projector"):
            move_towards(getattr(self, f"target_{name}"), getattr(self, name), self.momentum(progress))


def pool(last: Tensor, w: Tensor, heads: int) -> Tensor:
    """(B, C, P), (B, d, P) -> (B, C, d / heads): the maps of a group pool the channels of that group; groups are
    contiguous."""
    x, maps = last.unflatten(1, (heads, -1)), w.to(last.dtype).unflatten(1, (heads, -1))
    return torch.einsum("bhcp,bhjp->bhcj", x, maps).flatten(1, 2)


def entropy(w: Tensor) -> Tensor:
    """(B, d, P) shares of the positions -> (): their entropy, relative to that of a flat map; 1 is flat."""
    w = w.detach()
    return -(w * w.clamp(min=1e-12).log()).sum(2).mean() / math.log(max(2, w.shape[2]))


def check_channels(encoder: Encoder, config: LewelConfig) -> None:
    """InputError unless the pooled feature has the channels of the last map, in as many groups as --lewel.heads."""
    channels, heads = encoder.channels[4], config.lewel.heads
    if encoder.dim != channels:
        raise InputError(
            f"--model.backbone is {config.model.backbone}, whose pooled feature has {encoder.dim} channels and whose "
            f"last map has {channels}; lewel needs equal numbers. Allowed: such as resnet50, convnext_tiny or "
            "vit_small_patch16_224."
        )
    if channels % heads:
        raise InputError(
            f"--lewel.heads is {heads}; allowed: a divisor of {channels}, the channels of {config.model.backbone}."
        )
