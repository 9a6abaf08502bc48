"""Every command but `run`: its flags, and the function that does it, imported when it is called."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand

from fgtrain.config import NEIGHBOURS, TEMPERATURE, need


class Checked:
    """Flags that several commands have, and what they may be."""

    def __post_init__(self) -> None:
        seed, out = getattr(self, "seed", 0), getattr(self, "out", None)
        need(0 <= seed < 1 << 32, "seed", seed, "0 to 2^32 - 1")
        need(out is None or out.suffix == ".png", "out", out, "a file whose name ends in .png")


@dataclass(frozen=True)
class Knn:
    """k nearest neighbours on frozen features: train split as the bank, test split as the queries."""

    run: Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    shards: Path | None = None
    """Shard set with train and test split. Default: the run's own."""
    k: int = NEIGHBOURS
    """Neighbours that vote."""
    temperature: float = TEMPERATURE
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
class Linear(Checked):
    """A linear layer on frozen features, trained on the train split, scored on the test split at its last epoch."""

    run: Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    shards: Path | None = None
    """Shard set with train and test split. Default: the run's own."""
    protocol: Literal["synth-pair", "cvsa"] = "synth-pair"
    """synth-pair: SGD lr 30, a tenth of it after 60 and again after 80 % of 100 epochs, batch 128. cvsa: lr .1, .01 or
    .001, chosen on a tenth of the train split, half a cosine, 50 epochs, batch 16."""
    cache: bool = False
    """Compute the features once, from the central square, instead of from a new random crop and flip every epoch:
    seconds instead of minutes, and a slightly lower figure as a rule."""
    fractions: tuple[float, ...] = (1.0,)
    """Shares of the training labels, the same of every class: 1 0.5 0.2 gives the three of the paper in one go."""
    trials: int = 1
    """Layers trained, each from its own seed (labelled images, weights, order), on the same crops."""
    epochs: int | None = None
    """Passes over the train split. Default: the protocol's."""
    seed: int = 0
    """Seed of the first trial, and of the crops."""
    size: int | None = None
    """Side of the test view in pixels. Default: the run's view size."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda where there is one."""

    def main(self) -> None:
        from fgtrain.evaluate.report import run_linear

        how = (self.protocol, self.cache, self.fractions, self.trials, self.epochs, self.seed)
        run_linear(self.run, self.shards, *how, self.size, self.device)


@dataclass(frozen=True)
class Finetune(Checked):
    """The whole network trained further with labels: learning rate and weight decay chosen on a tenth of the train
    split, then several trials on all of it, scored on the test split. A call that is stopped goes on behind its last
    finished training when it is typed again."""

    run: Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    shards: Path | None = None
    """Shard set with train and test split. Default: the run's own."""
    epochs: int = 50
    """Passes over the train split."""
    batch_size: int = 16
    """Images per step."""
    rates: tuple[float, ...] = (0.1, 0.05, 0.01, 0.005, 0.001)
    """Learning rates to choose from."""
    decays: tuple[float, ...] = (5e-4, 1e-4)
    """Weight decays to choose from. One rate and one decay: nothing is searched."""
    trials: int = 3
    """Trainings with the chosen pair, each from its own seed."""
    seed: int = 0
    """Seed of the search and of the first trial: the new layer's weights, order and crops."""
    size: int | None = None
    """Side of the views in pixels. Default: the run's view size."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda where there is one."""

    def main(self) -> None:
        from fgtrain.evaluate.finetune import Tuning
        from fgtrain.evaluate.report import run_finetune

        tuning = Tuning(self.epochs, self.batch_size, self.rates, self.decays, self.trials)
        run_finetune(self.run, self.shards, tuning, self.seed, self.size, self.device)


@dataclass(frozen=True)
class Retrieval:
    """Every test image asks for its class among the other test images: rank-1, rank-5, mAP over the full ranking."""

    run: Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    shards: Path | None = None
    """Shard set with a test split. Default: the run's own."""
    untrained: bool = False
    """Score the network at its initial weights beside it."""
    size: int | None = None
    """Side of the test view in pixels. Default: the run's view size."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda where there is one."""

    def main(self) -> None:
        from fgtrain.evaluate.report import run_retrieval

        run_retrieval(self.run, self.shards, self.untrained, self.size, self.device)


@dataclass(frozen=True)
class Localization(Checked):
    """MaxBoxAcc: do class-activation maps of a linear layer find the annotated object of the test images?"""

    run: Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    shards: Path | None = None
    """Shard set with train and test split and ground-truth boxes. Default: the run's own."""
    untrained: bool = False
    """Score the network at its initial weights beside it."""
    seed: int = 0
    """Decides the layer's first weights and the order of samples."""
    size: int | None = None
    """Side of the square that images are resized to, in pixels. Default: the run's view size."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda where there is one."""

    def main(self) -> None:
        from fgtrain.evaluate.report import run_localization

        run_localization(self.run, self.shards, self.untrained, self.seed, self.size, self.device)


