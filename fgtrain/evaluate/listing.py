"""What `fgtrain list` and `fgtrain export` print and write."""

import inspect
import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgtrain.checkpoint import Checkpoint
from fgtrain.data import SHARDS
from fgtrain.recipes import RECIPES
from fgtrain.rundir import RunDir, whole


def run_export(path: Path, file: Path) -> None:
    found = Checkpoint.find(path)
    if file.suffix != ".safetensors":
        raise InputError(f"{file}: the file is written as safetensors; let its name end in .safetensors.")
    with whole(file) as part:
        shutil.copyfile(found.file, part)
    name = found.model.backbone
    Console(highlight=False, soft_wrap=True).print(
        f"{file}: {name}, width {found.model.width}, {found.model.stem} stem, step {found.step:,}.\n"
        f"weights = safetensors.torch.load_file({str(file)!r})\n"
        f"timm.create_model({name!r}, num_classes=0).load_state_dict(weights)\n"
        f"torchvision.models.{name}().load_state_dict(weights, strict=False)  # fc stays random"
        if (found.model.width, found.model.stem) == (64, "imagenet")
        else f"{file}: {name} of width {found.model.width} with the {found.model.stem} stem; torchvision's names, "
        "but not its standard shapes."
    )


def run_list() -> None:
    console = Console(highlight=False)
    table = Table("recipe", "what it is", title="fgtrain run NAME", title_justify="left")
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
        facts = run.facts
        table.add_row(str(run.path), run.config().method, facts.get("status", "unknown"), f"{facts.get('step', 0):,}")
    console.print(table if table.row_count else f"No runs under {Path('runs').resolve()}.")
