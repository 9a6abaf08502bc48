"""What decides the bytes of a shard set, and the refusal of a set that was begun with something else."""

import hashlib
import json
import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .. import __version__
from ..datasets import Dataset
from ..errors import InputError, counted
from ..saliency import component, detector
from ..shards.manifest import FORMAT_MAJOR, FORMAT_MINOR, read_objective
from ..shards.maps import SIDE
from .sample import Recipe

# Train samples are stored in one fixed shuffled order, so that a reader with a small buffer mixes classes.
ORDER_SEED = 0


def make_plan(dataset: Dataset, recipe: Recipe, shard_samples: int) -> dict:
    """Everything that decides the bytes of the set, as the manifest says it."""
    said = [[r.id, r.file, r.label, r.class_name, r.split, r.boxes] for r in dataset.records]
    records = hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()
    kept = {"maps": {"side": SIDE}} if recipe.keep_maps else {}
    return {
        "format_version": f"{FORMAT_MAJOR}.{FORMAT_MINOR}",
        "dataset": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "settings": dataset.settings,
            "records_sha256": records,
        },
        "detectors": {component(name): {} if name == "gt" else detector(name).SETTINGS for name in recipe.saliency},
        "objective": asdict(recipe.objective),
        "images": {"max_side": recipe.max_side, "quality": recipe.quality},
        "shard_samples": shard_samples,
        "order_seed": ORDER_SEED,
        "versions": versions(),
        **kept,
    }


def versions() -> dict[str, str]:
    """Of this package and of those that decide what a detector finds."""
    import cv2
    import numba

    return {"fgdata": __version__, "numpy": np.__version__, "opencv": cv2.__version__, "numba": numba.__version__}


def refuse_other(out: Path, there: dict, asked: dict, images: tuple[int | None, int], ignored: tuple[str, ...]) -> None:
    """Refuses a set of another plan. `images`: how many the dataset had when the set was begun, and has now."""
    if "objective" in there:  # it may record a constant that decided nothing
        there = there | {"objective": asdict(read_objective(there))}
    there, asked = _flat(there), _flat(json.loads(json.dumps(asked)))
    differs = [key for key in asked if there.get(key) != asked[key] and not key.startswith(ignored)]
    differs += [key for key in there if key.startswith(("detectors.", "maps.side")) and key not in asked]
    if not differs:
        return
    # Another dataset, or another setting of it, has other records and classes by nature: those say nothing then.
    of_files = {"dataset.records_sha256", "dataset.classes"}
    changed = of_files & {*differs} and not any(key.startswith("dataset.") and key not in of_files for key in differs)
    lines = [
        f"  {key}: {_short(there.get(key))} there, {_short(asked[key]) if key in asked else 'nothing'} asked"
        for key in differs
        if key not in of_files
    ]
    folder = shlex.quote(str(out))
    last = f"Build into another folder (--out FOLDER), or delete this one first: rm -r {folder}"
    if changed:
        then = "" if images[0] is None else f": {counted(images[0], 'image')} then, {images[1]:,} now"
        classes = len(there.get("dataset.classes", ())), len(asked["dataset.classes"])
        then += f"; classes: {classes[0]:,} then, {classes[1]:,} now" if classes[0] != classes[1] else ""
        lines.insert(0, f"  the dataset's files, labels or boxes are not those that it was begun with{then}")
        last = f"Restore the dataset (or name its --root). {last}"
    raise InputError("\n".join([f"{out} holds a shard set made with other settings or images:", *lines, last]))


def _flat(value: dict, prefix: str = "") -> dict:
    """Nested settings by dotted name, so that a difference can be named; a list is one value."""
    flat = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.") or {f"{prefix}{key}": {}}
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def _short(value: object) -> str:
    text = json.dumps(value)
    if len(text) <= 60:
        return text
    return f"{len(value):,} values" if isinstance(value, list) else f"{text[:57]}..."
