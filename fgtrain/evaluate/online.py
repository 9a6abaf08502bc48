"""What a run measures between two epochs: kNN, a linear probe, and RankMe, on features of a copy of its encoder.

    knn     accuracy of `fgtrain eval knn`
    linear  accuracy of `fgtrain eval linear --cache --epochs 30`
    rankme  effective rank of the training features, without labels

The features of a split are computed once for all of them. Only RankMe alone needs no whole split: it takes SAMPLES.
"""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet

from ..networks.encoder import Encoder
from ..settings.common import NEIGHBOURS, TEMPERATURE, Machine
from .finetune import Part
from .knn import classify
from .linear import PROTOCOLS, linear
from .probe import Rows, embed

MEASURES = ("knn", "linear", "rankme")
"""`--NAME-every N` measures NAME. RankMe comes with each of them."""
SAMPLES = 25_600
"""Images of RankMe (Garrido et al. 2023, section 3)."""
PROTOCOL = replace(PROTOCOLS["synth-pair"], epochs=30)


def due(machine: Machine, step: int, steps_per_epoch: int) -> list[str]:
    """What is measured after `step` steps."""
    epochs, rest = divmod(step, steps_per_epoch)
    every = {name: getattr(machine, f"{name}_every") for name in MEASURES}
    return [name for name, n in every.items() if n and epochs and not rest and epochs % n == 0]


def check(machine: Machine, shards: ShardSet) -> None:
    """InputError when the set lacks the splits or classes of a measurement."""
    for name in ("knn", "linear"):
        if not getattr(machine, f"{name}_every"):
            continue
        if not (shards.splits.get("train") and shards.splits.get("test")):
            has = ", ".join(split for split, count in shards.splits.items() if count) or "no split"
            raise InputError(
                f"--{name}-every needs a train and a test split; {shards.path} has {has}. Omit it, "
                "or build the set with both: fgdata build-shards --dataset folder --root IMAGES --test-fraction 0.2"
            )
        if len(shards.classes) < 2:
            raise InputError(
                f"--{name}-every needs a set of two classes or more; {shards.path} has {len(shards.classes)}. Omit "
                "it; --rankme-every needs no classes."
            )


def measure(
    encoder: Encoder, shards: ShardSet, split: str, size: int, device: torch.device, wanted: Collection[str]
) -> dict[str, float]:
    """The wanted figures and RankMe, of central squares at `size` pixels; torch's global generator is not used.

    split: the one that the run trains on, which RankMe measures.
    """
    view, figures = encoder.evaluation_view(size), {}
    rows: dict[str, Rows] = {}
    if {"knn", "linear"} & {*wanted}:
        rows = {name: embed(encoder, shards, name, view, device) for name in ("train", "test")}
    if "knn" in wanted:
        right = classify(rows["train"], rows["test"], NEIGHBOURS, TEMPERATURE, len(shards.classes))
        figures["knn"] = right.float().mean().item()
    if "linear" in wanted:
        options = shards, size, device, PROTOCOL, True, (1.0,), 1, 0
        ((right, _),) = linear(encoder, rows["train"], rows["test"], *options)[1.0]
        figures["linear"] = right.float().mean().item()
    if split in rows:
        features = rows[split][0]
        features = features[_evenly(len(features))]
    else:
        part = Part(shards, split, _evenly(len(shards.split(split))))
        features = embed(encoder, part, split, view, device)[0]
    return figures | {"rankme": rankme(features)}


def rankme(features: Tensor, eps: float = 1e-7) -> float:
    """(N, n) -> the exponential of the entropy of the normalised singular values, 1 to min(N, n) (Garrido et al., ICML
    2023, eq. 2 and 3): p_k = s_k / sum s + eps, exp(-sum p_k log p_k). 1: all features lie on one line."""
    x = features.double()
    small = x @ x.T if len(x) < x.shape[1] else x.T @ x  # its eigenvalues are the squares of the singular values
    s = torch.linalg.eigvalsh(small).clamp_min(0).sqrt()
    p = s / s.sum().clamp_min(1e-300) + eps
    return (-(p * p.log()).sum()).exp().item()


def _evenly(count: int) -> Tensor:
    """Numbers of at most SAMPLES of `count` samples, evenly spaced."""
    chosen = min(count, SAMPLES)
    return torch.arange(chosen) * count // chosen
