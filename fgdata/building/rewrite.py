"""Changes the boxes of an existing set: recomputes them from its maps, or adds one detector. Images are unchanged.

The new set is written to a hidden folder beside the old one, which it then replaces in one step (files/swap.py): an
interruption at any moment leaves either the old set or the new one.
"""

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..boxes.objective import Objective, solve
from ..errors import InputError, name_file
from ..files.atomic import is_part, write_atomic
from ..files.regular import open_regular
from ..files.space import need_space
from ..files.swap import recover, replacing
from ..images import name_image
from ..plugins import needed
from ..progress import Progress
from ..saliency import check_available, component, find_row, own_settings, own_tau
from ..shards.manifest import (
    BUILDING,
    MANIFEST,
    add_counts,
    count_fallbacks,
    dump,
    list_shards,
    newest_version,
    read_manifest,
    read_objective,
    refuse_changed,
    signed,
)
from ..shards.maps import MAPS, MapFile, maps_part, merge, pack, set_fault
from ..shards.reader import ShardSet, SplitReader, meta, read_all
from ..shards.rebuild import build_beside
from ..shards.writer import ShardWriter, box_bytes
from ..stores.place import need_local
from .engine import run_jobs, validate
from .log import LOG, Log, append_log
from .plan import differs_in_version, versions
from .sample import Decoded, find_box, largest_box, warm_up


@dataclass(frozen=True)
class Job:
    """One shard to rewrite."""

    source: Path
    folder: Path
    split: str
    shard: dict
    records: range
    """Rows of its samples in maps.h5."""
    objective: Objective
    """Of an added detector."""
    solve: dict[str, Objective]
    """The detectors whose boxes are solved from the maps, and how."""
    detectors: tuple[str, ...]
    """Of the old set."""
    classes: int
    """Number of classes of the set."""
    add: str | None
    """A detector to run on the stored images; its maps are stored if `keep_maps`."""
    keep_maps: bool


@dataclass(frozen=True)
class Reboxed:
    """The result: the new manifest, the folder of the new set, and the seconds this took."""

    manifest: dict
    path: Path
    seconds: float
    removed: tuple[str, ...] = ()
    """Files that described the old boxes; a set that was replaced no longer has them."""
    old_card: Path | None = None
    """A README.md of the set that names the digest of the old manifest: it describes the old boxes."""


def objective_of(path: Path) -> Objective:
    """-> the objective of a set. Raises InputError if the folder is not a complete set."""
    return read_objective(_open(path).manifest)


def rebox(path: Path, objective: Objective, *, out: Path | None = None, workers: int = 1) -> Reboxed:
    """Recomputes the boxes of every detector from maps.h5.

    path: the folder of a set with maps. objective: how a box is chosen. out: the folder of the new set; None replaces
    the old set. workers: processes, at least 1.
    Raises InputError, before anything is written, if the set has no maps, or if they are damaged or of another set.

        rebox(Path("shards/cub"), Objective(tau=0.5), out=Path("shards/cub-large"))
    """
    shards = _open(path)
    if "maps" not in shards.manifest:
        command = build_beside(path, shards.manifest, "-maps", keep_maps=True)
        raise InputError(f"{path} has no {MAPS} to compute boxes from. Build one that has: {command}")
    if damage := _maps_fault(shards):
        raise InputError(f"{damage}. Restore it, or rebuild the set with --keep-maps.")
    detectors = {  # sets before format 1.3 record no tau of a detector
        name: settings if name == "gt" else {"tau": own_tau(name)} | settings
        for name, settings in shards.manifest["detectors"].items()
    }
    solved = {name: objective.suit(settings["tau"]) for name, settings in detectors.items() if name != "gt"}
    changes = {"objective": objective.settings, "detectors": detectors, "reboxed": versions()}
    return _rewrite(shards, objective, solved, None, changes, out, workers)


