"""A linear layer on the frozen encoder: the protocols of two papers, fractions of the labels, several trials.

The encoder dominates the cost, so it runs once per epoch, over new random crops of the whole train split, and all
layers (fractions x trials x rates) learn from that pass. Trials therefore share their crops; each has its own labelled
samples, initial weights and order.
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
from .probe import Rows, held_out, labelled, passes


@dataclass(frozen=True)
class Protocol:
    """How the linear layer is trained: SGD, momentum 0.9, no weight decay."""

    epochs: int
    batch_size: int
    rates: tuple[float, ...]
    """Learning rates. With more than one, the best on a tenth of the labelled part of the train split is used."""
    drops: tuple[float, ...] = ()
    """Fractions of the epochs after which the rate is divided by 10; when empty, half a cosine to 0."""

    def rate(self, step: int, total: int, peak: float) -> float:
        """The rate of step `step` (from 0) of `total`, for the peak rate `peak`."""
        if self.drops:
            return peak * 0.1 ** sum(step >= drop * total for drop in self.drops)
        return learning_rate(step, total, 0, peak)


PROTOCOLS = {
    "synth-pair": Protocol(100, 128, (30.0,), drops=(0.6, 0.8)),  # MoCo's, which the paper of synth-pair follows
    "cvsa": Protocol(50, 16, (0.1, 0.01, 0.001)),
}

RANDOM_CROP_AREA = (0.08, 1.0)
"""RandomResizedCrop's range in supervised training (Szegedy et al. 2015; torchvision's default)."""


class Student:
    """One linear layer in training.

    `allowed` (samples,) bool marks the samples it may learn from; `rate` is its peak learning rate; `seed` decides its
    initial weights and the order of samples.
    """

    def __init__(self, allowed: Tensor, rate: float, inputs: int, classes: int, protocol: Protocol, seed: int):
        self.allowed, self.rate, self.protocol = allowed, rate, protocol
        self.generator = torch.Generator().manual_seed(seed)
        self.layer = nn.Linear(inputs, classes)
        with torch.no_grad():
            self.layer.weight.normal_(0, 0.01, generator=self.generator)
            self.layer.bias.zero_()
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.0, momentum=0.9)

    def learn(self, epoch: int, rows: Rows) -> None:
        """Trains for one epoch on the allowed samples of `rows`."""
        features, labels, numbers = rows
        usable = self.allowed[numbers].nonzero()[:, 0]
        order = usable[torch.randperm(len(usable), generator=self.generator)]
        batches = order.split(self.protocol.batch_size)
        for number, chosen in enumerate(batches):
            step, total = epoch * len(batches) + number, self.protocol.epochs * len(batches)
            self.optimizer.param_groups[0]["lr"] = self.protocol.rate(step, total, self.rate)
            loss = F.cross_entropy(self.layer(features[chosen]), labels[chosen])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def right(self, rows: Rows) -> Tensor:
        """(N,) bool: whether each row is classified right."""
        with torch.no_grad():
            return self.layer(rows[0]).argmax(1) == rows[1]


class Trial:
    """One fraction of the labels and one seed: a student per rate on all labelled samples.

    With several rates there is a second student per rate that learns without the held-out samples and is scored on
    them, to choose the rate.
    """

    def __init__(self, labels: Tensor, fraction: float, inputs: int, classes: int, protocol: Protocol, seed: int):
        """`labels` (samples,) by sample number. InputError when no sample can be held out to choose the rate."""
        allowed = labelled(labels, fraction, seed)
        held = torch.zeros_like(allowed)
        held[allowed] = held_out(labels[allowed], seed)
        options = (inputs, classes, protocol, seed)
        self.students = [Student(allowed, rate, *options) for rate in protocol.rates]
        self.searching: list[Student] = []
        if len(protocol.rates) > 1:
            if not held.any():
                raise InputError(
                    f"--fractions {fraction:g} leaves no class with two labelled images, so none can be held out to "
                    f"choose among the learning rates {protocol.rates}. Use a larger fraction."
                )
            self.searching = [Student(allowed & ~held, rate, *options) for rate in protocol.rates]
        self.held = held

    def learn(self, epoch: int, rows: Rows) -> None:
        """Trains every student for one epoch."""
        for student in (*self.students, *self.searching):
            student.learn(epoch, rows)

    def best(self, whole: Rows) -> Student:
        """The student at the best rate on the held-out samples; a tie goes to the rate listed first.

        `whole` holds every sample of the train split.
        """
        held = self.held[whole[2]]
        scores = [student.right(whole)[held].float().mean().item() for student in self.searching] or [0.0]
        return self.students[scores.index(max(scores))]


def fit(epochs: Iterable[Rows], trials: Sequence[Trial], protocol: Protocol) -> None:
    """Trains every trial on the same passes over the train split, one per epoch."""
    for epoch, rows in zip(range(protocol.epochs), epochs):
        for trial in trials:
            trial.learn(epoch, rows)


def linear(
    encoder: Encoder,
    train: Rows,
    test: Rows,
    shards: ShardSet,
    size: int,
    device: torch.device,
    protocol: Protocol,
    cache: bool,
    fractions: Sequence[float],
    trials: int,
    seed: int,
) -> dict[float, list[tuple[Tensor, float]]]:
    """Fraction -> per trial (n,) bool, whether each test sample is classified right, and the learning rate used.

    `train` and `test` are the rows of both splits on central squares. Layers train on a new RandomResizedCrop and flip
    of each image every epoch; with `cache` they train on `train`, the central squares. Trial i has the seed `seed + i`.
    InputError when a fraction leaves a class without a labelled image, or no image to choose among several rates.
    """
    crop = ViewSpec(size=size, views=1, crop="rrc", area=RANDOM_CROP_AREA, jitter=0, grayscale=0, blur=0)
    random = encoder.normalised(crop)
    labels = torch.empty_like(train[1]).scatter_(0, train[2], train[1])
    groups = {
        fraction: [
            Trial(labels, fraction, train[0].shape[1], len(shards.classes), protocol, seed + i) for i in range(trials)
        ]
        for fraction in fractions
    }
    fit(
        repeat(train) if cache else passes(encoder, shards, "train", random, device, seed),
        [trial for each in groups.values() for trial in each],
        protocol,
    )
    chosen = {fraction: [trial.best(train) for trial in each] for fraction, each in groups.items()}
    return {fraction: [(s.right(test), s.rate) for s in each] for fraction, each in chosen.items()}
