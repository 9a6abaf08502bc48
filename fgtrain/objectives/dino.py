"""DINO (Caron et al., ICCV 2021): the student's outputs for all views match the teacher's for the two global ones.

    P_t = softmax((t - c) / tau_t),  P_s = softmax(s / tau_s)                     t, s (B, K): outputs of the heads
    L = 1 / (2 (V - 1)) sum over global crops g, over all crops v != g of -P_t(g) . log P_s(v)
    c <- m c + (1 - m) mean(t), after the step

The teacher is a moving average of the student's weights, and it is the network that the run keeps.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from .. import parallel
from ..networks import initial
from ..networks.ema import frozen_copy, move_towards, target_momentum
from ..networks.encoder import Encoder
from ..networks.optim import Rates
from ..settings.multicrop import DinoConfig, DinoSettings
from .bases import Logs
from .dino_head import Head
from .losses import feature_std, mean_of_finite, wide

if TYPE_CHECKING:
    from fgdata.views import Loader

UNIFORM = 0.01
"""Share of the logarithm of K by which the entropy of nearly uniform outputs is below it."""


class Network(nn.Module):
    """An encoder and its head. Views of one size form one forward pass, with its own batch-norm statistics."""

    def __init__(self, encoder: Encoder, head: Head):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, *sizes: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """Views (V_i, B, 3, S_i, S_i) -> pooled features (V, B, n) and outputs (V, B, K), in the order given."""
        pooled = [self.encoder(views.flatten(0, 1)).pooled.unflatten(0, views.shape[:2]) for views in sizes]
        features = torch.cat(pooled)  # (V, B, n)
        return features, self.head(features.flatten(0, 1), frozen).unflatten(0, features.shape[:2])


class Dino(nn.Module):
    """A student and its teacher. Without local crops, the student's other view is all that the teacher's is compared
    with."""

    accumulates = True
    rates: ClassVar[Rates] = {}
    centre: Tensor

    def __init__(self, config: DinoConfig, samples: int):
        super().__init__()
        self.settings, self.epochs = config.dino, config.epochs
        encoder = initial.encoder(config)
        self.views = encoder.normalised(config.views)
        self.network = Network(encoder, Head(encoder.dim, config.dino))
        self.target_network = frozen_copy(self.network)
        self.register_buffer("centre", torch.zeros(config.dino.dim))
        self.means: list[Tensor] = []  # of the teacher's outputs over all processes, since the last step
        self.entropies: list[Tensor] = []  # of the teacher's outputs, since the start of the epoch or of the process
        self.warned = False

    @property
    def encoder(self) -> Encoder:
        """The teacher's."""
        return self.target_network.encoder  # pyright: ignore[reportReturnType]

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        settings, epoch = self.settings, progress * self.epochs
        sizes = [batch[name] for name in ("views", "local") if name in batch]
        with torch.no_grad():
            _, t = self.target_network(batch["views"])  # (2, B, K)
        features, s = self.network(*sizes, frozen=epoch < settings.freeze_epochs)  # (V, B, K)
        teacher = wide((t - self.centre) / teacher_tau(settings, epoch)).softmax(2)
        loss = cross_entropy(teacher, wide(s) / settings.tau)
        if self.training:
            self.means.append(parallel.gather(t.mean((0, 1))[None]).mean(0))
        entropy = -torch.special.xlogy(teacher, teacher).sum(2).mean()
        self.entropies.append(entropy)
        logs = {"teacher_entropy": entropy, "divergence": loss.detach() - entropy}
        return loss, logs | {"feature_std": feature_std(features[0])}

    def after_epoch(self, epoch: int, loader: "Loader", say: Callable[[str], None]) -> None:
        """Warns once if the teacher's outputs were nearly uniform in a whole epoch: then they teach nothing."""
        most = math.log(self.settings.dim)
        (entropy,), self.entropies = mean_of_finite(self.entropies, [0.0]), []
        if self.warned or entropy < (1 - UNIFORM) * most:
            return
        self.warned = True
        advice = "a lower --optim.lr" if self.settings.norm else "--dino.norm, which keeps the head's vectors apart"
        say(
            f"epoch {epoch}  dino: in this epoch the teacher's outputs were nearly uniform (entropy {entropy:.2f} of "
            f"at most {most:.2f}), so the student learns nothing from them. Try a new run with {advice}"
        )

    def momentum(self, progress: float) -> float:
        return target_momentum(progress, self.settings.ema)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        if self.means:
            self.centre.lerp_(torch.stack(self.means).mean(0).to(self.centre.dtype), 1 - self.settings.centre)
            self.means = []
        move_towards(self.target_network, self.network, self.momentum(progress))


def cross_entropy(teacher: Tensor, logits: Tensor) -> Tensor:
    """(G, B, K) probabilities of the first G views, (V, B, K) -> (): mean over all pairs of different views."""
    log_p = logits.log_softmax(2)
    total, pairs = log_p.sum(0), len(teacher) * (len(logits) - 1)
    losses = [-(p * (total - own)).sum(1).mean() for p, own in zip(teacher, log_p)]
    return torch.stack(losses).sum() / pairs


def teacher_tau(settings: DinoSettings, epoch: float) -> float:
    """The teacher's temperature after some epochs: linear from `teacher_tau_start`, then constant."""
    done = min(1.0, epoch / settings.teacher_tau_epochs) if settings.teacher_tau_epochs else 1.0
    return settings.teacher_tau_start + done * (settings.teacher_tau - settings.teacher_tau_start)
