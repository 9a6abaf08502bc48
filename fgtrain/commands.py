"""Every command but `run`: its flags, and the function that does it, imported when it is called."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand


@dataclass(frozen=True)
class Knn:
    """k nearest neighbours on frozen features: train split as the bank, test split as the queries."""

    run: Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    shards: Path | None = None
    """Shard set with train and test split. Default: the run's own."""
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """A vote weighs exp(cosine / temperature); 0: every vote weighs one."""
    untrained: bool = False
    """Score the network at its initial weights beside it."""
    size: int | None = None
    """Side of the test view in pixels. Default: the run's view size."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda where there is one."""

    def main(self) -> None:
        from fgtrain.evaluate.report import run_knn

        run_knn(self.run, self.shards, self.k, self.temperature, self.untrained, self.size, self.device)


@dataclass(frozen=True)
class Linear:
    """A linear layer on frozen features, trained on the train split, scored on the test split at its last epoch."""

    run: Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    shards: Path | None = None
    """Shard set with train and test split. Default: the run's own."""
    protocol: Literal["synth-pair", "cvsa"] = "synth-pair"
    """synth-pair: SGD lr 30, batch 128, 100 epochs. cvsa: batch 16, 50 epochs, lr .1, .01 or .001, chosen on a tenth
    of the train split."""
    cache: bool = False
    """Compute the features once, from the central square, instead of from a new random crop and flip every epoch:
    seconds instead of minutes, and a slightly lower figure as a rule."""
    seed: int = 0
    """Decides the layer's first weights, the order of samples and the crops."""
    size: int | None = None
    """Side of the test view in pixels. Default: the run's view size."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda where there is one."""

    def main(self) -> None:
        from fgtrain.evaluate.report import run_linear

        run_linear(self.run, self.shards, self.protocol, self.cache, self.seed, self.size, self.device)


@dataclass(frozen=True)
class PictureData:
    """What is drawn, where no run is named."""

    shards: Path | None = None
    """Shard set. Default: the run's, else the newest under shards/."""
    detector: str | None = None
    """Whose boxes. Default: the run's, else the first in the set."""
    split: str = "train"
    """Split the images come from."""


@dataclass(frozen=True)
class Views:
    """Images with their boxes, SaliencySwap views with their masks, RandomResizedCrop views."""

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]")] = None
    """Run directory whose shard set and view settings are drawn."""
    data: PictureData = PictureData()
    size: int = 224
    """Side of a view in the picture, in pixels."""
    rows: int = 6
    """Images drawn."""
    seed: int = 0
    """Decides which images and every draw."""
    out: Path | None = None
    """PNG to write. Default: views.png in the run directory, else in the working directory."""

    def main(self) -> None:
        from fgtrain.evaluate.pictures import draw_views

        data = self.data
        draw_views(self.run, data.shards, data.detector, data.split, self.size, self.rows, self.seed, self.out)


@dataclass(frozen=True)
class Pairs:
    """Images, what the decoder of a synth-pair run makes of their features, and of the perturbed features."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of the method synth-pair."""
    shards: Path | None = None
    """Shard set. Default: the run's."""
    split: str = "test"
    """Split the images come from."""
    rows: int = 6
    """Images drawn."""
    seed: int = 0
    """Decides which images, and the noise."""
    out: Path | None = None
    """PNG to write. Default: pairs.png in the run directory."""

    def main(self) -> None:
        from fgtrain.evaluate.pairs import draw_pairs

        draw_pairs(self.run, self.shards, self.split, self.rows, self.seed, self.out)


@dataclass(frozen=True)
class Show:
    """Draw a PNG."""

    what: Annotated[Annotated[Views, subcommand("views")] | Annotated[Pairs, subcommand("pairs")], arg(name="")]
    """Which picture."""

    def main(self) -> None:
        self.what.main()


@dataclass(frozen=True)
class List:
    """Recipes, shard sets and runs."""

    def main(self) -> None:
        from fgtrain.evaluate.report import run_list

        run_list()


@dataclass(frozen=True)
class Export:
    """Copy the encoder of a run to FILE (safetensors), with torchvision's names and all its keys but those of fc."""

    run: Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """File to write, ending .safetensors."""

    def main(self) -> None:
        from fgtrain.evaluate.report import run_export

        run_export(self.run, self.file)


@dataclass(frozen=True)
class Eval:
    """Measure a trained encoder."""

    what: Annotated[Annotated[Knn, subcommand("knn")] | Annotated[Linear, subcommand("linear")], arg(name="")]
    """The evaluation."""

    def main(self) -> None:
        self.what.main()


COMMANDS: dict[str, Any] = {"eval": Eval, "show": Show, "list": List, "export": Export}