def add(path: Path, name: str, *, out: Path | None = None, workers: int = 1) -> Reboxed:
    """Runs one more detector on the images of a set and adds its boxes, and its maps if the set has maps.

    path: the folder of the set. name: the detector. out: the folder of the new set; None replaces the old set.
    workers: processes, at least 1.
    Raises InputError if the set already has the detector, or if its maps are damaged.

        add(Path("shards/cub"), "spectral-residual", workers=4)
    """
    shards = _open(path)
    stored = component(name)
    if stored in shards.detectors:
        raise InputError(f"{path} already has boxes by {stored}; its detectors: {', '.join(shards.detectors)}.")
    settings = own_settings(name)
    if name == "gt" and not _has_truth(shards):
        raise InputError(
            f"{path} has no ground-truth boxes: its dataset, {shards.manifest['dataset']['name']}, has none. "
            "Add a detector instead: --saliency rbd"
        )
    check_available((name,), _files(shards) if name.startswith("maps:") else ())
    if damage := _maps_fault(shards):
        raise InputError(f"{damage}. Restore it, or rebuild the set with --keep-maps.")
    objective = read_objective(shards.manifest)
    changes: dict = {"detectors": shards.manifest["detectors"] | {stored: settings}}
    if used := needed("DETECTORS", find_row(name)):
        changes["plugins"] = shards.manifest.get("plugins", {}) | used
    if differs_in_version(shards.manifest["versions"]):
        changes["added"] = shards.manifest.get("added", {}) | {stored: versions()}
    return _rewrite(shards, objective, {}, name, changes, out, workers)


def _open(path: Path) -> ShardSet:
    recover(path)
    return ShardSet.open(path)


def _maps_fault(shards: ShardSet) -> str | None:
    """What is wrong with the maps of a set; None if nothing, or if it has none."""
    if "maps" not in shards.manifest:
        return None
    return set_fault(shards)


def _has_truth(shards: ShardSet) -> bool:
    """Whether an image of the set has a ground-truth box."""
    readers = [shards.split(split) for split in shards.splits]
    return any(meta(sample)["boxes"] for reader in readers for sample in read_all(reader, without="jpg"))


def _files(shards: ShardSet) -> list[str]:
    readers = [shards.split(split) for split in shards.splits]
    return [meta(sample)["file"] for reader in readers for sample in read_all(reader, without="jpg")]


def _rewrite(
    shards: ShardSet,
    objective: Objective,
    solved: dict[str, Objective],
    added: str | None,
    changes: dict,
    out: Path | None,
    workers: int,
) -> Reboxed:
    validate(workers, "local")
    start, source = time.monotonic(), need_local(shards.path, "Changing a set")
    with replacing(source, out) as new:
        refuse_changed(source, shards.manifest)  # it was read before the folder was locked
        size = sum(shard["bytes"] for shard in list_shards(shards.manifest))  # nothing is resumed, hours would be lost
        need_space(size, new, f"The new copy of {shards.path}", "name a folder on another drive: --out FOLDER")
        keep_maps = "maps" in shards.manifest
        detectors, classes = shards.detectors, len(shards.classes)
        job = Job(source, new, "", {}, range(0), objective, solved, detectors, classes, added, keep_maps)
        jobs, row = [], 0
        for split, entry in shards.manifest["splits"].items():
            for shard in entry["shards"]:
                rows = range(row, row + shard["samples"])
                jobs.append(replace(job, split=split, shard=shard, records=rows))
                row = rows.stop
        (new / BUILDING).mkdir()
        facts = {}
        with Progress("Solving boxes" if added is None else f"Adding {added}", row) as progress:
            for fact in run_jobs(rewrite_shard, jobs, workers=workers, engine="local", advance=progress.advance):
                facts[fact["entry"]["name"]] = fact
        ordered = [facts[job.shard["name"]] for job in jobs]
        manifest = {**shards.manifest, **changes, "format_version": newest_version(shards.manifest)}
        manifest["splits"] = {
            split: {**entry, "shards": [facts[shard["name"]]["entry"] for shard in entry["shards"]]}
            for split, entry in manifest["splits"].items()
        }
        manifest["fallbacks"] = add_counts(fact["fallbacks"] for fact in ordered)
        if keep_maps and added not in (None, "gt"):
            parts = [maps_part(new, job.shard["name"]) for job in jobs]
            old_maps = {name: [source / MAPS] for name in shards.detectors if name != "gt"}
            manifest["maps"] = merge(old_maps | {component(added): parts}, new / MAPS)
        elif keep_maps:
            (_link if out is None else _copy)(source / MAPS, new / MAPS)
        shutil.rmtree(new / BUILDING)
        removed, old_card = (), None
        if out is None:
            removed = tuple(name for name in _DESCRIPTIONS if (source / name).exists())
            old_card = _find_card(source, shards.manifest["digest"])
            _link_other_files(source, new, manifest)
        elif (source / LOG).is_file():  # the time of each detector
            _copy(source / LOG, new / LOG)
        if added is not None and added != "gt":
            for fact in ordered:
                append_log(new / LOG, {"shard": fact["entry"]["name"], "added": component(added), **fact["log"]})
        manifest = signed(manifest)
        write_atomic(new / MANIFEST, dump(manifest))
    return Reboxed(manifest, out or source, time.monotonic() - start, removed, old_card)


