"""fgtrain list: tables of recipes, shard sets and runs."""

import inspect
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet

from ..place import SHARDS
from ..runs.rundir import RunDir
from ..settings.recipes import RECIPES


def run_list(_flags: object = None) -> None:
    """Prints the recipes, the shard sets under shards/ and the runs under runs/; an unreadable one gets a row too."""
    console = Console(highlight=False)
    table = Table("recipe", "description", title="fgtrain run NAME", title_justify="left")
    for name, recipe in RECIPES.items():
        table.add_row(name, (inspect.getdoc(recipe) or "").splitlines()[0])
    console.print(table)
    table = Table("shard set", "images", "boxes", title="--data.shards", title_justify="left")
    for manifest in sorted(SHARDS.glob("*/manifest.json")):
        try:
            shards = ShardSet.open(manifest.parent)
            counts = ", ".join(f"{split} {n:,}" for split, n in shards.splits.items())
            table.add_row(str(shards.path), counts, ", ".join(shards.detectors) or "none")
        except InputError as error:
            table.add_row(str(manifest.parent), "unreadable", str(error).split(". ")[0])
    console.print(table if table.row_count else f"No shard sets under {SHARDS.resolve()}.")
    table = Table("run", "method", "status", "step", title="fgtrain eval knn RUN", title_justify="left")
    for config in sorted(Path("runs").glob("*/config.json")):
        run = RunDir(config.parent)
        try:
            facts, method = run.facts, run.config().method
            table.add_row(str(run.path), method, facts.get("status", "unknown"), f"{facts.get('step', 0):,}")
        except InputError as error:
            table.add_row(str(run.path), "unreadable", str(error), "")
    console.print(table if table.row_count else f"No runs under {Path('runs').resolve()}.")
