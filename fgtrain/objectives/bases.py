"""The contrastive bases. Each compares two views of a batch and returns the features it compared, so CVSA and the
synthesized pairs can build on it:

    compare(views (2, B, 3, S, S), progress) -> loss (), logs, online Features per view, target Features per view

`progress` is in [0, 1]. In MoCo and BYOL the online network also sees local crops (L, B, 3, s, s), if there are any:
each is compared with the same targets as the global ones, and the loss is the mean over all pairs (multi-crop, Caron et
al., NeurIPS 2020). SimSiam and SimCLR have no target network, so their list of target Features is empty.

As in the published code, each view is a separate forward pass with its own batch-norm statistics, except in SimCLR.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import parallel
from ..networks import initial
from ..networks.ema import frozen_copy, move_towards, target_momentum
from ..networks.encoder import Features
from ..networks.heads import mlp
from ..networks.norm import uses_batch
from ..networks.optim import Rates
from ..settings import comparisons, methods, papn, regions
from ..settings.common import SEEDS
from .losses import feature_std, info_nce, negative_cosine, nt_xent, sinkhorn, soft_info_nce, unit
from .queue import Queue

PART = 16
"""Least samples in a part of a batch for MoCo's batch norm; the authors have 32."""

MocoLike = (
    methods.MocoConfig
    | methods.CvsaConfig
    | methods.SynthPairConfig
    | comparisons.LoocConfig
    | comparisons.LcrConfig
    | regions.InslocConfig
    | papn.PapnConfig
)
Logs = dict[str, Tensor]
Compared = tuple[Tensor, Logs, list[Features], list[Features]]


def in_parts(encoder: nn.Module, head: nn.Module, view: Tensor, parts: int) -> tuple[Features, Tensor]:
    """(B, 3, S, S) -> Features and projections (B, d), computed in `parts` one after the other."""
    features = [encoder(part) for part in view.tensor_split(parts)]
    projections = [head(f.pooled) for f in features]
    return (features[0], projections[0]) if parts == 1 else (Features.cat(features), torch.cat(projections))


def with_local(loss: Tensor, local: list[Tensor], count: int) -> Tensor:
    """The loss of the global crops, those of `count` local crops against each target -> their mean over all pairs."""
    return (loss + count * torch.stack(local).mean()) / (1 + count)


