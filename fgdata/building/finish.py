"""Marks of all shards -> manifest.json: the last step of a build, and `fgdata finish` for a set built in parts."""

import shlex
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, counted
from ..files.atomic import write_atomic
from ..files.lock import lock
from ..progress import Progress
from ..shards.manifest import FORMAT_MAJOR, FORMAT_MINOR, MANIFEST, SPLITS, add_counts, dump, read_manifest, signed
from ..shards.maps import MAPS, maps_part, merge
from . import unfinished
from .parts import Part


@dataclass(frozen=True)
class Built:
    """The result of a build: the manifest, the number of samples written by this call, and its seconds."""

    manifest: dict
    """Empty for a part: the set has no manifest before `finish`."""
    written: int
    seconds: float
    was_complete: bool = False
    """The set was already complete: nothing was written, not even the manifest."""


def finish(out: Path, *, threads: int = 1) -> Built:
    """Writes the manifest of a set whose shards are all built; the dataset is not needed.

    out: the folder of the set. threads: that read the shards back, at least 1. The set is the same, byte for byte, as
    one that a single `build` writes.
    Raises InputError if a shard is missing or damaged (the message lists them and the commands that build only them),
    or if a process still builds shards of this set.

        build(birds, Path("shards/drawn"), saliency=("rbd",), part=Part(0, 2))  # on one machine
        build(birds, Path("shards/drawn"), saliency=("rbd",), part=Part(1, 2))  # on another
        done = finish(Path("shards/drawn"))
    """
    start = time.monotonic()
    plan = None if (out / MANIFEST).is_file() else unfinished.read_plan(out)
    if plan is None:
        return Built(read_manifest(out), 0, 0.0, was_complete=True)
    if "shards" not in plan or plan.get("format_version") != f"{FORMAT_MAJOR}.{FORMAT_MINOR}":
        raise InputError(
            f"{out} was begun by another version of fgdata. Rerun the `fgdata build-shards` command that started it, "
            "without --part."
        )
    names = [f"{split}-{number:06d}" for split in SPLITS for number in range(plan["shards"].get(split, 0))]
    with lock(out), unfinished.owning_shards(out, range(len(names))) as owner:
        if (out / MANIFEST).is_file():  # another process finished it in the meantime
            return Built(read_manifest(out), 0, 0.0, was_complete=True)
        facts = {name: fact for name in names if (fact := unfinished.read_mark(out, name))}
        if len(facts) == len(names):
            damaged = find_damaged(out, names, facts, threads)
            for name in damaged:
                unfinished.remove_mark(out, name)
            notes = [f"{path} is damaged: its sha256 differs from the recorded one." for path in damaged.values()]
            missing = [name for name in names if name in damaged]
        else:
            notes, missing = [], [name for name in names if name not in facts]
        if missing:
            raise InputError("\n".join([*notes, *_explain_missing(out, plan, names, missing)]))
        manifest = complete(out, unfinished.without_own_keys(plan), [facts[name] for name in names], owner)
        return Built(manifest, 0, time.monotonic() - start)


def complete(out: Path, plan: dict, facts: Sequence[dict], owner: Path) -> dict:
    """Merges the maps, writes the manifest, removes `.building` -> the manifest.

    facts: of every shard, in the order of the set. owner: the owner file of this process.
    """
    unfinished.merge_logs(out)
    manifest = make_manifest(plan | (_merge_maps(out, plan, facts) if "maps" in plan else {}), facts)
    for fact in facts:
        if not fact["entry"]["samples"]:  # all images were skipped; DALI refuses an empty index
            (out / f"{fact['name']}.tar").unlink(missing_ok=True)
            (out / f"{fact['name']}.idx").unlink(missing_ok=True)
    unfinished.remove_leftovers(out, owner)
    write_atomic(out / MANIFEST, dump(manifest))
    unfinished.remove_building(out, owner)
    return manifest


def find_damaged(out: Path, names: Sequence[str], facts: Mapping[str, dict], threads: int) -> dict[str, Path]:
    """-> by shard, a file on disk that differs from what was written."""
    damaged = {}
    images = [facts[name]["entry"]["samples"] + len(facts[name]["skipped"]) for name in names]
    with Progress("Checking shards", sum(images)) as progress, ThreadPoolExecutor(threads) as pool:
        paths = pool.map(lambda name: unfinished.find_damage(out, facts[name]), names)
        for name, count, path in zip(names, images, paths):
            if path is not None:
                damaged[name] = path
            progress.advance(count)
    return damaged


def make_manifest(plan: dict, facts: Sequence[dict]) -> dict:
    """The plan of a set and the facts of its shards, in order -> the manifest."""
    splits = {}
    for split in SPLITS:
        entries = [fact["entry"] for fact in facts if fact["name"].startswith(split)]
        entries = [entry for entry in entries if entry["samples"]]
        if entries:
            splits[split] = {"samples": sum(entry["samples"] for entry in entries), "shards": entries}
    if not splits:
        raise InputError("None of the dataset's images can be read. See why the first one fails: --on-bad-image stop")
    manifest = {
        **plan,
        "splits": splits,
        "skipped": [skipped for fact in facts for skipped in fact["skipped"]],
        "boxes_clipped": sum(fact["boxes_clipped"] for fact in facts),
        "reencoded": sum(fact["reencoded"] for fact in facts),
        "fallbacks": add_counts(fact["fallbacks"] for fact in facts),
    }
    return signed(manifest)


def _merge_maps(out: Path, plan: dict, facts: Sequence[dict]) -> dict:
    """Merges the map files of the shards into maps.h5 -> its entry for the manifest, as {"maps": entry}."""
    parts = [maps_part(out, fact["name"]) for fact in facts if fact["entry"]["samples"]]
    if not parts:
        return {}
    return {"maps": merge({name: parts for name in plan["detectors"] if name != "gt"}, out / MAPS)}


def _explain_missing(out: Path, plan: dict, names: Sequence[str], missing: Sequence[str]) -> list[str]:
    """-> lines: which shards are missing, and the commands that build only them."""
    command = plan.get("command") or "the `fgdata build-shards` command that started it"
    lines = [f"{out}: {len(missing):,} of {counted(len(names), 'shard')} missing: {', '.join(_ranges(missing))}."]
    if count := plan.get("parts"):
        wanted = {*missing}
        parts = [Part(index, count) for index in range(count)]
        parts = [part for part in parts if any(names[number] in wanted for number in part.share(len(names)))]
        lines.append(f"Build only these: rerun {counted(len(parts), 'part')}. Shards that exist are not built again.")
        lines += [f"  {command} --part {part}" for part in parts[:4]]
        if len(parts) > 4:
            lines.append(f"  ... and parts {', '.join(str(part.index) for part in parts[4:])}")
        lines.append(f"As a Slurm array: --array={','.join(str(part.index) for part in parts)}")
        lines.append(f"Then: fgdata finish {shlex.quote(str(out))}")
        lines.append(f"Or build them on this machine and finish the set: {command}")
    else:
        lines.append(f"Build them and finish the set: {command}")
    return lines


def _ranges(names: Sequence[str]) -> list[str]:
    """Names in order -> "train-000003 to train-000007", ...; at most 20, then how many more."""
    runs: list[list[str]] = []
    for name in names:
        split, _, number = name.rpartition("-")
        follows = runs and runs[-1][-1] == f"{split}-{int(number) - 1:06d}"
        runs[-1].append(name) if follows else runs.append([name])
    words = [run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return words[:20] + ([f"and {len(words) - 20:,} more ranges"] if len(words) > 20 else [])
