"""fgtrain list: tables of recipes, shard sets and runs."""

import inspect
from pathlib import Path
from shlex import quote
from typing import Any

from rich.table import Table

from fgdata import plugins
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet

from ..place import SHARDS
from ..printing import say
from ..runs.checkpoint import checked_config
from ..runs.rundir import RunDir, check_is_run
from ..settings.common import Config
from ..settings.file import as_flags, differences, relevant
from ..settings.recipes import RECIPES

RUNS = Path("runs")


def run_list(flags: Any = None) -> None:
    """Prints the recipes, the shard sets under shards/ and the runs under runs/; an unreadable one gets a row too. If
    runs are named, prints these only. With --command, prints the command of each run instead. InputError if a named
    folder is not a run, and with --command if there is no run."""
    named = flags.runs if flags else ()
    runs = named or sorted(config.parent for config in RUNS.glob("*/config.json"))
    for path in named:
        check_is_run(path)
    if flags is not None and flags.command:
        if not runs:
            raise InputError(f"No runs under {RUNS.resolve()}. Name run directories: fgtrain list RUN --command")
        say(*(command_of(RunDir(path)) for path in runs))
        return
    if not named:
        _list_recipes_and_sets()
    table = Table(title="fgtrain eval knn RUN", title_justify="left")
    for heading in ("run", "recipe", "status", "step", "changed settings"):
        table.add_column(heading, overflow="fold")  # rich would shorten a name that does not fit
    for path in runs:
        table.add_row(str(path), *describe_run(path))
    say(table if table.row_count else f"No runs under {RUNS.resolve()}.")


def _list_recipes_and_sets() -> None:
    table = Table(title="fgtrain run NAME", title_justify="left")
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is")
    for name, recipe in RECIPES.items():
        config, about = recipe(), (inspect.getdoc(recipe) or "").splitlines()[0]
        facts = [config.kind, config.model.backbone, *[f"needs {words}" for words in [needs(config)] if words]]
        facts += [f"starts from {config.init}"] * bool(config.init)
        table.add_row(name, f"{about}\n{'; '.join(facts)}")
    say(table)
    table = Table(title="--data.shards", title_justify="left")
    for heading in ("shard set", "images", "boxes"):
        table.add_column(heading, overflow="fold")
    for manifest in sorted(SHARDS.glob("*/manifest.json")):
        table.add_row(str(manifest.parent), *describe_set(manifest.parent))
    say(table if table.row_count else f"No shard sets under {SHARDS.resolve()}.")


def command_of(run: RunDir) -> str:
    """The command that starts a run again, with all settings that change its result. Its --out is a new folder.

    InputError if the folder is not a run, or its settings have changed since its last checkpoint.
    """
    check_is_run(run.path)
    config, facts = checked_config(run), run.facts
    name = run.recipe(config.method)
    wanted, own = relevant(config), relevant(RECIPES[name]())
    words = as_flags({key: "None" if value is None else value for key, value in wanted.items() if own[key] != value})
    shards = facts.get("shards", {}).get("path") or config.data.shards
    data = f" --data.shards {quote(str(shards))}" if shards else ""
    return f"{run.launcher} run {name}{data} --out {quote(f'{run.path}-2')}{' ' * bool(words)}{words}{plugins.flags()}"


def needs(config: Config) -> str:
    """What a recipe needs besides images: labels, boxes, maps, backgrounds, or weights to start from."""
    views = config.views
    wanted = dict.fromkeys((*config.needs, *["boxes"] * views.needs_boxes, *["maps"] * views.needs_maps))
    own = {"boxes": f"boxes ({config.data.detector})"} if config.data.detector else {}
    own["weights"] = "" if config.init else "--init WEIGHTS"
    return ", ".join(word for word in (own.get(each, each) for each in wanted) if word)


def describe_set(path: Path) -> tuple[str, str]:
    """Images and detectors of a shard set, or "unreadable" and why."""
    try:
        shards = ShardSet.open(path)
    except (InputError, OSError) as error:
        return "unreadable", str(error).split(". ")[0]
    splits = ", ".join(f"{split} {n:,}" for split, n in shards.splits.items()) or "no split"
    return splits, ", ".join(shards.detectors) or "none"


def describe_run(path: Path) -> tuple[str, str, str, str]:
    """Recipe, status, step, and settings that are not the recipe's, of a run; or "unreadable" and why.

    Where the last checkpoint is damaged, or has other settings than config.json, that replaces the settings.
    """
    run = RunDir(path)
    try:
        facts, config = run.facts, run.config()
    except (InputError, OSError) as error:
        return "unreadable", str(error), "", ""
    recipe = run.recipe(config.method)
    changed = {key: new for key, (_, new) in differences(relevant(RECIPES[recipe]()), relevant(config)).items()}
    status, step = run.status or ("unknown" if facts else "no run.json"), facts.get("step", 0)
    if status in ("running", "interrupted"):  # run.json has the step of its last stop
        step = max(step, facts.get("checkpoint") or 0)
    remark = as_flags(changed)
    try:
        if "step" not in facts and (last := run.last_checkpoint):
            step = int(last.name)
        checked_config(run)
    except (InputError, OSError) as error:
        remark = str(error)
    return recipe, _short(status), f"{step:,}" if type(step) is int else _short(step), remark


def _short(value: Any) -> str:
    """A value of run.json, which may be of any type, in the width of a column."""
    return str(value)[:40]
