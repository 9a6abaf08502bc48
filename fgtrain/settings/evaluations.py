"""The flags of `fgtrain eval`, `fgtrain compare` and `fgtrain export`. A docstring under a field is its `--help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from fgdata.stores.flag import MaybePlace

from .common import LARGEST, MOST, NEIGHBOURS, TEMPERATURE, Model, need, need_between, need_seed, need_temperature

RunOrCheckpoint = Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]


NETWORK = Model()
MOST_EPOCHS, MOST_TRIALS = 1_000_000, 10_000


def need_fractions(fractions: tuple[float, ...]) -> None:
    """InputError unless there is a fraction of the labels, and each is usable."""
    for fraction in fractions:
        need(0 < fraction <= 1, "fractions", f"{fraction:g}", "fractions of the labels, above 0 and at most 1")
    need(bool(fractions), "fractions", "empty", "one fraction of the labels or more")


@dataclass(frozen=True)
class Evaluation:
    """Flags of every evaluation."""

    run: Annotated[Positional[Path | None], arg(metavar="[RUN-or-CHECKPOINT]", help_behavior_hint="")] = None
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors. Omit it with --weights."""
    shards: MaybePlace = None
    """Shard set with the splits that the evaluation uses. Default: the run's own, or the newest under shards/."""
    size: int | None = None
    """Side of the evaluated images in pixels. Default: the run's view size; with --weights, the network's own."""
    device: str = "auto"
    """cpu, cuda, cuda:N or mps. auto: cuda if available, else cpu."""
    others: Annotated[Positional[tuple[Path, ...]], arg(metavar="[RUN...]", help_behavior_hint="")] = ()
    """More runs, measured one after the other with the same flags."""
    weights: str | None = None
    """Evaluate these weights instead of a run: any value that `fgtrain run --init` takes, or random, for the network of
    --model.backbone. The results are saved with --results. Default: the run that is named."""
    model: Model = NETWORK
    results: Path | None = None
    """With --weights: the .jsonl file that the results are appended to. Default: they are only printed."""


@dataclass(frozen=True)
class All(Evaluation):
    """Every evaluation that fits the shard set, with default settings: knn, retrieval and localization with
    --untrained, linear, finetune. The others are skipped, and the reason is printed."""

    skip: tuple[Literal["knn", "retrieval", "localization", "linear", "finetune"], ...] = ()
    """Evaluations to leave out; finetune takes hours on a CPU."""


@dataclass(frozen=True)
class Knn(Evaluation):
    """k nearest neighbours on frozen features: train split as the bank, test split as the queries."""

    k: int = NEIGHBOURS
    """Number of neighbours that vote."""
    temperature: float = TEMPERATURE
    """The weight of a vote is exp(cosine / temperature); 0: all votes have weight 1."""
    untrained: bool = False
    """Also score the network at its initial weights."""
    split: Literal["test", "train"] = "test"
    """Images that are scored. train: each image of the train split, by the votes of the others (leave-one-out); for
    choosing settings without the test split."""

    def __post_init__(self) -> None:
        if self.temperature != 0:
            need_temperature(self.temperature, "temperature", "0, or ")


@dataclass(frozen=True)
class Linear(Evaluation):
    """A linear layer on frozen features, trained on the train split and scored on the test split after the last
    epoch."""

    protocol: Literal["synth-pair", "lcr", "cvsa"] = "synth-pair"
    """synth-pair: SGD, learning rate 30, multiplied by 0.1 after 60 % and again after 80 % of 100 epochs, batches of
    128, as in MoCo. lcr: the same with batches of 256, on features of length 1. cvsa: learning rate 0.1, 0.01 or 0.001,
    chosen on a tenth of the train split, cosine schedule, 50 epochs, batches of 16."""
    cache: bool = False
    """Compute the features once, from the central square, instead of from a new random crop and flip every epoch:
    seconds instead of minutes, usually slightly lower accuracy."""
    fractions: tuple[float, ...] = (1.0,)
    """Fractions of the training labels, the same fraction of every class; the paper uses 1 0.5 0.2."""
    labels: Path | None = None
    """File that lists the labelled images of the train split, one id or path per line, optionally followed by its
    label; the fractions are then fractions of these. Default: the whole train split."""
    trials: int = 1
    """Number of layers trained, each with its own seed (labelled images, weights, order), on the same crops."""
    epochs: int | None = None
    """Passes over the train split. Default: the protocol's."""
    batch_size: int | None = None
    """Images per step. Default: the protocol's."""
    rate: float | None = None
    """Learning rate, so that none is chosen. Default: the protocol's."""
    seed: int = 0
    """Seed of the first trial, and of the crops."""

    def __post_init__(self) -> None:
        need_fractions(self.fractions)
        need_between(1, self.trials, MOST_TRIALS, "trials")
        need_seed(self.seed, self.trials)
        need(self.epochs is None or 1 <= self.epochs <= MOST_EPOCHS, "epochs", self.epochs, f"1 to {MOST_EPOCHS:,}")
        batch, rate = self.batch_size, self.rate
        need(batch is None or 1 <= batch <= MOST, "batch-size", batch, f"1 to {MOST:,}")
        need(rate is None or 0 < rate <= LARGEST, "rate", rate, f"above 0, at most {LARGEST:g}")


