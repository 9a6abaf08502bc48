"""Other boxes for a set that exists: solved again from its maps, or one detector's added. Images stay as they are.

The new set is written whole in a hidden folder beside the old one, then takes its name in one step (swap.py), so that a
stop at any moment leaves the old set or the new one.
"""

import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..boxes.objective import Objective, solve
from ..errors import InputError
from ..files.atomic import write_atomic
from ..files.swap import recover, replacing
from ..progress import Progress
from ..saliency import component, detector, require
from ..shards.manifest import (
    BUILDING,
    MANIFEST,
    add_counts,
    count_fallbacks,
    dump,
    newest_version,
    read_manifest,
    read_objective,
    signed,
)
from ..shards.maps import MAPS, MapFile, fault, maps_part, merge, pack
from ..shards.reader import ShardSet, SplitReader, meta
from ..shards.writer import ShardWriter, box_bytes
from .engine import run_jobs, validate
from .log import Log
from .plan import versions
from .sample import Decoded, find_box, largest


@dataclass(frozen=True)
class Job:
    """One shard to write again."""

    source: Path
    folder: Path
    split: str
    shard: dict
    records: range
    """The rows of its samples in maps.h5."""
    objective: Objective
    solve: tuple[str, ...]
    """Detectors whose boxes come from the maps."""
    detectors: tuple[str, ...]
    """Of the old set."""
    classes: int
    add: str | None
    """A detector to run on the stored images; its maps are kept where `keep_maps`."""
    keep_maps: bool


@dataclass(frozen=True)
class Reboxed:
    """What was done: the new manifest, where it is, and the seconds that took."""

    manifest: dict
    path: Path
    seconds: float


def objective_of(path: Path) -> Objective:
    """How the boxes of a set were chosen. InputError when its manifest does not say so."""
    return read_objective(_open(path).manifest)


def rebox(path: Path, objective: Objective, *, out: Path | None = None, workers: int = 1) -> Reboxed:
    """Solves every detector's boxes again from maps.h5, in place or into a new set `out`.

    InputError when the set has no maps, or when they are damaged or another set's; nothing is written then.
    """
    shards = _open(path)
    if "maps" not in shards.manifest:
        raise InputError(f"{path} has no {MAPS} to solve boxes from. Build the set with --keep-maps.")
    if found := _maps_fault(shards):
        raise InputError(f"{found}. Restore it, or build the set again with --keep-maps.")
    names = tuple(name for name in shards.detectors if name != "gt")
    changes = {"objective": asdict(objective), "reboxed": versions()}
    return _rewrite(shards, objective, names, None, changes, out, workers)


def add(path: Path, name: str, *, out: Path | None = None, workers: int = 1) -> Reboxed:
    """Runs one more detector on a set's own images and stores its boxes beside the others; its maps too if kept.

    InputError when the set has that detector already, or its maps are damaged.
    """
    shards = _open(path)
    stored = component(name)
    if stored in shards.detectors:
        raise InputError(f"{path} has boxes by {stored} already; it has {', '.join(shards.detectors)}.")
    settings = {} if name == "gt" else detector(name).SETTINGS
    require((name,), _files(shards) if name.startswith("maps:") else ())
    if found := _maps_fault(shards):
        raise InputError(f"{found}. Restore it, or build the set again with --keep-maps.")
    objective = read_objective(shards.manifest)
    changes: dict = {"detectors": shards.manifest["detectors"] | {stored: settings}}
    if versions() != shards.manifest["versions"]:
        changes["added"] = shards.manifest.get("added", {}) | {stored: versions()}
    return _rewrite(shards, objective, (), name, changes, out, workers)


def _open(path: Path) -> ShardSet:
    recover(path)
    return ShardSet.open(path)


def _maps_fault(shards: ShardSet) -> str | None:
    if "maps" not in shards.manifest:
        return None
    return fault(shards.path, shards.manifest["maps"], shards.detectors, sum(shards.splits.values()))


def _files(shards: ShardSet) -> list[str]:
    readers = [shards.split(split) for split in shards.splits]
    return [meta(reader.read(i))["file"] for reader in readers for i in range(len(reader))]


