"""Frozen encoder, simple classifier: k nearest neighbours and a linear layer. Train split in, test split scored.

The test split decides nothing: no epoch, no learning rate and no k is chosen on it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec, load
from fgtrain.nets import Encoder
from fgtrain.optim import learning_rate


@dataclass(frozen=True)
class Protocol:
    """How the linear layer is trained."""

    epochs: int
    batch_size: int
    rates: tuple[float, ...]
    """Learning rates; more than one: the best on a tenth of TRAIN is used."""


Epochs = Callable[[int | None], tuple[Tensor, Tensor, Tensor]]
"""Epoch -> features (N, n), labels (N,) and sample numbers (N,) to train on; None: those to choose by."""

PROTOCOLS = {"synth-pair": Protocol(100, 128, (30.0,)), "cvsa": Protocol(50, 16, (0.1, 0.01, 0.001))}


@torch.no_grad()
def embed(
    encoder: Encoder, shards: ShardSet, split: str, views: ViewSpec, device: torch.device, **order
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass over a split -> features (N, n), labels (N,), sample numbers (N,), on the CPU, in the loader's order."""
    encoder = encoder.to(device).to(memory_format=torch.channels_last).eval()
    rows = []
    order = {"shuffle": False, "last_batch": "keep", **order}
    loader = load(shards, views=views, batch_size=128, split=split, device=str(device), **order)
    try:
        for batch in loader:
            x = batch["views"][0].to(device)
            rows.append((encoder(x).pooled.float().cpu(), batch["label"].cpu(), batch["index"].cpu()))
    finally:
        loader.close()
    features, labels, index = (torch.cat(column) for column in zip(*rows))
    return features, labels, index


def knn_predict(bank: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float, classes: int) -> Tensor:
    """(N, n), (N,), (Q, n) -> (Q,) classes voted by the k most similar rows (cosine). Ties go to the lowest class.

    A vote weighs exp(cosine / temperature) (Wu et al., CVPR 2018, section 3.4), or one where temperature is 0.
    """
    bank, predictions = F.normalize(bank, dim=1), []
    for rows in F.normalize(queries, dim=1).split(1024):
        similarity, nearest = (rows @ bank.T).topk(min(k, len(bank)))  # (Q, k)
        weight = (similarity / temperature).exp() if temperature > 0 else torch.ones_like(similarity)
        votes = weight.new_zeros(len(rows), classes).scatter_add_(1, labels[nearest], weight)
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)


def fit_linear(epoch_of: Epochs, valid: Tensor, classes: int, protocol: Protocol, seed: int) -> tuple[nn.Linear, float]:
    """Trains a linear layer -> the layer and its learning rate.

    Where the protocol has several rates, one layer for each is trained side by side without the samples that `valid`
    (samples,) marks; the rate of the best on those is used to train again on all.
    """
    best = 0
    if len(protocol.rates) > 1:
        layers = _train(epoch_of, ~valid, classes, protocol.rates, protocol, seed)
        features, labels, numbers = epoch_of(None)
        held = valid[numbers]
        scores = [(layer(features[held]).argmax(1) == labels[held]).float().mean().item() for layer in layers]
        best = scores.index(max(scores))
    rate = protocol.rates[best]
    return _train(epoch_of, None, classes, (rate,), protocol, seed)[0], rate


def _train(
    epoch_of: Epochs, keep: Tensor | None, classes: int, rates: tuple[float, ...], protocol: Protocol, seed: int
) -> list[nn.Linear]:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Linear] = []
    optimizers: list[torch.optim.SGD] = []
    for epoch in range(protocol.epochs):
        features, labels, numbers = epoch_of(epoch)
        if keep is not None:
            chosen = keep[numbers]
            features, labels = features[chosen], labels[chosen]
        if not layers:
            for _ in rates:
                layer = nn.Linear(features.shape[1], classes)
                with torch.no_grad():
                    layer.weight.normal_(0, 0.01, generator=generator)
                    layer.bias.zero_()
                layers.append(layer)
                optimizers.append(torch.optim.SGD(layer.parameters(), lr=0.0, momentum=0.9))
        batches = torch.randperm(len(features), generator=generator).split(protocol.batch_size)
        for number, rows in enumerate(batches):
            step, total = epoch * len(batches) + number, protocol.epochs * len(batches)
            for layer, optimizer, rate in zip(layers, optimizers, rates):
                optimizer.param_groups[0]["lr"] = learning_rate(step, total, 0, rate)
                loss = F.cross_entropy(layer(features[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return layers


def knn(encoder: Encoder, shards: ShardSet, size: int, device: torch.device, k: int, temperature: float) -> Tensor:
    """Test samples -> (n,) bool, right or wrong: neighbours in the train split, whole central square."""
    views = ViewSpec.evaluation(size)
    bank, labels, _ = embed(encoder, shards, "train", views, device)
    queries, truth, _ = embed(encoder, shards, "test", views, device)
    return knn_predict(bank, labels, queries, k, temperature, len(shards.classes)) == truth


def linear(
    encoder: Encoder, shards: ShardSet, size: int, device: torch.device, protocol: Protocol, cache: bool, seed: int
) -> tuple[Tensor, float]:
    """Test samples -> (n,) bool, right or wrong, and the learning rate used.

    Trained on a RandomResizedCrop and flip of each image per epoch, drawn anew; with `cache` on the central square,
    whose features are computed once.
    """
    central = ViewSpec.evaluation(size)
    random = ViewSpec(size=size, views=1, crop="rrc", jitter=0, grayscale=0, blur=0)
    whole = embed(encoder, shards, "train", central, device)
    queries, truth, _ = embed(encoder, shards, "test", central, device)

    def epoch_of(epoch: int | None) -> tuple[Tensor, Tensor, Tensor]:
        if cache or epoch is None:
            return whole
        return embed(encoder, shards, "train", random, device, seed=seed + epoch)

    valid = torch.zeros(len(whole[1]), dtype=torch.bool)
    valid[whole[2]] = held_out(whole[1], seed)
    layer, rate = fit_linear(epoch_of, valid, len(shards.classes), protocol, seed)
    return layer(queries).argmax(1) == truth, rate


def held_out(labels: Tensor, seed: int) -> Tensor:
    """(N,) -> (N,) bool: a tenth of every class with at least two samples, at least one of each."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) > 1:
            held[rows[torch.randperm(len(rows), generator=generator)[: max(1, len(rows) // 10)]]] = True
    return held


def score(right: Tensor) -> dict[str, float]:
    """(n,) bool -> accuracy and its standard error sqrt(p (1 - p) / n), as shares of one."""
    p, n = right.float().mean().item(), len(right)
    return {"accuracy": p, "standard_error": (p * (1 - p) / n) ** 0.5, "n": n}


def paired(right: Tensor, other: Tensor) -> tuple[float, float]:
    """Difference of two accuracies on the same samples, and its standard error from the paired differences."""
    d = right.float() - other.float()
    return d.mean().item(), (d.var(correction=0) / len(d)).sqrt().item()


def stamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
