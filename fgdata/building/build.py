"""plan -> one job per shard -> manifest. Every shard is an independent job, so any of them may be stopped and redone.

While a set is being built its folder holds `.building/plan.json` and, for each finished shard, `.building/NAME.json`,
written after the shard's tar and index. The manifest is written last, in one piece; then `.building` goes.
Everything that belongs to the set is the same whenever and however often it is built; times go to build.jsonl.
"""

import json
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..boxes.objective import Objective
from ..datasets import DATASETS, Dataset, Record
from ..errors import InputError, printable
from ..files.atomic import write_atomic
from ..files.lock import create_and_lock
from ..progress import Progress
from ..saliency import component, require
from ..shards.manifest import BUILDING, MANIFEST, SPLITS, add_counts, count_fallbacks, dump, read_manifest, signed
from ..shards.maps import MAPS, maps_part, merge, pack
from ..shards.reader import set_faults
from ..shards.writer import ShardWriter
from . import sample
from .engine import run_jobs, validate
from .log import Log, append_log
from .plan import ORDER_SEED, make_plan, refuse_other


@dataclass(frozen=True)
class Job:
    """One shard to write."""

    folder: Path
    name: str
    first_key: int
    key_digits: int
    records: tuple[Record, ...]
    recipe: sample.Recipe


@dataclass(frozen=True)
class Built:
    """What a build did: the manifest, the samples written now, and the seconds that took."""

    manifest: dict
    written: int
    seconds: float
    was_complete: bool = False
    """Nothing was left to do; not even the manifest to write."""


def build(
    dataset: Dataset,
    out: Path,
    *,
    saliency: tuple[str, ...],
    objective: Objective | None = None,
    max_side: int | None = None,
    quality: int = 90,
    on_bad_image: str = "stop",
    shard_samples: int = 256,
    workers: int = 1,
    engine: str = "local",
    keep_maps: bool = False,
) -> Built:
    """Writes the shard set of a dataset to a folder, or goes on with one that was stopped.

    InputError when the folder holds something else (it says what differs), when a detector needs boxes that the dataset
    lacks, or, with on_bad_image "stop", when an image cannot be read; all of it before any detector runs.
    """
    recipe = sample.Recipe(dataset.load, saliency, objective or Objective(), max_side, quality, on_bad_image, keep_maps)
    _validate(dataset, recipe, shard_samples)
    validate(workers, engine)
    plan = make_plan(dataset, recipe, shard_samples)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. Name a folder for the shard set: --out FOLDER")
    with create_and_lock(out):
        if (out / MANIFEST).is_file():
            manifest = read_manifest(out)
            _refuse_damaged(out, manifest)
            stored = sum(split["samples"] for split in manifest["splits"].values())
            images = stored + len(manifest.get("skipped", ())), len(dataset.records)
            refuse_other(out, manifest, plan, images, ("versions", "format_version"))
            shutil.rmtree(out / BUILDING, ignore_errors=True)
            return Built(manifest, 0, 0.0, was_complete=True)
        _refuse_unlike(out, plan, len(dataset.records))
        for part in out.glob("**/*.part"):
            part.unlink(missing_ok=True)
        jobs = make_jobs(dataset, out, recipe, shard_samples)
        facts = {job.name: found for job in jobs if (found := _finished(job))}
        todo = [job for job in jobs if job.name not in facts]
        if on_bad_image == "stop" and (dataset.name not in DATASETS or DATASETS[dataset.name].files):
            _refuse_bad_images(todo, workers)
        (out / BUILDING).mkdir(exist_ok=True)
        write_atomic(out / BUILDING / "plan.json", dump(plan | {"begun_with": len(dataset.records)}))
        total, done = len(dataset.records), sum(len(job.records) for job in jobs if job.name in facts)
        with Progress("Building", total, done) as progress:
            for fact in run_jobs(build_shard, todo, workers=workers, engine=engine, advance=progress.advance):
                facts[fact["name"]] = fact
                append_log(out, {"shard": fact["name"], **fact.pop("log")})
            kept = _merge_maps(out, recipe, jobs, facts) if keep_maps else {}
            manifest = _manifest(plan | kept, jobs, facts)
            for job in jobs:
                if not facts[job.name]["entry"][
                    "samples"
                ]:  # all of its images were skipped; DALI refuses an empty index
                    (out / f"{job.name}.tar").unlink(missing_ok=True)
                    (out / f"{job.name}.idx").unlink(missing_ok=True)
            write_atomic(out / MANIFEST, dump(manifest))
            shutil.rmtree(out / BUILDING)
            return Built(manifest, sum(facts[job.name]["entry"]["samples"] for job in todo), progress.seconds)


