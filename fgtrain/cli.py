"""The command line. Importing it, or any --help, imports neither torch nor OpenCV; a command imports its own needs."""

import inspect
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from fgdata.errors import InputError, run_command
from fgtrain.config import Config, from_dict
from fgtrain.recipes import RECIPES


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
class Show:
    """Draw a PNG. views: images with their boxes, SaliencySwap views with their masks, RandomResizedCrop views."""

    what: Positional[Literal["views"]]
    """Which picture."""
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


def commands(defaults: Config | None, name: str | None) -> Any:
    """The type that tyro parses. `defaults`, from a config.json, replace those of the recipe `name`."""
    rows = []
    for row, recipe in RECIPES.items():
        default = defaults if defaults is not None and row == name else recipe()
        rows.append(Annotated[type(default), subcommand(row, default=default, description=inspect.getdoc(recipe))])

    recipes = Union[tuple(rows)]  # noqa: UP007

    @dataclass(frozen=True)
    class Run:
        """Train an encoder."""

        recipe: Annotated[recipes, arg(name="")]  # pyright: ignore[reportInvalidTypeForm]
        """The method and the settings it starts from."""

        def main(self) -> None:
            chosen: Any = self.recipe
            from fgtrain.train import train

            train(chosen, name or chosen.method)

    @dataclass(frozen=True)
    class Eval:
        """Measure a trained encoder."""

        what: Annotated[Annotated[Knn, subcommand("knn")] | Annotated[Linear, subcommand("linear")], arg(name="")]
        """The evaluation."""

        def main(self) -> None:
            self.what.main()

    groups = {"run": Run, "eval": Eval, "show": Show, "list": List, "export": Export}
    return Union[tuple(Annotated[kind, subcommand(group)] for group, kind in groups.items())]  # noqa: UP007


def read_defaults(argv: list[str]) -> tuple[Config | None, str | None]:
    """`fgtrain run NAME ...`: the settings in --config, or with --resume those of the run in --out, and NAME."""
    from fgtrain.rundir import read_json

    name = argv[1] if len(argv) > 1 and argv[0] == "run" and not argv[1].startswith("-") else None
    if name is not None and name not in RECIPES:
        raise InputError(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}. See: fgtrain list")
    if name is None:
        return None, None
    given, out = _value(argv, "--config"), Path(_value(argv, "--out") or f"runs/{name}")
    file = Path(given) if given else out / "config.json" if "--resume" in argv else None
    if file is None or (not given and not file.is_file()):
        return None, name
    if not file.is_file():
        raise InputError(f"--config {file} does not exist; name the config.json of a run (runs/NAME/config.json).")
    config = from_dict(read_json(file), str(file))
    if config.method != RECIPES[name]().method:
        raise InputError(f"{file} is for the method {config.method}; type: fgtrain run {config.method} --config {file}")
    return replace(config, machine=replace(config.machine, out=None if given else out, resume=False, config=None)), name


def _value(argv: list[str], flag: str) -> str | None:
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done or stopped with a checkpoint, 2 for an input error."""
    argv = sys.argv[1:] if argv is None else argv
    # torch's threads spin while they wait for one another. Beside another busy process that starves both: on two shared
    # cores 0 to 30 images/s came out where waiting asleep gave 40 to 140. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def command() -> None:
        chosen = tyro.cli(
            commands(*read_defaults(argv)),
            prog="fgtrain",
            description="Self-supervised training on fgdata shard sets, and its evaluation.",
            args=argv,
            config=(OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        try:
            chosen.main()
        except ModuleNotFoundError as fault:
            if (fault.name or "").partition(".")[0] not in ("torch", "torchvision", "timm", "safetensors"):
                raise
            raise InputError(
                f"fgtrain needs {fault.name}, which is not installed: pip install 'fgdata[train]'"
            ) from None

    return run_command("fgtrain", command, "A run goes on from its last checkpoint: the same command with --resume.")


if __name__ == "__main__":
    sys.exit(main())
