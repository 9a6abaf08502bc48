"""A linear layer on the frozen encoder: the protocols of two papers, fractions of the labels, several trials.

The encoder dominates the cost, so it runs once per epoch, over new random crops of the whole train split, and all
layers (fractions x trials x rates) learn from that pass, on the encoder's device, those with equally many samples in
one batch. Trials therefore share their crops; each has its own labelled samples, initial weights and order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec

from ..networks.encoder import Encoder
from ..networks.optim import learning_rate
from ..settings.evaluations import Linear
from .probe import Rows, held_out, labelled, passes


@dataclass(frozen=True)
class Protocol:
    """How the linear layer is trained: SGD, momentum 0.9, no weight decay."""

    epochs: int
    batch_size: int
    rates: tuple[float, ...]
    """Learning rates. With more than one, the best on a tenth of the labelled part of the train split is used."""
    drops: tuple[float, ...] = ()
    """Fractions of the epochs after which the learning rate is divided by 10; when empty, cosine decay to 0."""
    unit: bool = False
    """Whether features are scaled to length 1, in training and in tests."""

    def rate(self, step: int, total: int, peak: float) -> float:
        """The rate of step `step` (from 0) of `total`, for the peak rate `peak`."""
        if self.drops:
            return peak * 0.1 ** sum(step >= drop * total for drop in self.drops)
        return learning_rate(step, total, 0, peak)


PROTOCOLS = {
    "synth-pair": Protocol(100, 128, (30.0,), drops=(0.6, 0.8)),  # MoCo's, which the paper of synth-pair follows
    "lcr": Protocol(100, 256, (30.0,), drops=(0.6, 0.8), unit=True),  # of the code of LCR
    "cvsa": Protocol(50, 16, (0.1, 0.01, 0.001)),
}

RANDOM_CROP_AREA = (0.08, 1.0)
"""RandomResizedCrop's range in supervised training (Szegedy et al. 2015; torchvision's default)."""


def protocol_of(flags: Linear) -> Protocol:
    """The protocol of the flags, with what they change."""
    usual = PROTOCOLS[flags.protocol]
    return replace(
        usual,
        epochs=flags.epochs or usual.epochs,
        batch_size=flags.batch_size or usual.batch_size,
        rates=usual.rates if flags.rate is None else (flags.rate,),
    )


def changes(flags: Linear) -> dict[str, Any]:
    """The batch size and the rate, where they are not those of the protocol. Records have only these."""
    usual, used = PROTOCOLS[flags.protocol], protocol_of(flags)
    found = {"batch_size": used.batch_size} if used.batch_size != usual.batch_size else {}
    return found | ({"rate": flags.rate} if used.rates != usual.rates else {})


class Student:
    """One linear layer in training.

    `allowed` (samples,) bool marks the samples it may learn from; `rate` is its peak learning rate; `seed` decides its
    initial weights and the order of samples.
    """

    def __init__(self, allowed: Tensor, rate: float, inputs: int, classes: int, seed: int):
        self.allowed, self.rate = allowed, rate
        self.generator = torch.Generator().manual_seed(seed)
        self.weight = torch.empty(classes, inputs).normal_(0, 0.01, generator=self.generator)
        self.bias = torch.zeros(classes)

    def order(self, numbers: Tensor) -> Tensor:
        """(N,) sample numbers of rows -> (m,) the allowed rows in the order of the next epoch."""
        usable = self.allowed[numbers].nonzero()[:, 0]
        return usable[torch.randperm(len(usable), generator=self.generator)]

    def right(self, rows: Rows) -> Tensor:
        """(N,) bool on the CPU: whether each row is classified right."""
        parts = zip(rows[0].split(8192), rows[1].split(8192))  # of a large split not all scores at once
        to = self.weight.device
        return torch.cat([(F.linear(x.to(to), self.weight, self.bias).argmax(1) == y.to(to)).cpu() for x, y in parts])


class Layers:
    """K students in training on one device, as one batch: they take each step together. They must be allowed equally
    many samples, so that they have equal batches."""

    def __init__(self, students: Sequence[Student], protocol: Protocol, device: torch.device):
        self.students, self.protocol = students, protocol
        self.rates = torch.tensor([student.rate for student in students], device=device)
        self.weight = torch.stack([student.weight for student in students]).to(device)  # (K, C, n)
        self.bias = torch.stack([student.bias for student in students]).to(device)  # (K, C)
        self.speeds = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        for student, weight, bias in zip(students, self.weight, self.bias):
            student.weight, student.bias = weight, bias

    def learn(self, epoch: int, rows: Rows) -> None:
        """Trains for one epoch on the allowed samples of `rows`, which may be on the CPU."""
        features, labels, numbers = rows
        orders = torch.stack([student.order(numbers.cpu()) for student in self.students]).to(features.device)
        batches = orders.split(self.protocol.batch_size, 1)
        for number, chosen in enumerate(batches):
            step, total = epoch * len(batches) + number, self.protocol.epochs * len(batches)
            x, y = features[chosen].to(self.rates.device), labels[chosen].to(self.rates.device)
            self.step(x, y, self.protocol.rate(step, total, 1.0))

    def step(self, x: Tensor, y: Tensor, share: float) -> None:
        """(K, B, n), (K, B): one step of SGD on the mean cross-entropy, at this share of the peak rates."""
        error = torch.baddbmm(self.bias[:, None], x, self.weight.mT).softmax(2)  # (K, B, C)
        error.scatter_add_(2, y[..., None], error.new_full((1, 1, 1), -1).expand(*y.shape, 1)).div_(y.shape[1])
        gradients = error.mT @ x, error.sum(1)
        for values, speed, gradient in zip((self.weight, self.bias), self.speeds, gradients):
            rates = (share * self.rates).reshape(-1, *[1] * (values.ndim - 1))
            values -= rates * speed.mul_(0.9).add_(gradient)


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
        options = (inputs, classes, seed)
        self.students = [Student(allowed, rate, *options) for rate in protocol.rates]
        self.searching: list[Student] = []
        if len(protocol.rates) > 1:
            if not held.any():
                more = "a larger fraction" if labels.bincount().max() > 1 else "more labels"
                fixed = " or ".join(name for name, each in PROTOCOLS.items() if len(each.rates) == 1)
                raise InputError(
                    f"--fractions {fraction:g} leaves no class with two labelled images, so none can be held out to "
                    f"choose among the learning rates {protocol.rates}. Use {more}, or a protocol with one rate: "
                    f"--protocol {fixed}"
                )
            self.searching = [Student(allowed & ~held, rate, *options) for rate in protocol.rates]
        self.held = held

    def best(self, whole: Rows) -> Student:
        """The student at the best rate on the held-out samples; a tie goes to the rate listed first.

        `whole` holds every sample of the train split.
        """
        held = self.held[whole[2]]
        scores = [student.right(whole)[held].float().mean().item() for student in self.searching] or [0.0]
        return self.students[scores.index(max(scores))]


def fit(epochs: Iterable[Rows], trials: Sequence[Trial], protocol: Protocol, device: torch.device) -> None:
    """Trains every trial on the same passes over the train split, one per epoch; students with equally many samples
    learn together."""
    groups: dict[int, list[Student]] = {}
    for student in (student for trial in trials for student in (*trial.students, *trial.searching)):
        groups.setdefault(int(student.allowed.sum()), []).append(student)
    layers = [Layers(students, protocol, device) for students in groups.values()]
    for epoch, rows in zip(range(protocol.epochs), epochs):
        rows = on_device(rows, device)
        for group in layers:
            group.learn(epoch, rows)


def unit_length(rows: Rows) -> Rows:
    """The rows with features of length 1."""
    features, labels, numbers = rows
    return F.normalize(features, dim=1), labels, numbers


def on_device(rows: Rows, device: torch.device) -> Rows:
    """The rows on a device, or as they are if its memory is too small: then each batch is copied."""
    try:
        features, labels, numbers = rows
        return features.to(device), labels.to(device), numbers
    except torch.OutOfMemoryError:
        return rows


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
    if protocol.unit:
        train, test = unit_length(train), unit_length(test)
    labels = torch.empty_like(train[1]).scatter_(0, train[2], train[1])
    groups = {
        fraction: [
            Trial(labels, fraction, train[0].shape[1], len(shards.classes), protocol, seed + i) for i in range(trials)
        ]
        for fraction in fractions
    }
    epochs = repeat(on_device(train, device)) if cache else passes(encoder, shards, "train", random, device, seed)
    fit(
        epochs if cache or not protocol.unit else map(unit_length, epochs),
        [trial for each in groups.values() for trial in each],
        protocol,
        device,
    )
    chosen = {fraction: [trial.best(train) for trial in each] for fraction, each in groups.items()}
    return {fraction: [(s.right(test), s.rate) for s in each] for fraction, each in chosen.items()}
