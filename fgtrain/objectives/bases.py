"""The contrastive bases, side by side. Each splits its step in two, so that CVSA can stand on the same features:

    encode(views (V, B, 3, S, S)) -> online Features per view, target Features per view
    contrast(online, target)      -> (loss, logs)

Views pass one at a time: batch norm sees one view of the batch, as in the published code.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgtrain import initial, methods
from fgtrain.losses import feature_std, info_nce, negative_cosine
from fgtrain.nets import Features, frozen_copy, mlp, move_towards
from fgtrain.optim import target_momentum

Logs = dict[str, Tensor]


class Byol(nn.Module):
    """Bootstrap your own latent (Grill et al. 2020), METHODS of the CVSA paper, Eq. 6."""

    def __init__(self, config: methods.ByolConfig | methods.CvsaConfig, samples: int):
        super().__init__()
        self.views = config.views
        self.ema = config.byol.ema
        self.encoder = initial.encoder(config)
        self.projector = mlp(self.encoder.dim, config.byol.hidden, config.byol.dim)
        self.predictor = mlp(config.byol.dim, config.byol.hidden, config.byol.dim)
        self.target_encoder = frozen_copy(self.encoder)
        self.target_projector = frozen_copy(self.projector)

    def encode(self, views: Tensor) -> tuple[list[Features], list[Features]]:
        online = [self.encoder(view) for view in views]
        with torch.no_grad():
            target = [self.target_encoder(view) for view in views]
        return online, target

    def contrast(self, online: list[Features], target: list[Features]) -> tuple[Tensor, Logs]:
        p_q, p_k = (self.predictor(self.projector(f.pooled)) for f in online)  # (B, d)
        with torch.no_grad():
            h_q, h_k = (self.target_projector(f.pooled) for f in target)  # (B, d)
        loss = negative_cosine(p_q, h_k) / 2 + negative_cosine(p_k, h_q) / 2
        return loss, {"contrast": loss.detach(), "feature_std": feature_std(online[0].pooled)}

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        return self.contrast(*self.encode(batch["views"]))

    def parameter_groups(self):
        return self.named_parameters()

    def momentum(self, progress: float) -> float:
        return target_momentum(progress, self.ema)

    def after_step(self, progress: float) -> None:
        move_towards(self.target_encoder, self.encoder, self.momentum(progress))
        move_towards(self.target_projector, self.projector, self.momentum(progress))


class Moco(nn.Module):
    """MoCo v2 (He et al. 2020; Chen et al. 2020). One process: its batch norm is not shuffled over processes."""

    queue: Tensor
    cursor: Tensor

    def __init__(self, config: methods.MocoConfig | methods.CvsaConfig, samples: int, symmetric: bool = False):
        super().__init__()
        moco = config.moco
        self.views = config.views
        self.tau, self.ema, self.symmetric = moco.tau, moco.ema, moco.symmetric or symmetric
        self.encoder = initial.encoder(config)
        self.projector = mlp(self.encoder.dim, self.encoder.dim, moco.dim, norm=moco.norm)
        self.target_encoder = frozen_copy(self.encoder)
        self.target_projector = frozen_copy(self.projector)
        size = 1 << (samples.bit_length() - 1) if moco.queue == "auto" else moco.queue
        if size > samples:
            warnings.warn(
                f"MoCo keeps {size:,} negatives but the training split has {samples:,} images, so every image is its "
                "own negative; --moco.queue auto avoids that",
                stacklevel=2,
            )
        self.register_buffer("queue", F.normalize(torch.randn(size, moco.dim), dim=1))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))

    def encode(self, views: Tensor) -> tuple[list[Features], list[Features]]:
        queries, keys = (views, views) if self.symmetric else (views[:1], views[1:])
        online = [self.encoder(view) for view in queries]
        with torch.no_grad():
            target = [self.target_encoder(view) for view in keys]
        return online, target

    def contrast(self, online: list[Features], target: list[Features]) -> tuple[Tensor, Logs]:
        q = [F.normalize(self.projector(f.pooled).float(), dim=1) for f in online]  # (B, d)
        with torch.no_grad():
            k = [F.normalize(self.target_projector(f.pooled).float(), dim=1) for f in target]  # (B, d)
        pairs = zip(q, reversed(k))  # view 0 against view 1, and view 1 against view 0 when symmetric
        loss = torch.stack([info_nce(a, b, self.queue.clone(), self.tau) for a, b in pairs]).mean()
        if self.training:
            self.enqueue(torch.cat(k))
        return loss, {"contrast": loss.detach(), "feature_std": feature_std(online[0].pooled)}

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        return self.contrast(*self.encode(batch["views"]))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """(N, d): the newest keys take the place of the oldest."""
        keys = keys[-len(self.queue) :]
        place = (self.cursor + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[place] = keys
        self.cursor.copy_((self.cursor + len(keys)) % len(self.queue))

    def parameter_groups(self):
        return self.named_parameters()

    def momentum(self, progress: float) -> float:
        return self.ema

    def after_step(self, progress: float) -> None:
        move_towards(self.target_encoder, self.encoder, self.momentum(progress))
        move_towards(self.target_projector, self.projector, self.momentum(progress))