def build_shard(job: Job, advance=lambda images: None) -> dict:
    """Writes one shard and then its facts; runs in a worker process."""
    log = Log()
    fact: dict = {"name": job.name, "skipped": [], "boxes_clipped": 0, "reencoded": 0, "fallbacks": {}}
    keys, maps = [], {component(name): [] for name in job.recipe.saliency if name != "gt"}
    with ShardWriter(job.folder, job.name) as writer:
        for number, record in enumerate(job.records):
            try:
                components, meta, found = sample.make(record, job.recipe, log)
            except InputError as fault:
                if job.recipe.on_bad_image == "stop":
                    raise
                fact["skipped"].append({"file": printable(record.file), "why": printable(str(fault))})
            else:
                with log.stage("write"):
                    writer.add(f"{job.first_key + number:0{job.key_digits}d}", components, meta)
                keys.append(job.first_key + number)
                for name, kept in found.items():
                    maps[name].append(kept)
                fact["boxes_clipped"] += meta.get("boxes_clipped", False)
                fact["reencoded"] += "source" in meta
                count_fallbacks(fact["fallbacks"], meta)
            advance(1)
    fact["entry"] = writer.entry
    if job.recipe.keep_maps and keys:
        part = pack(keys, maps)
        write_atomic(maps_part(job.folder, job.name), part)
        fact["maps_bytes"] = len(part)
    write_atomic(job.folder / BUILDING / f"{job.name}.json", dump(fact))
    return {**fact, "log": log.summary()}


def _merge_maps(out: Path, recipe: sample.Recipe, jobs: list[Job], facts: dict[str, dict]) -> dict:
    """The shards' map files -> maps.h5; what the manifest says of it."""
    parts = [maps_part(out, job.name) for job in jobs if facts[job.name]["entry"]["samples"]]
    if not parts:
        return {}
    return {"maps": merge({component(name): parts for name in recipe.saliency if name != "gt"}, out / MAPS)}


def _validate(dataset: Dataset, recipe: sample.Recipe, shard_samples: int) -> None:
    if not dataset.records:
        raise InputError(f"The dataset {dataset.name} has no images at all.")
    if odd := next((word for word in dataset.classes if printable(word) != word), None):
        raise InputError(
            f"{dataset.name}: the name of class {printable(odd)} is not UTF-8 text here. Rename it; or, if it looks "
            "right in your file manager, set PYTHONUTF8=1 and repeat this command."
        )
    if not recipe.saliency:
        raise InputError("No detector was asked for: --saliency takes one or more names; `fgdata list` shows them.")
    if len(set(recipe.saliency)) < len(recipe.saliency):
        raise InputError(f"--saliency names a detector twice: {' '.join(recipe.saliency)}.")
    if recipe.max_side is not None and recipe.max_side < 16:
        raise InputError(f"--max-side {recipe.max_side}: at least 16 pixels.")
    if not 1 <= recipe.quality <= 100:
        raise InputError(f"--quality {recipe.quality}: 1 to 100.")
    if shard_samples < 1:
        raise InputError(f"--shard-samples {shard_samples}: at least 1.")
    if recipe.keep_maps and set(recipe.saliency) == {"gt"}:
        raise InputError(
            "--keep-maps: gt has no saliency map to keep. Ask for a detector too, for example --saliency rbd"
        )
    require(recipe.saliency, (record.file for record in dataset.records))
    if "gt" in recipe.saliency:
        bare = [record for record in dataset.records if record.boxes == ()]
        if bare:
            raise InputError(
                f"--saliency gt: {len(bare):,} of {len(dataset.records):,} images of {dataset.name} have no "
                f"ground-truth box (the first is {bare[0].file}). Ask for a detector, for example --saliency rbd"
            )