def rewrite_shard(job: Job, advance=lambda images: None) -> dict:
    """Writes one shard with its new boxes. Runs in a worker process; `advance` is called with 1 after every image."""
    reader = SplitReader(job.source, job.split, [job.shard], job.detectors, job.classes)
    maps = MapFile(job.source / MAPS) if job.solve else None
    fact: dict = {"fallbacks": {}}
    keys, new_maps, log = [], [], Log()
    if job.add:
        warm_up((job.add,))
    with ShardWriter(job.folder, job.shard["name"]) as writer:
        for number, row in enumerate(job.records):
            sample, key = reader.read(number), reader.key(number)
            fields = meta(sample)
            del fields["crc32"], sample["json"]
            for result in fields["detectors"].values():  # null before format 1.2
                result["fallback"] = result["fallback"] or ""
            for name, objective in job.solve.items():
                assert maps is not None
                box, kind = solve(maps.read(name, row), objective)
                sample[f"{name}.npy"] = box_bytes(box)
                fields["detectors"][name]["fallback"] = kind or ""
            if job.add == "gt":
                truth = np.array(fields["boxes"], np.float32).reshape(-1, 4)
                sample["gt.npy"] = box_bytes(largest_box(truth, fields["file"]))
                fields["detectors"]["gt"] = {"fallback": ""}
            elif job.add:
                image = Decoded(sample["jpg"], fields["file"], log)
                with name_image(fields["file"]):
                    result = find_box(job.add, image, job.objective, job.keep_maps, log)
                sample[f"{component(job.add)}.npy"] = box_bytes(result.box)
                fields["detectors"][component(job.add)] = {"fallback": result.fallback or ""}
                if result.stored_map is not None:
                    new_maps.append(result.stored_map)
                    keys.append(_number(key, job))
            writer.add(key, sample, fields)
            count_fallbacks(fact["fallbacks"], fields)
            advance(1)
    reader.close()
    if maps:
        maps.close()
    if new_maps and job.add:
        write_atomic(maps_part(job.folder, job.shard["name"]), pack(keys, {component(job.add): new_maps}))
    own = {name: round(seconds, 3) for name, seconds in log.seconds.items() if job.add and name == component(job.add)}
    return {**fact, "entry": writer.entry, "log": {"seconds": own, "slowest": []}}


def _number(key: str, job: Job) -> int:
    """The key of a sample as maps.h5 stores it. InputError unless it is a whole number below 2^64."""
    if key.isdecimal() and int(key) < 1 << 64:
        return int(key)
    command = build_beside(job.source, read_manifest(job.source), "-new")
    raise InputError(
        f"{job.source / job.shard['name']}.tar: the key {key} of a sample is not a whole number below 2^64, so its map "
        f"cannot be stored in {MAPS}. Build the set again, which gives every sample such a key: {command}"
    )


_DESCRIPTIONS = ("report.html", "metadata.parquet", "croissant.json")
"""Files that `fgdata show` and `fgdata card` write about the boxes of a set."""


def _find_card(folder: Path, digest: str) -> Path | None:
    """The README.md of a set if it names this digest, as the card of that set does."""
    path = folder / "README.md"
    with suppress(OSError, InputError), open_regular(path) as file:
        return path if digest.encode() in file.read(1 << 20) else None
    return None


def _link_other_files(source: Path, new: Path, manifest: dict) -> None:
    """Links every other file of the old folder into the new one, except those that describe the old boxes."""
    own = {MANIFEST, MAPS, *_DESCRIPTIONS}
    own |= {f"{shard['name']}.{end}" for shard in list_shards(manifest) for end in ("tar", "idx")}
    for entry in source.iterdir():
        if entry.name in own or is_part(entry):
            continue
        # A line is appended to the log before the swap, and must not appear in the old set.
        (_copy if entry.name == LOG and entry.is_file() else _link_tree)(entry, new / entry.name)


def _link_tree(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        target.mkdir()
        for entry in source.iterdir():
            _link_tree(entry, target / entry.name)
        _copy_mode(source, target)
    else:
        _link(source, target)


def _link(source: Path, target: Path) -> None:
    """Creates a hard link, or a copy if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        if not source.is_file():
            raise InputError(f"{source} is not a regular file. Move it out of the set's folder.") from None
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """Copies a file and syncs it to disk, so that the original can be deleted."""
    shutil.copyfile(source, target)
    with name_file(target), target.open("rb+") as file:
        os.fsync(file.fileno())
    _copy_mode(source, target)


def _copy_mode(source: Path, target: Path) -> None:
    with suppress(OSError):  # some file systems do not store modes
        shutil.copystat(source, target)
