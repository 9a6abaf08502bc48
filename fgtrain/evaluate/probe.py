"""Features of a frozen encoder over a split, and the parts of a split that evaluations train and choose on.

Nothing is chosen on the test split: no epoch, no learning rate and no k.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, label, read_all
from fgdata.views import Loader, ViewSpec, load

from ..networks.encoder import Encoder

BATCH = 128

Rows = tuple[Tensor, Tensor, Tensor]
"""Features (N, n), labels (N,) and sample numbers (N,), on the CPU, in the order of the split."""


def forward(
    encoder: Encoder, shards: ShardSet, split: str, views: ViewSpec, device: torch.device, backend: str = "auto"
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """One pass over a split -> per batch the features (B, n) of its first view, without gradients, and the batch.

    When `views.plain` is set, the features are those of the whole image, resized and not cropped. `backend` is that of
    the loader.
    """
    with _open(shards, split, views, device, backend=backend) as loader:
        yield from _forward(encoder, loader, views.plain, device)


def embed(encoder: Encoder, shards: ShardSet, split: str, views: ViewSpec, device: torch.device) -> Rows:
    """One pass over a split -> its rows. InputError when a feature is not finite."""
    return _rows(forward(encoder, shards, split, views, device))


def passes(
    encoder: Encoder, shards: ShardSet, split: str, views: ViewSpec, device: torch.device, seed: int
) -> Iterator[Rows]:
    """Endless passes over a split, one per epoch of a loader, each with its own random views.

    InputError when a feature is not finite.
    """
    with _open(shards, split, views, device, seed) as loader:
        while True:
            yield _rows(_forward(encoder, loader, views.plain, device))


def _open(
    shards: ShardSet, split: str, views: ViewSpec, device: torch.device, seed: int = 0, backend: str = "auto"
) -> Loader:
    """A loader that yields every sample once per epoch, in the order of the split."""
    order = {"shuffle": False, "last_batch": "keep", "seed": seed, "backend": backend}
    return load(shards, views=views, batch_size=BATCH, split=split, device=str(device), **order)


def _forward(
    encoder: Encoder, loader: Loader, plain: bool, device: torch.device
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    encoder = placed(encoder, device)
    for x, batch in _images(loader, plain, device):
        with torch.inference_mode():
            features = encoder.describe(encoder(x))
        yield features, batch


def images(
    shards: ShardSet, split: str, views: ViewSpec, device: torch.device
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """One pass over a split -> per batch the images (B, 3, S, S) that `forward` would use, and the batch itself."""
    with _open(shards, split, views, device) as loader:
        yield from _images(loader, views.plain, device)


def _images(loader: Loader, plain: bool, device: torch.device) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    for batch in loader:
        yield (batch["plain"] if plain else batch["views"][0]).to(device), batch


def placed(encoder: Encoder, device: torch.device) -> Encoder:
    """The encoder on a device and in evaluation mode."""
    return encoder.to(device).to(memory_format=torch.channels_last).eval()


def _rows(batches: Iterator[tuple[Tensor, dict[str, Tensor]]]) -> Rows:
    rows = [(features.float().cpu(), batch["label"].cpu(), batch["index"].cpu()) for features, batch in batches]
    features, labels, index = (torch.cat(column) for column in zip(*rows))
    if not features.isfinite().all():
        raise InputError(
            "The encoder's features are not finite on this set: its training diverged. Name an earlier checkpoint."
        )
    return features, labels, index


def labels_of(shards: ShardSet, split: str) -> Tensor:
    """(N,) class of every sample of a split, by sample number."""
    reader = shards.split(split)
    return torch.tensor([label(sample) for sample in read_all(reader, without="jpg")])


def held_out(labels: Tensor, seed: int) -> Tensor:
    """(N,) labels -> (N,) bool: a tenth of every class that has two samples or more, and at least one of each."""
    return _of_each_class(labels, lambda n: max(1, n // 10) if n > 1 else 0, seed)


def labelled(labels: Tensor, fraction: float, seed: int, flag: str = "fractions") -> Tensor:
    """(N,) labels -> (N,) bool: this fraction of every class, rounded. `flag` gives the fraction.

    For one seed a smaller fraction is a subset of a larger one. InputError when a class would keep no sample.
    """
    fewest = int(labels.unique(return_counts=True)[1].min())
    if round(fewest * fraction) < 1:
        least = next(f / 1000 for f in range(1, 1001) if round(fewest * f / 1000))
        raise InputError(
            f"--{flag} {fraction:g} leaves a class of {fewest} training images without a labelled one; "
            f"this set allows {least:g} to 1."
        )
    return _of_each_class(labels, lambda n: round(n * fraction), seed)


def _of_each_class(labels: Tensor, count, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for each in labels.unique():
        rows = (labels == each).nonzero()[:, 0]
        chosen[rows[torch.randperm(len(rows), generator=generator)[: count(len(rows))]]] = True
    return chosen


def score(right: Tensor) -> dict[str, float]:
    """(n,) bool -> accuracy and its standard error sqrt(p (1 - p) / n), as fractions of one, and n."""
    p, n = right.float().mean().item(), len(right)
    return {"accuracy": p, "standard_error": (p * (1 - p) / n) ** 0.5, "n": n}


def paired(right: Tensor, other: Tensor) -> tuple[float, float]:
    """(n,), (n,) figures of the same samples -> difference of their means, and its standard error (paired)."""
    d = right.float() - other.float()
    return d.mean().item(), (d.var(correction=0) / len(d)).sqrt().item()
