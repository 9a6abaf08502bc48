"""Fine-tuning by CVSA's protocol: learning rate and weight decay are chosen on a held-out part of the train split.

With a fraction of the labels, "the train split" below is that fraction of every class, drawn by the seed of the fit.
First each pair of the grid trains once without a tenth of every class of the train split and is scored on that tenth.
Then the best pair trains on the whole train split, several times from different seeds, and only those trials are scored
on the test split, after their last epoch. `tune` calls `finish` for every fit, so a caller that keeps a journal can
return the accuracies of fits that an earlier, stopped call has completed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgdata.errors import InputError, counted
from fgdata.shards.reader import ShardSet, SplitReader
from fgdata.views import ViewSpec, load

from ..networks.encoder import Encoder
from ..networks.optim import learning_rate
from ..place import has_bf16
from ..settings.common import need
from ..settings.evaluations import Finetune
from .linear import RANDOM_CROP_AREA
from .probe import forward, held_out, labelled, labels_of


@dataclass(frozen=True)
class Fit:
    """One training of the network. A search trains without the held-out part of the train split and is scored on it;
    any other fit trains on all of it and is scored on the test split."""

    rate: float
    decay: float
    seed: int
    search: bool
    fraction: float = 1.0
    """Of the labels of every class."""


class Part(ShardSet):
    """A view of the shard set `whole` whose split `cut` has only the samples `rows` (n,), renumbered from 0."""

    def __init__(self, whole: ShardSet, cut: str, rows: Tensor):
        super().__init__(whole.path, whole.manifest, store=whole.store)
        self.whole, self._cut, self._rows = whole, cut, rows.tolist()
        self._readers[cut] = cast(SplitReader, Rows(whole.split(cut), self._rows))

    def map_row(self, split: str, number: int) -> int:
        return self.whole.map_row(split, self._rows[number] if split == self._cut else number)


class Rows:
    """A reader of the samples `rows` of a split; it has the methods of SplitReader that the loader calls."""

    def __init__(self, reader: SplitReader, rows: list[int]):
        self.reader, self.rows, self.split = reader, rows, reader.split

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, number: int, without: Literal["jpg"] | None = None) -> dict[str, bytes]:
        return self.reader.read(self.rows[number], without)


class Network(nn.Module):
    """(B, 3, S, S) -> (B, classes): the encoder and a linear layer on the features that it describes."""

    def __init__(self, encoder: Encoder, classes: int, seed: int):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.described, classes)
        with torch.no_grad():
            self.head.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(seed))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder.describe(self.encoder(x)))


Finish = Callable[[Fit, Callable[[], float]], float]
"""(fit, function that trains it and returns its accuracy) -> accuracy, from that function or from a journal."""


def tune(
    make: Callable[[], Encoder],
    shards: ShardSet,
    size: int,
    device: torch.device,
    tuning: Finetune,
    finish: Finish,
) -> tuple[Fit, list[float]]:
    """Searches the grid of `tuning`, then trains the trials -> the fit with the chosen pair, accuracies of the trials.

    `make` returns a new copy of the pre-trained encoder for each fit; `size` is the view size in pixels; `finish` is
    called once per fit. A grid of one pair is not searched; a tie goes to the pair that comes first in the grid. The
    fraction of the labels is the first of `tuning`.
    InputError when a class would keep no image or no image can be held out, when a batch is larger than the training
    part, or when a trial diverges.
    """
    labels, fraction = labels_of(shards, "train"), tuning.fractions[0]
    rows = labelled(labels, fraction, tuning.seed).nonzero()[:, 0]  # of the search
    held = held_out(labels[rows], tuning.seed)
    grid = [Fit(rate, decay, tuning.seed, True, fraction) for rate, decay in product(tuning.rates, tuning.decays)]
    if len(grid) > 1 and not held.any():
        raise InputError(
            f"--fractions {fraction:g} leaves no class with two labelled images, so none can be held out to search the "
            "grid. Name one learning rate and one weight decay: --rates 0.01 --decays 0.0001"
        )
    smallest = len(held) - int(held.sum()) * (len(grid) > 1)
    if smallest < 2:
        rest = f" when {held.sum()} of {len(held)} are held out to search the grid" if len(grid) > 1 else ""
        raise InputError(
            f"Fine-tuning has {counted(smallest, 'image')} to train on{rest}; it needs at least 2. Use more labels "
            "(--fractions), or a larger set (--shards)."
        )
    allowed = f"2 to {smallest:,}, the number of training images"
    need(tuning.batch_size <= smallest, "batch-size", tuning.batch_size, allowed)

    def train_and_score(fit: Fit) -> float:
        own = rows[~held] if fit.search else labelled(labels, fraction, fit.seed).nonzero()[:, 0]
        training_set = Part(shards, "train", own) if len(own) < len(labels) else shards
        network = fine_tune(make(), training_set, size, device, fit, tuning)
        if fit.search:
            return accuracy(network, Part(shards, "train", rows[held]), "train", size, device)
        if not all(parameter.isfinite().all() for parameter in network.parameters()):
            raise InputError(
                f"Fine-tuning diverged: at learning rate {fit.rate:g} and weight decay {fit.decay:g}, seed {fit.seed}, "
                "the weights are not finite after the last epoch. Use lower --rates."
            )
        return accuracy(network, shards, "test", size, device)

    best = grid[0]
    if len(grid) > 1:
        scores = [finish(fit, partial(train_and_score, fit)) for fit in grid]
        best = grid[scores.index(max(scores))]
    fits = [Fit(best.rate, best.decay, tuning.seed + i, False, fraction) for i in range(tuning.trials)]
    return best, [finish(fit, partial(train_and_score, fit)) for fit in fits]


def fine_tune(
    encoder: Encoder, shards: ShardSet, size: int, device: torch.device, fit: Fit, tuning: Finetune
) -> Network:
    """Trains the encoder and a new linear layer on the train split of `shards` -> the network after the last epoch. All
    random draws, those of stochastic depth too, are decided by the seed of the fit."""
    with torch.random.fork_rng(devices=[]):  # a command that fine-tunes draws nothing else on a GPU
        torch.manual_seed(fit.seed % (1 << 63))
        return _fine_tune(encoder, shards, size, device, fit, tuning)


def _fine_tune(
    encoder: Encoder, shards: ShardSet, size: int, device: torch.device, fit: Fit, tuning: Finetune
) -> Network:
    crop = ViewSpec(size=size, views=1, crop="rrc", area=RANDOM_CROP_AREA, jitter=0, grayscale=0, blur=0)
    views = encoder.normalised(crop)
    network = Network(encoder, len(shards.classes), fit.seed).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, weight_decay=fit.decay)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device))
    with load(shards, views=views, batch_size=tuning.batch_size, seed=fit.seed, device=str(device)) as loader:
        total = tuning.epochs * len(loader)
        for epoch in range(tuning.epochs):
            for number, batch in enumerate(loader):
                rate = learning_rate(epoch * len(loader) + number, total, 0, fit.rate)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                with autocast:
                    logits = network(batch["views"][0].to(device))
                loss = F.cross_entropy(logits.float(), batch["label"].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network


def accuracy(network: Network, shards: ShardSet, split: str, size: int, device: torch.device) -> float:
    """Fraction of a split that is classified right, on central squares; logits that are not finite count as wrong."""
    right = []
    for features, batch in forward(network.encoder, shards, split, network.encoder.evaluation_view(size), device):
        with torch.inference_mode():
            logits = network.head(features.float())
            right.append((logits.argmax(1) == batch["label"].to(device)) & logits.isfinite().all(1))
    return torch.cat(right).float().mean().item()
