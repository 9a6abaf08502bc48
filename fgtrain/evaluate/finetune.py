"""Fine-tuning, CVSA's protocol: the whole network, its learning rate and weight decay chosen on a part of TRAIN.

First each pair of the grid is trained once without a tenth of the train split (of every class) and scored on that
tenth. Then the best pair is trained on the whole train split, several times from different seeds, and those trials
alone see the test split, at their last epoch. A fit is complete before it counts: `finish` is asked for every one, so
that a caller who keeps a journal can give back those that an earlier, stopped call has finished.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, SplitReader
from fgdata.shards.reader import label as label_of
from fgdata.views import ViewSpec, load
from fgtrain.config import need
from fgtrain.data import has_bf16
from fgtrain.evaluate.linear import RANDOM_CROP_AREA
from fgtrain.evaluate.probe import forward, held_out
from fgtrain.nets import Encoder
from fgtrain.optim import learning_rate


@dataclass(frozen=True)
class Tuning:
    """How a network is fine-tuned: SGD, momentum 0.9, half a cosine to 0, RandomResizedCrop and flip."""

    epochs: int = 50
    batch_size: int = 16
    rates: tuple[float, ...] = (0.1, 0.05, 0.01, 0.005, 0.001)
    decays: tuple[float, ...] = (5e-4, 1e-4)
    trials: int = 3

    def check(self) -> None:
        need(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        need(self.batch_size >= 2, "batch-size", self.batch_size, "2 or more, as batch norm needs")
        need(self.trials >= 1, "trials", self.trials, "1 or more")
        for name, values, least in (("rates", self.rates, 1e-12), ("decays", self.decays, 0.0)):
            fits = len(values) > 0 and all(least <= value < float("inf") for value in values)
            need(
                fits,
                name,
                " ".join(f"{value:g}" for value in values) or "empty",
                "numbers above 0" if least else "0 or more",
            )


@dataclass(frozen=True)
class Fit:
    """One training of the network. `search`: without the held-out part of TRAIN and scored on it; else on TEST."""

    rate: float
    decay: float
    seed: int
    search: bool


class Part(ShardSet):
    """A shard set of whose split `cut` only the samples `rows` (n,) are seen, renumbered from 0."""

    def __init__(self, whole: ShardSet, cut: str, rows: Tensor):
        super().__init__(whole.path, whole.manifest)
        self._readers[cut] = cast(SplitReader, Rows(whole.split(cut), rows.tolist()))


class Rows:
    """Some samples of a split, by their numbers there; what the loader asks of a SplitReader."""

    def __init__(self, reader: SplitReader, rows: list[int]):
        self.reader, self.rows, self.split = reader, rows, reader.split

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, number: int) -> dict[str, bytes]:
        return self.reader.read(self.rows[number])


class Network(nn.Module):
    """(B, 3, S, S) -> (B, classes): the encoder and a linear layer on its pooled features."""

    def __init__(self, encoder: Encoder, classes: int, seed: int):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dim, classes)
        with torch.no_grad():
            self.head.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(seed))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).pooled)


Finish = Callable[[Fit, Callable[[], float]], float]
"""A fit and the call that trains it -> its accuracy, from that call or from an earlier one's journal."""


def tune(
    make: Callable[[], Encoder],
    shards: ShardSet,
    size: int,
    device: torch.device,
    tuning: Tuning,
    seed: int,
    finish: Finish,
) -> tuple[Fit, list[float]]:
    """`make` gives the pre-trained encoder anew -> the pair of the grid that was chosen, accuracies of the trials.

    A grid of one pair is not searched. A tie goes to the pair that the grid names first.
    """
    reader = shards.split("train")
    held = held_out(torch.tensor([label_of(reader.read(i)) for i in range(len(reader))]), seed)
    grid = [Fit(rate, decay, seed, search=True) for rate, decay in product(tuning.rates, tuning.decays)]
    if len(grid) > 1 and not held.any():
        raise InputError(
            "No class of the train split has two images, so none can be held out to choose among the grid; name one "
            "learning rate and one weight decay: --rates 0.01 --decays 0.0001"
        )
    left = len(reader) - int(held.sum()) * (len(grid) > 1)
    need(tuning.batch_size <= left, "batch-size", tuning.batch_size, f"2 to {left:,}, the images to train on")

    def train_and_score(fit: Fit) -> float:
        learns = Part(shards, "train", (~held).nonzero()[:, 0]) if fit.search else shards
        network = fine_tune(make(), learns, size, device, fit, tuning)
        if fit.search:
            return accuracy(network, Part(shards, "train", held.nonzero()[:, 0]), "train", size, device)
        if not all(parameter.isfinite().all() for parameter in network.parameters()):
            raise InputError(
                f"Fine-tuning diverged: at learning rate {fit.rate:g} and weight decay {fit.decay:g}, seed {fit.seed}, "
                "the weights are not finite after the last epoch. Name lower --rates."
            )
        return accuracy(network, shards, "test", size, device)

    best = grid[0]
    if len(grid) > 1:
        scores = [finish(fit, partial(train_and_score, fit)) for fit in grid]
        best = grid[scores.index(max(scores))]
    fits = [Fit(best.rate, best.decay, seed + i, search=False) for i in range(tuning.trials)]
    return best, [finish(fit, partial(train_and_score, fit)) for fit in fits]


def fine_tune(encoder: Encoder, shards: ShardSet, size: int, device: torch.device, fit: Fit, tuning: Tuning) -> Network:
    """Trains on the train split of `shards` -> the network as it stands after the last epoch."""
    views = ViewSpec(size=size, views=1, crop="rrc", area=RANDOM_CROP_AREA, jitter=0, grayscale=0, blur=0)
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
    """Share of a split that is classified right, on the central square: nothing by a network that has diverged."""
    right = []
    for features, batch in forward(network.encoder, shards, split, ViewSpec.evaluation(size), device):
        with torch.inference_mode():
            logits = network.head(features.pooled.float())
            right.append((logits.argmax(1) == batch["label"].to(device)) & logits.isfinite().all(1))
    return torch.cat(right).float().mean().item()