@dataclass(frozen=True)
class Finetune(Evaluation):
    """Train the whole network further with labels. Learning rate and weight decay are chosen on a tenth of the labelled
    images; then several trials train on all of them and are scored on the test split. To resume a stopped evaluation
    after the last finished fit, rerun the command."""

    fractions: tuple[float, ...] = (1.0,)
    """Fractions of the training labels, the same fraction of every class, each with its own search; each trial draws
    its own images. Semi-supervised tables use 1 0.5 0.2 0.1."""
    labels: Path | None = None
    """File that lists the labelled images of the train split, one id or path per line, optionally followed by its
    label; the fractions are then fractions of these. Default: the whole train split."""
    epochs: int = 50
    """Passes over the train split."""
    batch_size: int = 16
    """Images per step."""
    rates: tuple[float, ...] = (0.1, 0.05, 0.01, 0.005, 0.001)
    """Learning rates to choose from."""
    decays: tuple[float, ...] = (5e-4, 1e-4)
    """Weight decays to choose from. One rate and one decay skip the search."""
    trials: int = 3
    """Fits with the chosen pair, each with its own seed."""
    seed: int = 0
    """Seed of the search and of the first trial: the new layer's weights, order and crops."""

    def __post_init__(self) -> None:
        need_fractions(self.fractions)
        need_between(1, self.epochs, MOST_EPOCHS, "epochs")
        batch = self.batch_size
        need(2 <= batch <= MOST, "batch-size", batch, f"2 or more, as batch norm needs, up to {MOST:,}")
        need_between(1, self.trials, MOST_TRIALS, "trials")
        need_seed(self.seed, self.trials)
        for name, values, least in (("rates", self.rates, 1e-12), ("decays", self.decays, 0.0)):
            ok = len(values) > 0 and all(least <= value <= LARGEST for value in values)
            given = " ".join(f"{value:g}" for value in values) or "empty"
            need(ok, name, given, f"numbers {'above 0' if least else 'from 0'}, at most {LARGEST:g}")


@dataclass(frozen=True)
class Retrieval(Evaluation):
    """Each test image queries the other test images for its class: rank-1, rank-5, and mAP over the full ranking."""

    untrained: bool = False
    """Also score the network at its initial weights."""


@dataclass(frozen=True)
class Localization(Evaluation):
    """MaxBoxAcc: how often the class-activation maps of a linear layer find the annotated object of a test image."""

    untrained: bool = False
    """Also score the network at its initial weights."""
    seed: int = 0
    """Seed of the layer's initial weights and of the order of samples."""

    def __post_init__(self) -> None:
        need_seed(self.seed)


@dataclass(frozen=True)
class Compare:
    """Compare the results.jsonl of several runs in one table: a row is a group of runs that differ only in the seed
    (mean and 95 % interval), a column is one figure of one evaluation with the same settings on the same shard set."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...", help_behavior_hint="(required)")]
    """Run directories."""
    labels: tuple[str, ...] = ()
    """Names of the rows, in the order of their first runs. Default: the recipe, and the settings that differ."""
    format: Literal["table", "markdown", "latex", "csv", "json"] = "table"
    """How the table is printed. latex needs the package booktabs; csv prints its notes to standard error."""
    seeds: bool = False
    """Also print the raw values of every seed."""


@dataclass(frozen=True)
class Export:
    """Copy the encoder of a run to FILE. safetensors: with the names of timm or torchvision, and a config.json beside
    it from which timm builds the network. onnx: as a network from images to features, for programs without torch."""

    run: RunOrCheckpoint
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """File to write; the name ends in .safetensors or .onnx."""
    size: int | None = None
    """onnx only: side of the images that the network takes, in pixels. Default: the run's view size."""
