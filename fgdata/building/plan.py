"""The plan of a shard set: every setting that determines its bytes. A set with another plan is refused."""

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..datasets import Dataset, Record
from ..errors import InputError, counted
from ..files.json import parse_json
from ..files.regular import open_regular
from ..images import VERSION
from ..plugins import needed
from ..saliency import DETECTORS, component, find_row, own_settings
from ..shards.manifest import BUILDING, FORMAT_MAJOR, FORMAT_MINOR, MANIFEST, RowsDigest, read_objective
from ..shards.maps import SIDE
from .sample import Recipe

# Train samples are stored in a fixed shuffled order, so that readers with a small shuffle buffer mix classes.
ORDER_SEED = 0


def make_plan(dataset: Dataset, recipe: Recipe, shard_samples: int) -> dict:
    """-> every setting that determines the bytes of the set, as the manifest records it."""
    chroma = {} if recipe.chroma == "420" else {"chroma": recipe.chroma}
    maps = {"maps": {"side": SIDE}} if recipe.keep_maps else {}
    used = needed("DATASETS", dataset.name) | needed("DETECTORS", *map(find_row, recipe.saliency))
    return {
        "format_version": f"{FORMAT_MAJOR}.{FORMAT_MINOR}",
        "dataset": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "settings": dataset.settings,
            "records_sha256": hash_records(dataset.records),
        },
        "detectors": {component(name): own_settings(name) for name in recipe.saliency},
        "objective": recipe.objective.settings,
        "images": {"version": VERSION, "max_side": recipe.max_side, "quality": recipe.quality, **chroma},
        "shard_samples": shard_samples,
        "order_seed": ORDER_SEED,
        "versions": versions(),
        **maps,
        **({"plugins": used} if used else {}),
    }


def hash_records(records: Sequence[Record]) -> str:
    """sha256 of the JSON list of all records."""
    digest = RowsDigest()
    for start in range(0, len(records), 1000):
        digest.add([[r.id, r.file, r.label, r.class_name, r.split, r.boxes] for r in records[start : start + 1000]])
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """-> the versions of this package and of the libraries that affect the bytes of a set."""
    import cv2
    import h5py
    import numba
    import PIL
    import simplejpeg

    return {
        "fgdata": __version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "numba": numba.__version__,
        "pillow": PIL.__version__,
        "h5py": h5py.__version__,
        "simplejpeg": simplejpeg.__version__,
    }


def recorded_plugins(out: Path) -> Any:
    """`plugins` of the manifest or plan in a folder, unchecked; None if it has none or cannot be read."""
    for path in (out / MANIFEST, out / BUILDING / "plan.json"):
        with suppress(OSError, ValueError, InputError), open_regular(path) as file:
            return parse_json(file.read()).get("plugins")
    return None


def differs_in_version(recorded: dict[str, str]) -> bool:
    """Whether the installed libraries differ from those of a set. Libraries that it does not record are ignored."""
    return any(recorded.get(name, version) != version for name, version in versions().items())


def refuse_other(out: Path, old: dict, new: dict, images: tuple[int | None, int], ignored: tuple[str, ...]) -> None:
    """Raises InputError, listing the differences, if two plans differ.

    out: the folder of the set, for the message. old: its plan or manifest. new: the plan of this command. images: the
    number of images in the dataset when the set was started (None if unknown), and now. ignored: prefixes of settings
    that may differ.
    """
    old, new = _with_defaults(old), _with_defaults(new)
    names, wanted = list(old.get("detectors", ())), list(new["detectors"])
    old, new = flatten(old), flatten(json.loads(json.dumps(new)))
    unrecorded = {key for key in new if key.startswith("versions.")} - {*old}  # sets of older versions record fewer
    differs = [key for key in new if old.get(key) != new[key] and not key.startswith(ignored) and key not in unrecorded]
    differs += [key for key in old if key.startswith(("detectors.", "maps.side", "images.")) and key not in new]
    if not differs:
        return
    one_sided = {("detectors", name) for name in {*names} ^ {*wanted}}  # one line for all of their settings
    differs = [key for key in differs if tuple(key.split(".")[:2]) not in one_sided]
    # If the dataset or a setting of it differs, its records and classes differ too: listing them adds nothing.
    file_keys = {"dataset.records_sha256", "dataset.classes"}
    files_changed = file_keys & {*differs} and not any(
        key.startswith("dataset.") and key not in file_keys for key in differs
    )
    lines = [
        f"  {key}: {_short(old.get(key))} in the set, {_short(new[key]) if key in new else 'nothing'} now"
        for key in differs
        if key not in file_keys
    ]
    folder = shlex.quote(str(out))
    last = f"Build into another folder (--out FOLDER), or delete this one first: rm -r {folder}"
    if one_sided:
        lines.insert(0, f"  detectors: {', '.join(names)} in the set, {', '.join(wanted)} now")
        added = [name for name in wanted if name not in names]
        if not differs and {*names} < {*wanted} and {*added} <= {*DETECTORS} and (out / MANIFEST).is_file():
            commands = " && ".join(f"fgdata add {folder} --saliency {name}" for name in added)
            last = f"Add them to the set: {commands}\n{last}"
    if files_changed:
        counts = "" if images[0] is None else f": {counted(images[0], 'image')} then, {images[1]:,} now"
        classes = len(old.get("dataset.classes", ())), len(new["dataset.classes"])
        counts += f"; classes: {classes[0]:,} then, {classes[1]:,} now" if classes[0] != classes[1] else ""
        lines.insert(0, f"  the dataset's files, labels or boxes have changed since the build started{counts}")
        last = f"Restore the dataset (or correct --root), unless only the version of fgdata has changed. {last}"
    raise InputError("\n".join([f"{out} holds a shard set built with different settings or images:", *lines, last]))


def _with_defaults(plan: dict) -> dict:
    """A plan whose objective is complete: plans omit a tau of "own", and old ones have constants without effect."""
    return plan | {"objective": asdict(read_objective(plan))} if "objective" in plan else plan


def flatten(value: dict, prefix: str = "") -> dict:
    """Nested settings -> {dotted name: value}; a list is one value."""
    flat = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= flatten(inner, f"{prefix}{key}.") or {f"{prefix}{key}": {}}
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def _short(value: object) -> str:
    text = json.dumps(value)
    if len(text) <= 60:
        return text
    return f"{len(value):,} values" if isinstance(value, list) else f"{text[:57]}..."
