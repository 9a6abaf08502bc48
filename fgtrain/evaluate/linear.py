"""A linear layer on the frozen encoder: the protocols of two papers, fractions of the labels, several trials.

The encoder is the cost, so it runs once per epoch, over new random crops of the whole train split, and every layer
that is wanted (fractions x trials x rates) learns from that pass side by side. Trials therefore share their crops;
labelled samples, first weights and order are each trial's own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec

from ..networks.encoder import Encoder
from ..networks.optim import learning_rate
from .probe import Rows, embed, held_out, labelled, passes


@dataclass(frozen=True)
class Protocol:
    """How the linear layer is trained: SGD, momentum 0.9, no weight decay."""

    epochs: int
    batch_size: int
    rates: tuple[float, ...]
    """Learning rates; more than one: the best on a tenth of the labelled part of TRAIN is used."""
    drops: tuple[float, ...] = ()
    """Shares of the epochs after which the rate is a tenth of what it was; without any, half a cosine to 0."""

    def rate(self, step: int, total: int, peak: float) -> float:
        """Steps done of `total` -> rate of the next."""
        if self.drops:
            return peak * 0.1 ** sum(step >= drop * total for drop in self.drops)
        return learning_rate(step, total, 0, peak)


PROTOCOLS = {
    "synth-pair": Protocol(100, 128, (30.0,), drops=(0.6, 0.8)),  # of MoCo, which its paper follows
    "cvsa": Protocol(50, 16, (0.1, 0.01, 0.001)),
}

RANDOM_CROP_AREA = (0.08, 1.0)
"""RandomResizedCrop's range as supervised training has it (Szegedy et al. 2015; torchvision's default)."""


class Student:
    """One layer, the samples it may see (samples,) and its learning rate; its seed decides weights and order."""

    def __init__(self, seen: Tensor, rate: float, inputs: int, classes: int, protocol: Protocol, seed: int):
        self.seen, self.rate, self.protocol = seen, rate, protocol
        self.generator = torch.Generator().manual_seed(seed)
        self.layer = nn.Linear(inputs, classes)
        with torch.no_grad():
            self.layer.weight.normal_(0, 0.01, generator=self.generator)
            self.layer.bias.zero_()
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.0, momentum=0.9)

    def learn(self, epoch: int, rows: Rows) -> None:
        """One epoch over those of the rows that it may see."""
        features, labels, numbers = rows
        seen = self.seen[numbers].nonzero()[:, 0]
        order = seen[torch.randperm(len(seen), generator=self.generator)]
        batches = order.split(self.protocol.batch_size)
        for number, chosen in enumerate(batches):
            step, total = epoch * len(batches) + number, self.protocol.epochs * len(batches)
            self.optimizer.param_groups[0]["lr"] = self.protocol.rate(step, total, self.rate)
            loss = F.cross_entropy(self.layer(features[chosen]), labels[chosen])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def right(self, rows: Rows) -> Tensor:
        """(N,) bool."""
        with torch.no_grad():
            return self.layer(rows[0]).argmax(1) == rows[1]


class Trial:
    """One fraction and seed: a student on all labelled samples per rate, and where there are several rates another
    that does without the held-out ones, by which the rate is chosen."""

    def __init__(self, labels: Tensor, fraction: float, inputs: int, classes: int, protocol: Protocol, seed: int):
        """`labels` (samples,) by sample number."""
        seen = labelled(labels, fraction, seed)
        held = torch.zeros_like(seen)
        held[seen] = held_out(labels[seen], seed)
        made = (inputs, classes, protocol, seed)
        self.students = [Student(seen, rate, *made) for rate in protocol.rates]
        self.searching: list[Student] = []
        if len(protocol.rates) > 1:
            if not held.any():
                raise InputError(
                    f"--fractions {fraction:g} leaves no class with two labelled images, so none can be held out to "
                    f"choose among the learning rates {protocol.rates}. Allow a larger fraction."
                )
            self.searching = [Student(seen & ~held, rate, *made) for rate in protocol.rates]
        self.held = held

    def learn(self, epoch: int, rows: Rows) -> None:
        for student in (*self.students, *self.searching):
            student.learn(epoch, rows)

    def best(self, whole: Rows) -> Student:
        """The student at the rate that did best on the held-out samples; a tie goes to the larger rate."""
        held = self.held[whole[2]]
        scores = [student.right(whole)[held].float().mean().item() for student in self.searching] or [0.0]
        return self.students[scores.index(max(scores))]


def fit(epochs: Iterable[Rows], trials: Sequence[Trial], protocol: Protocol) -> None:
    """Trains every trial on the same passes, one an epoch."""
    for epoch, rows in zip(range(protocol.epochs), epochs):
        for trial in trials:
            trial.learn(epoch, rows)


def linear(
    encoder: Encoder,
    shards: ShardSet,
    size: int,
    device: torch.device,
    protocol: Protocol,
    cache: bool,
    fractions: Sequence[float],
    trials: int,
    seed: int,
) -> dict[float, list[tuple[Tensor, float]]]:
    """Fraction -> per trial the test samples (n,) bool, right or wrong, and the learning rate used.

    Trained on a RandomResizedCrop and flip of each image per epoch, drawn anew; with `cache` on the central square,
    whose features are computed once.
    """
    central = ViewSpec.evaluation(size)
    random = ViewSpec(size=size, views=1, crop="rrc", area=RANDOM_CROP_AREA, jitter=0, grayscale=0, blur=0)
    whole = embed(encoder, shards, "train", central, device)
    labels = torch.empty_like(whole[1]).scatter_(0, whole[2], whole[1])
    made = {
        fraction: [
            Trial(labels, fraction, whole[0].shape[1], len(shards.classes), protocol, seed + i) for i in range(trials)
        ]
        for fraction in fractions
    }
    fit(
        repeat(whole) if cache else passes(encoder, shards, "train", random, device, seed),
        [trial for each in made.values() for trial in each],
        protocol,
    )
    test = embed(encoder, shards, "test", central, device)
    chosen = {fraction: [trial.best(whole) for trial in each] for fraction, each in made.items()}
    return {fraction: [(s.right(test), s.rate) for s in each] for fraction, each in chosen.items()}
