"""The flags of `fgtrain show` and `fgtrain watch`. A docstring under a field is its `--help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from fgdata.files.output import check_output
from fgdata.stores.flag import MaybePlace, Place

from .common import Switch, need_between, need_seed

FORMATS = (".png", ".pdf", ".svg")
Runs = Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN...]", help_behavior_hint="(required)")]


@dataclass(frozen=True)
class Picture:
    """Checks of the flags of every picture."""

    def __post_init__(self) -> None:
        out = getattr(self, "out", None)
        need_seed(getattr(self, "seed", 0))
        if out is not None:
            check_output(out, FORMATS, "--out")


@dataclass(frozen=True)
class Views(Picture):
    """Draw images with their boxes, SaliencySwap views with their masks, and RandomResizedCrop views. With backgrounds,
    views pasted over them replace the RandomResizedCrop views. A run with another crop adds two views with that."""

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]")] = None
    """Run directory whose shard set and view settings are used. Default: --shards, and the default views."""
    shards: MaybePlace = None
    """Shard set. Default: the run's, else the newest under shards/."""
    detector: str | None = None
    """Detector whose boxes are used. Default: the run's, else the set's first that is not gt, else gt."""
    split: str = "train"
    """Split the images come from."""
    ids: tuple[str, ...] = ()
    """Images to draw, by their id or file name in the dataset, instead of --rows random ones."""
    backgrounds: tuple[Place, ...] = ()
    """Other shard sets whose images are used as backgrounds. Default: the run's."""
    size: int = 224
    """Side of a view in the picture, in pixels."""
    rows: int = 6
    """Number of images."""
    seed: int = 0
    """Seed of the choice of images and of all random draws."""
    out: Path | None = None
    """File to write, .png, .pdf or .svg. Default: views.png in the run directory, else in the working directory."""


@dataclass(frozen=True)
class Pairs(Picture):
    """Draw images and what the decoder of a synth-pair run reconstructs from their features, plain and perturbed."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of the method synth-pair."""
    shards: MaybePlace = None
    """Shard set. Default: the run's."""
    split: str | None = None
    """Split the images come from. Default: test, or train for a set without it."""
    ids: tuple[str, ...] = ()
    """Images to draw, by their id or file name in the dataset, instead of --rows random ones."""
    rows: int = 6
    """Number of images."""
    seed: int = 0
    """Seed of the choice of images and of the noise."""
    out: Path | None = None
    """File to write, .png, .pdf or .svg. Default: pairs.png in the run directory."""


@dataclass(frozen=True)
class Gradcam(Picture):
    """Draw where a linear classifier on the frozen encoder looks: Grad-CAM of the true class, several runs side by
    side."""

    runs: Runs
    """Run directories (their last checkpoints), checkpoint folders, or encoder.safetensors files."""
    shards: MaybePlace = None
    """Shard set. Default: that of the first run."""
    split: str | None = None
    """Split the images come from; the classifier is trained on train. Default: test, or train for a set without it."""
    ids: tuple[str, ...] = ()
    """Images to draw, by their id or file name in the dataset, instead of --rows random ones."""
    labels: tuple[str, ...] = ()
    """Headings of the runs, in their order. Default: their folders' names."""
    colours: Literal["jet", "turbo", "viridis", "inferno", "grey"] = "jet"
    """Colours of a map from 0 to its maximum."""
    size: int | None = None
    """Side of the square that images are resized to, in pixels. Default: the view size of the first run."""
    rows: int = 6
    """Number of images."""
    seed: int = 0
    """Seed of the choice of images and of the classifier's initial weights."""
    device: str = "auto"
    """cpu, cuda, cuda:N or mps. auto: cuda if available, else cpu."""
    out: Path | None = None
    """File to write, .png, .pdf or .svg. Default: gradcam.png in the first run's directory."""


@dataclass(frozen=True)
class Curves(Picture):
    """Draw the loss and the other metrics of metrics.jsonl over the epochs, several runs in one picture. Runs that
    differ only in the seed are drawn as one line, their mean, in a band from the smallest to the largest value."""

    runs: Runs
    """Run directories."""
    labels: tuple[str, ...] = ()
    """Names of the runs in the legend, in their order; runs that differ only in the seed share one name.
    Default: their folders' names, or the method and what differs for several seeds."""
    figures: tuple[str, ...] = ()
    """Names of the metrics to draw. Default: all except throughput."""
    out: Path | None = None
    """File to write, .png, .pdf or .svg. Default: curves.png in the first run's directory."""


@dataclass(frozen=True)
class Watch(Picture):
    """Show the curves of runs while they train, in the terminal or as one self-contained page, until none of them is
    training any more. If the output is not a terminal, they are printed once."""

    runs: Runs
    """Run directories."""
    figures: tuple[str, ...] = ()
    """Names of the metrics to show. Default: all except throughput."""
    every: float = 5.0
    """Refresh interval in seconds."""
    once: Switch = False
    """Show the runs as they are now, and end."""
    out: Path | None = None
    """Write the page to this file, .html, instead of the terminal. Default: the terminal."""

    def __post_init__(self) -> None:
        need_between(0.1, self.every, 3600, "every")
        if self.out is not None:
            check_output(self.out, (".html", ".htm"), "--out")