def _refuse_damaged(out: Path, manifest: dict) -> None:
    """Refuses a complete set of which something is missing or of another length; `fgdata check` reads every byte."""
    faults = list(set_faults(out, manifest))
    if "maps" in manifest:
        path = out / MAPS
        if not path.is_file():
            faults.append(f"{path} is missing")
        elif (size := path.stat().st_size) != manifest["maps"]["bytes"]:
            faults.append(f"{path} is damaged: {size:,} bytes where {manifest['maps']['bytes']:,} were written")
    if faults:
        more = f", the first of {len(faults):,} faults" if len(faults) > 1 else ""
        folder = shlex.quote(str(out))
        raise InputError(
            f"{faults[0]}{more}. `fgdata check {folder}` names all damage. Restore the files, or build the set again: "
            f"rm -r {folder}, then this command"
        )


def _refuse_unlike(out: Path, plan: dict, images: int) -> None:
    """Refuses a folder that holds anything but an unfinished set of this very plan."""
    plan_file = out / BUILDING / "plan.json"
    if plan_file.is_file():
        there = json.loads(plan_file.read_bytes())
        refuse_other(out, there, plan, (there.get("begun_with"), images), ())
    elif any(entry.name != BUILDING for entry in out.iterdir()):
        raise InputError(f"{out} is not empty and not a shard set. Name another folder: --out FOLDER")


def make_jobs(dataset: Dataset, out: Path, recipe: sample.Recipe, shard_samples: int) -> list[Job]:
    """A job for every shard, in the set's order: which records go into which shard, under which keys."""
    jobs, key = [], 0
    digits = max(6, len(str(len(dataset.records))))
    for split in SPLITS:
        records = [record for record in dataset.records if record.split == split]
        if split == "train":
            records = [records[i] for i in np.random.default_rng(ORDER_SEED).permutation(len(records))]
        _move_boxes_forward(records, min(5, shard_samples))
        for number, start in enumerate(range(0, len(records), shard_samples)):
            chunk = tuple(records[start : start + shard_samples])
            jobs.append(Job(out, f"{split}-{number:06d}", key, digits, chunk, recipe))
            key += len(chunk)
    return jobs


def _move_boxes_forward(records: list[Record], among: int) -> None:
    """Moves the first record with boxes to the front if it is not among so many (FORMAT.md, "The json")."""
    first = next((i for i, record in enumerate(records) if record.boxes), 0)
    if first >= among:
        records.insert(0, records.pop(first))


def _finished(job: Job) -> dict | None:
    """The facts of a shard that is whole on disk, else None."""
    path = job.folder / BUILDING / f"{job.name}.json"
    if not path.is_file():
        return None
    fact = json.loads(path.read_bytes())
    sizes = {
        job.folder / f"{job.name}.tar": fact["entry"]["bytes"],
        job.folder / f"{job.name}.idx": fact["entry"]["index_bytes"],
    }
    if "maps_bytes" in fact:
        sizes[maps_part(job.folder, job.name)] = fact["maps_bytes"]
    whole = all(file.is_file() and file.stat().st_size == size for file, size in sizes.items())
    return fact if whole else None


def _refuse_bad_images(jobs: list[Job], threads: int) -> None:
    """Looks at every image's header before hours of work, and names the unreadable ones."""
    faults, total = [], sum(len(job.records) for job in jobs)
    with Progress("Checking images", total) as progress, ThreadPoolExecutor(threads) as pool:
        for job in jobs:  # not of all at once: the pool holds a future for every image that it was given
            for fault in pool.map(partial(sample.fault, load=job.recipe.load), job.records):
                faults += [fault] if fault else []
                progress.advance(1)
    if faults:
        more = "" if len(faults) == 1 else f"\nThat is the first of {len(faults):,} such images."
        raise InputError(faults[0] + more)


def _manifest(plan: dict, jobs: list[Job], facts: dict[str, dict]) -> dict:
    splits = {}
    for split in SPLITS:
        entries = [facts[job.name]["entry"] for job in jobs if job.name.startswith(split)]
        entries = [entry for entry in entries if entry["samples"]]
        if entries:
            splits[split] = {"samples": sum(entry["samples"] for entry in entries), "shards": entries}
    if not splits:
        raise InputError("The dataset has not one image that can be read. Look at the first: --on-bad-image stop")
    ordered = [facts[job.name] for job in jobs]
    manifest = {
        **plan,
        "splits": splits,
        "skipped": [skipped for fact in ordered for skipped in fact["skipped"]],
        "boxes_clipped": sum(fact["boxes_clipped"] for fact in ordered),
        "reencoded": sum(fact["reencoded"] for fact in ordered),
        "fallbacks": add_counts(fact["fallbacks"] for fact in ordered),
    }
    return signed(manifest)
