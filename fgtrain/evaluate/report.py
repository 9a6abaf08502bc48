"""What `fgtrain eval`, `list` and `export` print and leave in results.jsonl."""

import inspect
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgtrain.checkpoint import Checkpoint
from fgtrain.data import SHARDS, open_shards, pick_device
from fgtrain.evaluate import probe
from fgtrain.recipes import RECIPES
from fgtrain.rundir import RunDir


def run_knn(
    path: Path, shards: Path | None, k: int, temperature: float, untrained: bool, size: int | None, device: str
) -> dict[str, Any]:
    found, data, where = _open(path, shards, device)
    views = size or found.size
    right = {"trained": probe.knn(found.encoder(), data, views, where, k, temperature)}
    if untrained:
        right["untrained"] = probe.knn(found.untrained(), data, views, where, k, temperature)
    settings = {"k": k, "temperature": temperature, "size": views}
    return _tell(found, data, "knn", right, settings, f"kNN, k = {k}, {views} px")


def run_linear(
    path: Path, shards: Path | None, protocol: str, cache: bool, seed: int, size: int | None, device: str
) -> dict[str, Any]:
    found, data, where = _open(path, shards, device)
    views = size or found.size
    right, rate = probe.linear(found.encoder(), data, views, where, probe.PROTOCOLS[protocol], cache, seed)
    settings = {"protocol": protocol, "cache": cache, "seed": seed, "lr": rate, "size": views}
    title = f"linear, {protocol}, lr {rate:g}, {'cached features' if cache else 'random crops'}, {views} px"
    return _tell(found, data, "linear", {"trained": right}, settings, title)


def run_export(path: Path, file: Path) -> None:
    found = Checkpoint.find(path)
    if file.suffix != ".safetensors":
        raise InputError(f"{file}: the file is written as safetensors; let its name end in .safetensors.")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    shutil.copyfile(found.file, part)
    part.replace(file)
    name = found.model.backbone
    Console(highlight=False, soft_wrap=True).print(
        f"{file}: {name}, width {found.model.width}, {found.model.stem} stem, step {found.step:,}.\n"
        f"torchvision.models.{name}().load_state_dict(safetensors.torch.load_file({str(file)!r}), strict=False)"
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


def _open(path: Path, shards: Path | None, device: str) -> tuple[Checkpoint, ShardSet, Any]:
    """The checkpoint, a shard set with classes and both splits (by default the run's own), and the device."""
    found = Checkpoint.find(path)
    if shards is None and found.run is not None:
        noted = found.run.facts.get("shards", {}).get("path")
        shards = Path(noted) if noted else None
    data = open_shards(shards)
    if missing := [split for split in ("train", "test") if not data.splits.get(split)]:
        raise InputError(
            f"{data.path} has no {' and no '.join(missing)} split, and the evaluation learns on train and scores on "
            f"test; it has {', '.join(data.splits)}. Name another set with --shards."
        )
    if len(data.classes) < 2:
        raise InputError(
            f"{data.path} has {len(data.classes)} class; a classifier needs two. Name another with --shards."
        )
    return found, data, pick_device(device)


def _tell(
    found: Checkpoint, data: ShardSet, kind: str, right: dict[str, Tensor], settings: dict[str, Any], title: str
) -> dict[str, Any]:
    scores = {name: probe.score(r) for name, r in right.items()}
    table = Table("encoder", "test accuracy", "standard error", "n", title=title, title_justify="left")
    for name, s in scores.items():
        what = f"{found.run.path if found.run else found.file}, step {found.step:,}" if name == "trained" else name
        table.add_row(what, f"{s['accuracy']:.1%}", f"{s['standard_error']:.1%}", f"{s['n']:,}")
    record: dict[str, Any] = {"evaluation": kind, "step": found.step, **scores["trained"], **settings}
    record |= {
        "chance": 1 / len(data.classes),
        "shards": str(data.path),
        "digest": data.manifest["digest"],
        "at": probe.stamp(),
    }
    lines = [f"chance: {record['chance']:.1%} ({len(data.classes)} classes)"]
    if "untrained" in right:
        gain, error = probe.paired(right["trained"], right["untrained"])
        record |= {"untrained": scores["untrained"]["accuracy"], "gain": gain, "gain_standard_error": error}
        times = f", {gain / error:.1f} standard errors" if error else ""
        lines.append(f"gain over untrained: {100 * gain:+.1f} points +- {100 * error:.1f} (paired{times})")
    console = Console(highlight=False)
    console.print(table)
    for line in lines:
        console.print(line)
    if found.run is not None:
        found.run.append("results.jsonl", record)
    return record