class Moco(nn.Module):
    """MoCo v2 (He et al. 2020; Chen et al. 2020): a query against its key and a queue of keys of earlier batches.

    `symmetric` uses each view once as query and once as key. `maps` requests the target's feature maps: where keys are
    computed on shuffled samples, plain MoCo avoids the cost of returning whole feature maps to their own process.

    A key must not share batch statistics with its query, or the network finds it by them (section 3.3). The authors
    compute them on eight GPUs and shuffle the keys between those; one process does the same with parts of its batch.
    """

    rates: ClassVar[Rates] = {}

    def __init__(
        self,
        config: MocoLike,
        samples: int,
        symmetric: bool = False,
        maps: bool = False,
    ):
        super().__init__()
        moco = config.moco
        self.seed, self.maps, self.norm_splits = config.seed, maps, moco.norm_splits
        self.tau, self.ema, self.symmetric = moco.tau, moco.ema, moco.symmetric or symmetric
        self.eps = moco.targets_eps if moco.targets == "sinkhorn" else None
        self.accumulates = self.eps is None  # soft targets are those of the whole batch
        self.encoder = initial.encoder(config)
        self.views = self.encoder.normalised(config.views)
        self.projector: nn.Module = mlp(self.encoder.dim, self.encoder.dim, moco.dim, norm=moco.norm)
        self.target_encoder = frozen_copy(self.encoder)
        self.target_projector = frozen_copy(self.projector)
        self.queue = Queue(moco.queue, moco.dim, samples, each=2 if self.symmetric else 1)

    def compare(self, views: Tensor, progress: float, local: Tensor | None = None) -> Compared:
        queries, keys = (views, views) if self.symmetric else (views[:1], views[1:])
        splits = self.splits(views.shape[1])
        online, projected = zip(*(in_parts(self.encoder, self.projector, view, splits) for view in queries))
        q = [unit(z) for z in projected]  # (B, d)
        target, k = zip(*(self.key(view, progress) for view in keys))
        pairs = zip(q, reversed(k))  # view 0 against view 1, and view 1 against view 0 when symmetric
        loss = torch.stack([self.contrast(a, b) for a, b in pairs]).mean()
        if local is not None:
            q_local = unit(in_parts(self.encoder, self.projector, local.flatten(0, 1), splits)[1])  # (L B, d)
            pairs = [(q_local, key.repeat(len(local), 1)) for key in k]
            loss = with_local(loss, [info_nce(a, b, self.queue.keys, self.tau) for a, b in pairs], len(local))
        if self.training:
            for key in k:
                self.queue.arrive(key)
        logs = {"contrast": loss.detach(), "feature_std": feature_std(online[0].pooled)}
        return loss, logs, list(online), list(target)

    def contrast(self, q: Tensor, k: Tensor) -> Tensor:
        """Unit queries and keys (B, d) -> ()."""
        if self.eps is None:
            return info_nce(q, k, self.queue.keys, self.tau)
        keys, own = parallel.gather(k), slice(parallel.rank() * len(k), (parallel.rank() + 1) * len(k))
        return soft_info_nce(q, keys, sinkhorn(keys, self.eps)[own], self.queue.keys, self.tau)

    def splits(self, samples: int) -> int:
        """Number of parts into which batch norm splits a batch: 1 where it does not use the batch, or with several
        processes; auto is 8, or fewer so that each part has at least PART samples."""
        if isinstance(self.norm_splits, int):
            return max(1, min(self.norm_splits, samples // 2))
        if parallel.world_size() > 1 or not uses_batch(self.encoder, self.projector):
            return 1
        return max(1, min(8, samples // PART))

    @torch.no_grad()
    def key(self, view: Tensor, progress: float) -> tuple[Features, Tensor]:
        """(B, 3, S, S) -> target Features and unit keys (B, d).

        Samples are shuffled across processes and parts, unless batch norm uses the statistics of all samples, or none.
        """
        networks, splits = (self.target_encoder, self.target_projector), self.splits(len(view))
        if (parallel.world_size() == 1 and splits == 1) or not uses_batch(*networks):
            features, z = in_parts(*networks, view, splits)
            return features, unit(z)
        shuffled, order = parallel.shuffle(view, self.shuffling(progress))
        features, z = in_parts(*networks, shuffled, splits)
        key = unit(z)
        own = features.each(lambda x: parallel.unshuffle(x, order) if self.maps else x[:0])
        return own, parallel.unshuffle(key, order)

    def shuffling(self, progress: float) -> torch.Generator:
        """A generator for the order of a step's samples, the same in all processes."""
        return torch.Generator().manual_seed((self.seed + int(progress * 2**31)) % SEEDS)

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        return self.compare(batch["views"], progress, batch.get("local"))[:2]

    def momentum(self, progress: float) -> float:
        return self.ema

    def after_step(self, progress: float) -> None:
        """Updates the queue and the target."""
        self.queue.turn()
        move_towards(self.target_encoder, self.encoder, self.momentum(progress))
        move_towards(self.target_projector, self.projector, self.momentum(progress))


class Simsiam(nn.Module):
    """SimSiam (Chen & He 2021): each view predicts the other's projection, through which no gradient flows.

    Projector: three layers; the last batch norm has no affine weights. Predictor: a bottleneck, trained at a constant
    rate. Layers before a batch norm have no bias, as in the authors' code. The target is the online network itself.
    """

    accumulates = True
    rates: ClassVar[Rates] = {"predictor.": "constant"}

    def __init__(self, config: methods.SimsiamConfig | methods.SynthPairConfig, samples: int):
        super().__init__()
        self.encoder = initial.encoder(config)
        dim = config.simsiam.dim
        hidden = self.encoder.dim if config.simsiam.hidden == "auto" else config.simsiam.hidden
        self.views = self.encoder.normalised(config.views)
        self.projector = nn.Sequential(
            *(nn.Linear(self.encoder.dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)),
            *(nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)),
            *(nn.Linear(hidden, dim, bias=False), nn.BatchNorm1d(dim, affine=False)),
        )
        self.predictor = mlp(dim, config.simsiam.bottleneck, dim, bias=False)

    def compare(self, views: Tensor, progress: float) -> Compared:
        online = [self.encoder(view) for view in views]
        z_1, z_2 = (self.projector(f.pooled) for f in online)  # (B, d)
        p_1, p_2 = self.predictor(z_1), self.predictor(z_2)
        loss = negative_cosine(p_1, z_2.detach()) / 2 + negative_cosine(p_2, z_1.detach()) / 2
        return loss, {"contrast": loss.detach(), "feature_std": feature_std(online[0].pooled)}, online, []

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        return self.compare(batch["views"], progress)[:2]

    def after_step(self, progress: float) -> None:
        """No extra state to update."""


class Byol(nn.Module):
    """Bootstrap your own latent (Grill et al. 2020; Eq. 6 of the CVSA paper): each view predicts the other's projection
    by a moving average of the network."""

    accumulates = True
    rates: ClassVar[Rates] = {}

    def __init__(self, config: methods.ByolConfig | methods.CvsaConfig | comparisons.LcrConfig, samples: int):
        super().__init__()
        self.ema = config.byol.ema
        self.encoder = initial.encoder(config)
        self.views = self.encoder.normalised(config.views)
        self.projector = mlp(self.encoder.dim, config.byol.hidden, config.byol.dim)
        self.predictor = mlp(config.byol.dim, config.byol.hidden, config.byol.dim)
        self.target_encoder = frozen_copy(self.encoder)
        self.target_projector = frozen_copy(self.projector)

    def compare(self, views: Tensor, progress: float, local: Tensor | None = None) -> Compared:
        online = [self.encoder(view) for view in views]
        p_q, p_k = (self.predictor(self.projector(f.pooled)) for f in online)  # (B, d)
        with torch.no_grad():
            target = [self.target_encoder(view) for view in views]
            h_q, h_k = (self.target_projector(f.pooled) for f in target)  # (B, d)
        loss = negative_cosine(p_q, h_k) / 2 + negative_cosine(p_k, h_q) / 2
        if local is not None:
            p = self.predictor(self.projector(self.encoder(local.flatten(0, 1)).pooled))  # (L B, d)
            loss = with_local(loss, [negative_cosine(p, h.repeat(len(local), 1)) for h in (h_q, h_k)], len(local))
        return loss, {"contrast": loss.detach(), "feature_std": feature_std(online[0].pooled)}, online, target

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        return self.compare(batch["views"], progress, batch.get("local"))[:2]

    def momentum(self, progress: float) -> float:
        return target_momentum(progress, self.ema)

    def after_step(self, progress: float) -> None:
        move_towards(self.target_encoder, self.encoder, self.momentum(progress))
        move_towards(self.target_projector, self.projector, self.momentum(progress))


class Simclr(nn.Module):
    """SimCLR (Chen et al. 2020): each view against all others of the batch, across all processes. Both views form one
    forward pass. Parts of a batch have fewer negatives than the batch, so gradients cannot accumulate.

    The head follows the paper's text; the authors' code adds a batch norm after the last layer.
    """

    accumulates = False
    rates: ClassVar[Rates] = {}

    def __init__(self, config: methods.SimclrConfig, samples: int):
        super().__init__()
        self.tau = config.simclr.tau
        self.encoder = initial.encoder(config)
        self.views = self.encoder.normalised(config.views)
        self.projector = mlp(self.encoder.dim, config.simclr.hidden, config.simclr.dim)

    def compare(self, views: Tensor, progress: float) -> Compared:
        b = views.shape[1]
        features = self.encoder(views.flatten(0, 1))
        z = unit(self.projector(features.pooled))  # (2 B, d)
        # The anchors are this process's rows. Averaging gradients over processes gives the gradient of the whole batch.
        z_1, z_2 = (parallel.gather_with_grad(half) for half in z.split(b))  # (N, d)
        loss = nt_xent(z_1, z_2, self.tau, slice(parallel.rank() * b, (parallel.rank() + 1) * b))
        online = [features.each(lambda x, half=half: x.split(b)[half]) for half in (0, 1)]
        return loss, {"contrast": loss.detach(), "feature_std": feature_std(online[0].pooled)}, online, []

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        return self.compare(batch["views"], progress)[:2]

    def after_step(self, progress: float) -> None:
        """No extra state to update."""
