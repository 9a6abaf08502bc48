"""The command line. Importing it, or any --help, imports neither torch nor OpenCV; a command imports its own needs."""

import inspect
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff, OmitSubcommandPrefixes, arg, subcommand

from fgdata.errors import InputError, run_command

from .commands import COMMANDS, call
from .engine.memory import keep_freed
from .settings.common import Config
from .settings.file import from_dict
from .settings.recipes import RECIPES


def commands(defaults: Config | None, name: str | None) -> Any:
    """The type that tyro parses. `defaults`, from a config.json, replace those of the recipe `name`."""
    rows = []
    for row, recipe in RECIPES.items():
        default = defaults if defaults is not None and row == name else recipe()
        rows.append(Annotated[type(default), subcommand(row, default=default, description=inspect.getdoc(recipe))])

    recipes = Union[tuple(rows)]  # noqa: UP007

    @dataclass(frozen=True)
    class Run:
        """Train an encoder.

        SIGTERM, SIGUSR1 and Ctrl-C stop it with a checkpoint; it exits with 0 then, after Ctrl-C with 130.
        """

        recipe: Annotated[recipes, arg(name="")]  # pyright: ignore[reportInvalidTypeForm]
        """The method and the settings it starts from."""

    # A recipe's switch may be on, and then its flag turns it off: both are shown. Elsewhere all are off.
    others = [Annotated[kind, subcommand(group), FlagCreatePairsOff] for group, kind in COMMANDS.items()]
    return Union[tuple([Annotated[Run, subcommand("run")], *others])]  # noqa: UP007


def read_defaults(argv: list[str]) -> tuple[Config | None, str | None]:
    """`fgtrain run NAME ...`: the settings in --config, or with --resume those of the run in --out, and NAME."""
    from .runs.files import read_json

    name = argv[1] if len(argv) > 1 and argv[0] == "run" and not argv[1].startswith("-") else None
    if name is not None and name not in RECIPES:
        raise InputError(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}. See: fgtrain list")
    if name is None:
        return None, None
    given, out = _value(argv, "--config"), Path(_value(argv, "--out") or f"runs/{name}")
    file = Path(given) if given else out / "config.json" if "--resume" in argv else None
    if file is not None and file.is_dir():
        file /= "config.json"
    if file is None or (not given and not file.is_file()):
        return None, name
    if not file.is_file():
        raise InputError(f"--config {file} does not exist; name the config.json of a run (runs/NAME/config.json).")
    config = from_dict(read_json(file), str(file))
    if given and config.method != RECIPES[name]().method:
        named = quote(str(file))
        raise InputError(
            f"{file} is for the method {config.method}; type: fgtrain run {config.method} --config {named}"
        )
    if not given:
        recorded = read_json(out / "run.json").get("name") if (out / "run.json").is_file() else None
        right = recorded if recorded in RECIPES else config.method
        if name != right:
            raise InputError(
                f"{out} is a run of {right}, not of {name}. Continue it: "
                f"fgtrain run {right} --out {quote(str(out))} --resume"
            )
    return replace(config, machine=replace(config.machine, out=None if given else out, resume=False, config=None)), name


def _value(argv: list[str], flag: str) -> str | None:
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, or stopped with a checkpoint by SIGTERM or SIGUSR1, on which schedulers queue a job again;
    130 for Ctrl-C, with a checkpoint too where a run is training; 2 for an input error."""
    argv = sys.argv[1:] if argv is None else argv
    # torch's threads spin while they wait for one another. Beside another busy process that starves both: on two shared
    # cores 0 to 30 images/s came out where waiting asleep gave 40 to 140. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed()

    def command() -> None:
        chosen = tyro.cli(
            commands(*read_defaults(argv)),
            prog="fgtrain",
            description="Self-supervised training on fgdata shard sets, and its evaluation.",
            args=argv,
            config=(OmitSubcommandPrefixes,),
        )
        try:
            if hasattr(chosen, "recipe"):
                from .engine.lifecycle import train

                train(chosen.recipe, argv[1])
            else:
                call(chosen)
        except ModuleNotFoundError as fault:
            if (fault.name or "").partition(".")[0] not in ("torch", "torchvision", "timm", "safetensors", "scipy"):
                raise
            raise InputError(
                f"fgtrain needs {fault.name}, which is not installed: pip install 'fgdata[train]'"
            ) from None

    training = argv[:1] == ["run"]
    hint = "A run goes on from its last checkpoint: the same command with --resume." if training else ""
    return run_command("fgtrain", command, hint)


if __name__ == "__main__":
    sys.exit(main())