def _rewrite(
    shards: ShardSet,
    objective: Objective,
    names: tuple[str, ...],
    added: str | None,
    changes: dict,
    out: Path | None,
    workers: int,
) -> Reboxed:
    validate(workers, "local")
    start, source = time.monotonic(), shards.path
    with replacing(source, out) as new:
        if read_manifest(source) != shards.manifest:  # read before the lock was held
            raise InputError(f"{source} was changed by another fgdata a moment ago. Run this command again.")
        keep_maps = "maps" in shards.manifest
        detectors, classes = shards.detectors, len(shards.classes)
        job = Job(source, new, "", {}, range(0), objective, names, detectors, classes, added, keep_maps)
        jobs, row = [], 0
        for split, said in shards.manifest["splits"].items():
            for shard in said["shards"]:
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
            split: {**said, "shards": [facts[shard["name"]]["entry"] for shard in said["shards"]]}
            for split, said in manifest["splits"].items()
        }
        manifest["fallbacks"] = add_counts(fact["fallbacks"] for fact in ordered)
        if keep_maps and added not in (None, "gt"):
            parts = [maps_part(new, job.shard["name"]) for job in jobs]
            kept = {name: [source / MAPS] for name in shards.detectors if name != "gt"}
            manifest["maps"] = merge(kept | {component(added): parts}, new / MAPS)
        elif keep_maps:
            (_link if out is None else _copy)(source / MAPS, new / MAPS)
        shutil.rmtree(new / BUILDING)
        if out is None:
            _bring(source, new, manifest)
        manifest = signed(manifest)
        write_atomic(new / MANIFEST, dump(manifest))
    return Reboxed(manifest, out or source, time.monotonic() - start)


def rewrite_shard(job: Job, advance=lambda images: None) -> dict:
    """Writes one shard with its new boxes; runs in a worker process."""
    reader = SplitReader(job.source, job.split, [job.shard], job.detectors, job.classes)
    maps = MapFile(job.source / MAPS) if job.solve else None
    fact: dict = {"fallbacks": {}}
    keys, kept, log = [], [], Log()
    with ShardWriter(job.folder, job.shard["name"]) as writer:
        for number, row in enumerate(job.records):
            sample, key = reader.read(number), reader.key(number)
            said = meta(sample)
            del said["crc32"], sample["json"]
            for result in said["detectors"].values():  # null before format 1.2
                result["fallback"] = result["fallback"] or ""
            for name in job.solve:
                assert maps is not None
                box, kind = solve(maps.read(name, row), job.objective)
                sample[f"{name}.npy"] = box_bytes(box)
                said["detectors"][name]["fallback"] = kind or ""
            if job.add == "gt":
                truth = np.array(said["boxes"], np.float32).reshape(-1, 4)
                sample["gt.npy"] = box_bytes(largest(truth, said["file"]))
                said["detectors"]["gt"] = {"fallback": ""}
            elif job.add:
                image = Decoded(sample["jpg"], said["file"], log)
                found = find_box(job.add, image, job.objective, job.keep_maps, log)
                sample[f"{component(job.add)}.npy"] = box_bytes(found.box)
                said["detectors"][component(job.add)] = {"fallback": found.fallback or ""}
                if found.stored_map is not None:
                    kept.append(found.stored_map)
            writer.add(key, sample, said)
            count_fallbacks(fact["fallbacks"], said)
            keys.append(int(key))
            advance(1)
    reader.close()
    if maps:
        maps.close()
    if kept and job.add:
        write_atomic(maps_part(job.folder, job.shard["name"]), pack(keys, {component(job.add): kept}))
    return {**fact, "entry": writer.entry}


def _bring(source: Path, new: Path, manifest: dict) -> None:
    """What else lies in the old set's folder comes along; its report does not, it shows the old boxes."""
    own = {MANIFEST, MAPS, BUILDING, "report.html"}
    own |= {
        f"{s['name']}.{end}" for said in manifest["splits"].values() for s in said["shards"] for end in ("tar", "idx")
    }
    for entry in source.iterdir():
        if entry.name in own or entry.suffix == ".part":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=_link)
        elif entry.is_symlink():
            (new / entry.name).symlink_to(entry.readlink())
        else:
            _link(entry, new / entry.name)


def _link(source: str | Path, target: str | Path) -> None:
    """The same file under a second name, which will soon be the only one; where that cannot be, a copy."""
    try:
        os.link(source, target)
    except OSError:
        _copy(source, target)


def _copy(source: str | Path, target: str | Path) -> None:
    """A copy that is on the disk when this returns: the original may go then."""
    shutil.copyfile(source, target)
    with open(target, "rb+") as file:
        os.fsync(file.fileno())
    with suppress(OSError):  # some file systems keep no modes
        shutil.copystat(source, target)
