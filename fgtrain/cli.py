"""The `fgtrain` command line. Importing it and printing any --help import neither torch nor OpenCV: each command
imports what it needs when it runs."""

import inspect
import os
import re
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff, OmitSubcommandPrefixes, arg, subcommand

from fgdata import plugins
from fgdata.commandline import help_as_paragraphs
from fgdata.commandline.options import REGISTRY
from fgdata.errors import InputError, run_command, suggest

from .commands import COMMANDS, call, find_command
from .engine.memory import keep_freed
from .engine.signals import PATIENT, StopSignals, is_training
from .settings.common import Config
from .settings.file import flat, from_dict, merge, to_dict
from .settings.methods import METHODS
from .settings.recipes import RECIPES

DESCRIPTION = (
    "Train encoders on fgdata shard sets without labels, and evaluate them. Every command takes --plugin MODULE, "
    "which loads your own methods and recipes (docs/extending.md). --version prints the version."
)
TRAINING = ("torch", "torchvision", "timm", "safetensors", "scipy")
"""Packages that only training and evaluation need."""


def commands() -> Any:
    """The type that tyro parses when the words name no command: all of them."""
    return commands_of(tuple((row, inspect.getdoc(recipe), recipe()) for row, recipe in RECIPES.items()))


@lru_cache(4)
def commands_of(rows: tuple[tuple[str, str | None, Config], ...]) -> Any:
    """Names, descriptions and settings of recipes -> the type that tyro parses. Made once: tyro keeps every type."""
    recipes = Union[tuple([Annotated[type(c), subcommand(row, default=c, description=text)] for row, text, c in rows])]  # noqa: UP007

    @dataclass(frozen=True)
    class Run:
        """Train an encoder.

        SIGTERM, SIGUSR1, SIGHUP (a closed terminal) and Ctrl-C write a checkpoint and stop; the exit code is then 0,
        or 130 after Ctrl-C. Before the first step there is nothing to save: the run ends, and --resume starts it. A
        second Ctrl-C ends the run at once, with its last complete checkpoint; a second signal of the others changes
        nothing. If the output can no longer be written, as after `| head`, training continues silently.
        """

        recipe: Annotated[recipes, arg(name="")]  # pyright: ignore[reportInvalidTypeForm]
        """The method and the settings it starts from."""

    # A recipe may turn a switch on, so `run` needs both flags of a pair. In the other commands all switches are off.
    others = [Annotated[kind, subcommand(group), FlagCreatePairsOff] for group, kind in COMMANDS.items()]
    return Union[tuple([Annotated[Run, subcommand("run")], *others])]  # noqa: UP007


def parse(words: list[str], defaults: Config | None, name: str | None) -> Any:
    """Arguments -> the settings of their command. tyro gets that command alone, so that an error suggests its own flags
    and its own help; all commands only if the words name none."""
    kind, depth = find_command(words)
    options: dict[str, Any] = {
        "description": inspect.getdoc(kind),
        "config": (OmitSubcommandPrefixes, FlagCreatePairsOff),
    }
    if name is not None:
        default, depth = RECIPES[name]() if defaults is None else defaults, 2
        kind, options = type(default), {"description": inspect.getdoc(RECIPES[name]), "default": default}
        options["config"] = (OmitSubcommandPrefixes,)
    elif kind is None:
        kind, options = commands(), {"description": DESCRIPTION, "config": (OmitSubcommandPrefixes,)}
    return tyro.cli(kind, prog=" ".join(["fgtrain", *words[:depth]]), args=words[depth:], registry=REGISTRY, **options)


def read_defaults(argv: list[str]) -> tuple[Config | None, str | None]:
    """Arguments of `fgtrain run NAME ...` -> settings of --config, or with --resume of the run in --out, and NAME."""
    from .runs.files import read_json, read_yaml
    from .runs.rundir import RunDir

    name = argv[1] if len(argv) > 1 and argv[0] == "run" and not argv[1].startswith("-") else None
    given, out = _value(argv, "--config"), _folder(argv, name)
    if name is not None and name not in RECIPES:
        if "--resume" in argv and (missing := plugins.ask(str(out), RunDir(out).facts.get("plugins"))):
            raise InputError(missing)
        raise InputError(
            f"{name!r} is not a recipe.{suggest(name, RECIPES)} Allowed: {', '.join(RECIPES)}. Show them: "
            "fgtrain list. For one of your own, add --plugin MODULE (docs/extending.md)"
        )
    if name is None:
        return None, None
    file = Path(given) if given else out / "config.json" if "--resume" in argv else None
    if file is not None and file.is_dir():
        file /= "config.json"
    if file is None or (not given and not file.is_file()):
        return None, name
    if not file.is_file():
        what = "is not a regular file" if file.exists() else "does not exist"
        raise InputError(
            f"--config {file} {what}. Name the config.json of a run (runs/NAME/config.json), or a YAML file."
        )
    by_hand, method = file.suffix in (".yaml", ".yml"), RECIPES[name]().method
    values = read_yaml(file) if by_hand else read_json(file)
    if by_hand and values.get("method", method) == method:
        values = merge(to_dict(RECIPES[name]()), values)
    config = from_dict(values, str(file))
    if given and config.method != RECIPES[name]().method:
        quoted = quote(str(file))
        raise InputError(
            f"{file} is for the method {config.method}, not {name}. Run: fgtrain run {config.method} --config {quoted}"
            f"{plugins.flags()}"
        )
    if not given:
        recorded = RunDir(out).facts.get("name")
        recipe = recorded if recorded in RECIPES else config.method
        if name != recipe:
            raise InputError(
                f"{out} is a run of {recipe}, not of {name}. Resume it: "
                f"{RunDir(out).launcher} run {recipe} --out {quote(str(out))} --resume{plugins.flags()}"
            )
    return replace(config, machine=replace(config.machine, out=None if given else out, resume=False, config=None)), name