@dataclass(frozen=True)
class Views(Checked):
    """Images with their boxes, SaliencySwap views with their masks, and with backgrounds views pasted over them, else
    RandomResizedCrop views."""

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]")] = None
    """Run directory whose shard set and view settings are drawn."""
    shards: Path | None = None
    """Shard set. Default: the run's, else the newest under shards/."""
    detector: str | None = None
    """Whose boxes. Default: the run's, else the set's first that is not gt, else gt."""
    split: str = "train"
    """Split the images come from."""
    backgrounds: tuple[Path, ...] = ()
    """Other shard sets, over whose images patches are pasted. Default: the run's."""
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

        shown = self.size, self.rows, self.seed, self.out
        draw_views(self.run, self.shards, self.detector, self.split, *shown, self.backgrounds)


@dataclass(frozen=True)
class Pairs(Checked):
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
class Gradcam(Checked):
    """Where a linear classifier on the frozen encoder looks: Grad-CAM of the true class, several runs side by side."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN...]", help_behavior_hint="(required)")]
    """Run directories (their last checkpoints), checkpoint folders, or encoder.safetensors files."""
    shards: Path | None = None
    """Shard set. Default: that of the first run."""
    split: str = "test"
    """Split the images come from; the classifier learns on train."""
    size: int | None = None
    """Side of the square that images are resized to, in pixels. Default: the view size of the first run."""
    rows: int = 6
    """Images drawn."""
    seed: int = 0
    """Decides which images, and the classifier's first weights."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda where there is one."""
    out: Path | None = None
    """PNG to write. Default: gradcam.png in the first run's directory."""

    def main(self) -> None:
        from fgtrain.evaluate.gradcam import draw_gradcam

        draw_gradcam(self.runs, self.shards, self.split, self.size, self.rows, self.seed, self.device, self.out)


@dataclass(frozen=True)
class Curves(Checked):
    """Loss and every other figure of metrics.jsonl over the epochs, several runs in one picture."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN...]", help_behavior_hint="(required)")]
    """Run directories."""
    figures: tuple[str, ...] = ()
    """Names of the figures drawn. Default: all, but for throughput."""
    out: Path | None = None
    """PNG to write. Default: curves.png in the first run's directory."""

    def main(self) -> None:
        from fgtrain.evaluate.curves import draw_curves

        draw_curves(self.runs, self.figures, self.out)


@dataclass(frozen=True)
class Show:
    """Draw a PNG."""

    what: Annotated[
        Annotated[Views, subcommand("views")]
        | Annotated[Gradcam, subcommand("gradcam")]
        | Annotated[Pairs, subcommand("pairs")]
        | Annotated[Curves, subcommand("curves")],
        arg(name=""),
    ]
    """Which picture."""

    def main(self) -> None:
        self.what.main()


@dataclass(frozen=True)
class List:
    """Recipes, shard sets and runs."""

    def main(self) -> None:
        from fgtrain.evaluate.listing import run_list

        run_list()


@dataclass(frozen=True)
class Export:
    """Copy the encoder of a run to FILE (safetensors), with torchvision's names and all its keys but those of fc."""

    run: Annotated[Positional[Path], arg(metavar="RUN-or-CHECKPOINT")]
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """File to write, ending .safetensors."""

    def main(self) -> None:
        from fgtrain.checkpoint import run_export

        run_export(self.run, self.file)


@dataclass(frozen=True)
class Eval:
    """Measure a trained encoder."""

    what: Annotated[
        Annotated[Knn, subcommand("knn")]
        | Annotated[Linear, subcommand("linear")]
        | Annotated[Finetune, subcommand("finetune")]
        | Annotated[Retrieval, subcommand("retrieval")]
        | Annotated[Localization, subcommand("localization")],
        arg(name=""),
    ]
    """The evaluation."""

    def main(self) -> None:
        self.what.main()


@dataclass(frozen=True)
class Compare:
    """One table of what several runs have in their results.jsonl: mean and 95 % interval over runs that differ only in
    their seed."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...", help_behavior_hint="(required)")]
    """Run directories."""
    json: bool = False
    """Print JSON instead of a table."""

    def main(self) -> None:
        from fgtrain.evaluate.compare import run_compare

        run_compare(self.runs, self.json)


COMMANDS: dict[str, Any] = {"eval": Eval, "compare": Compare, "show": Show, "list": List, "export": Export}