def flags_of(config: Config) -> list[str]:
    """The flags of `fgtrain run` for these settings."""
    settings = flat(to_dict(config))
    return ["--" + key.removeprefix("machine.").replace("_", "-") for key in settings if key != "method"]


def check_flags(words: list[str], name: str) -> None:
    """InputError for a flag of `fgtrain run NAME` that is in another group, --optim.epochs for --epochs, or of other
    methods. tyro reports other unknown flags, but suggests only flags of similar names."""
    own = flags_of(RECIPES[name]())
    for word in words[2:]:
        flag = word.partition("=")[0].replace("_", "-")
        positive = re.sub(r"(--|\.)no-(?=[^.]*$)", r"\1", flag)
        if not flag.startswith("--") or positive in own:
            continue
        meant = [one for one in own if re.split(r"^--|\.", one)[-1] == re.split(r"^--|\.", flag)[-1]]
        owners = [method for method, kind in METHODS.items() if positive in flags_of(kind())]
        if meant or owners:
            of = f", which is a flag of {', '.join(owners)}" if owners else ""
            advice = f" Did you mean {' or '.join(meant)}?" if meant else ""
            raise InputError(f"{name} has no flag {flag}{of}.{advice} All flags: fgtrain run {name} --help")


def describe_stop(argv: list[str]) -> str:
    """Arguments of a `fgtrain run` that was interrupted -> what it leaves on disk, and how to resume."""
    from .runs.rundir import RunDir

    words, _ = plugins.take(argv)
    run = RunDir(_folder(words, words[1] if len(words) > 1 else None))
    try:
        if not run.config_path.is_file():
            return "Nothing was trained yet; rerun the command."
        if not run.checkpoints:
            return "It has no checkpoint yet; to start again, rerun the command with --resume."
    except OSError:  # of a disk that fails, which is being reported
        return ""
    return "To resume from the last checkpoint, rerun the command with --resume."


def _folder(argv: list[str], name: str | None) -> Path:
    return Path(_value(argv, "--out") or f"runs/{name}")


def _value(argv: list[str], flag: str) -> str | None:
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None


def main(argv: list[str] | None = None) -> int:
    """Runs the command line -> exit code.

    argv: the arguments. Default: those of the process.

    0: done, or stopped by SIGTERM, SIGUSR1 or SIGHUP after a checkpoint, so that a scheduler can queue the job again.
    130: stopped by Ctrl-C, after a checkpoint if a run was training and it was the first. 2: input that cannot be used.
    """
    argv = sys.argv[1:] if argv is None else argv
    # By default torch's threads spin while they wait for one another. Next to another busy process that starves both:
    # on two shared cores spinning gave 0 to 30 images/s, sleeping 40 to 140. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed()

    def command() -> None:
        words, modules = plugins.take(argv)
        plugins.load_installed(tables := {"METHODS": METHODS, "RECIPES": RECIPES})
        plugins.load(modules, tables)
        for method in METHODS.keys() - {recipe().method for recipe in RECIPES.values()}:
            RECIPES.setdefault(method, METHODS[method])  # a method without a recipe starts from its own defaults
        defaults, name = read_defaults(words)
        if name is not None:
            check_flags(words, name)
        with help_as_paragraphs(words):
            chosen = parse(words, defaults, name)
        try:
            if name is not None:
                from .engine.lifecycle import train

                train(chosen, name, signals)
            else:
                call(chosen)
        except ModuleNotFoundError as fault:
            if (fault.name or "").partition(".")[0] not in TRAINING:
                raise
            raise InputError(
                f"fgtrain needs {fault.name}, which is not installed: pip install {' '.join(TRAINING)}"
            ) from None
        except RuntimeError as fault:
            from .place import is_out_of_memory

            if not is_out_of_memory(fault):
                raise
            raise InputError(
                f"Not enough memory ({str(fault).partition(chr(10))[0]}). Use smaller images (--size, --views.size) or "
                "batches, or --device cpu if this was a GPU's memory."
            ) from fault

    training = is_training(argv)
    with StopSignals() as signals:
        if training:
            signals.catch(PATIENT)
        return run_command("fgtrain", command, lambda: describe_stop(argv) if training else "")


if __name__ == "__main__":
    sys.exit(main())
