"""plan -> one job per shard -> manifest. Every shard is an independent job that can be stopped and repeated.

During a build the folder also holds `.building` (unfinished.py). Before the manifest is written, the files of all
shards are read back and compared with their sha256. The manifest is written last, atomically; then `.building` is
removed.
A build is deterministic: every file of the set has the same bytes each time. Times go to build.jsonl.
"""

import shlex
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .. import images
from ..boxes.objective import Objective
from ..datasets import DATASETS, Dataset, Record
from ..errors import BadImage, DetectorError, InputError, NotEnoughMemory, first_of, printable, warn
from ..files.lock import create_and_lock
from ..progress import Progress
from ..saliency import check_available, component
from ..shards.faults import set_faults
from ..shards.manifest import BUILDING, MANIFEST, SPLITS, count_fallbacks, read_manifest
from ..shards.maps import MAPS, pack
from ..shards.writer import ShardWriter
from ..stores.store import open_store
from . import sample, unfinished
from .engine import run_jobs, validate
from .finish import Built, complete, find_damaged
from .log import LOG, Log, append_log
from .parts import Part
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
    chroma: str = "420",
    ray_address: str | None = None,
    part: Part | None = None,
    command: str = "",
) -> Built:
    """Writes the shard set of a dataset to a folder, or resumes after the last complete shard of a stopped build.

    dataset: from `datasets.read`. out: the folder of the set; created if needed. saliency: names of detectors, at least
    one. objective: how a box is chosen from a map; default `Objective()`. max_side: longer images are re-encoded to
    this many pixels, at least 16; None keeps the original bytes. quality: of re-encoded JPEGs, 1 to 100.
    on_bad_image: "stop" or "skip". shard_samples: samples per shard, at least 1. workers: processes of the local
    engine, at least 1. engine: "local" or "ray". keep_maps: also store the saliency maps in maps.h5.
    chroma: colour resolution of re-encoded JPEGs, "420" or "444". ray_address: of the cluster, for engine "ray";
    default RAY_ADDRESS, else a cluster of this machine. part: build only this part's shards and write no manifest;
    other machines may build the other parts at the same time, and `finish` completes the set. command: what builds the
    set from a shell, without --part; `finish` shows it if shards are missing.
    Raises InputError, before any detector runs, if the folder holds another set or other files (the message lists the
    differences), if a detector needs boxes that the dataset lacks, or, with on_bad_image "stop", if the header or the
    end of an image's file is not that of an image. With "stop", damage inside a file stops the build when it is read.

        birds = datasets.read("drawn", classes=4, images_per_class=12, size=96)
        done = build(birds, Path("shards/drawn"), saliency=("rbd", "gt"))
        print(done.written, done.manifest["splits"]["train"]["samples"])
    """
    recipe = sample.Recipe(
        dataset.load, saliency, objective or Objective(), max_side, quality, on_bad_image, keep_maps, chroma
    )
    _validate(dataset, recipe, shard_samples)
    validate(workers, engine, ray_address)
    images.silence_decoders()
    plan = make_plan(dataset, recipe, shard_samples)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. Name a folder for the shard set: --out FOLDER")
    with create_and_lock(out, shared=part is not None), ExitStack() as stack:
        if (complete_set := _open_complete(out, plan, dataset)) is not None:
            return complete_set
        _refuse_unlike(out, plan, len(dataset.records))
        jobs = make_jobs(dataset, out, recipe, shard_samples)
        own = {"begun_with": len(dataset.records), "shards": count_shards(jobs)}
        own |= ({"parts": part.count} if part else {}) | ({"command": command} if command else {})
        share = part.share(len(jobs)) if part else range(len(jobs))
        jobs = [jobs[number] for number in share]
        owner = stack.enter_context(unfinished.owning_shards(out, share))
        if (complete_set := _open_complete(out, plan, dataset, owner)) is not None:  # finished in the meantime
            return complete_set
        if not part:
            unfinished.remove_leftovers(out, owner)
        facts = {job.name: fact for job in jobs if (fact := unfinished.read_mark(out, job.name))}
        todo = [job for job in jobs if job.name not in facts]
        if on_bad_image == "stop" and (dataset.name not in DATASETS or DATASETS[dataset.name].files):
            _refuse_bad_images(todo, workers)
        if part:
            unfinished.write_plan_once(out, plan, own)
            _refuse_unlike(out, plan, len(dataset.records))  # of parts that start together, one writes the plan
        else:
            unfinished.write_plan(out, plan, own)
        log = unfinished.part_log(out) if part else out / LOG
        total = sum(len(job.records) for job in jobs)
        start = time.monotonic()
        run = partial(run_jobs, workers=workers, engine=engine, **({"ray_address": ray_address} if ray_address else {}))
        _build_shards(log, todo, facts, total, run)
        if (complete_set := _open_complete(out, plan, dataset, owner)) is not None:  # another process took over
            return complete_set
        names = [job.name for job in jobs]
        damaged = find_damaged(out, names, facts, workers)
        for path in damaged.values():
            warn(f"{path} is damaged: its sha256 differs from the recorded one. Rebuilding its shard.")
        rebuilt = [job for job in jobs if job.name in damaged]
        _build_shards(log, rebuilt, facts, total, run)
        for path in find_damaged(out, [job.name for job in rebuilt], facts, workers).values():
            raise InputError(f"{path} is damaged again after its shard was rebuilt. Check the disk.")
        manifest = {} if part else complete(out, plan, [facts[name] for name in names], owner)
        written = {job.name for job in todo} | damaged.keys()
        return Built(manifest, sum(facts[name]["entry"]["samples"] for name in written), time.monotonic() - start)


def _open_complete(out: Path, plan: dict, dataset: Dataset, owner: Path | None = None) -> Built | None:
    """-> the set in the folder if it is complete. Raises InputError if it is damaged or has another plan.

    owner: the owner file of this process, if it has one.
    """
    if not (out / MANIFEST).is_file():
        return None
    manifest = read_manifest(out)
    _refuse_damaged(out, manifest)
    stored = sum(split["samples"] for split in manifest["splits"].values())
    counts = stored + len(manifest.get("skipped", ())), len(dataset.records)
    ignored = ("versions", "format_version", *(() if manifest["reencoded"] else ("images.version",)))
    refuse_other(out, manifest, plan, counts, ignored)
    unfinished.remove_leftovers(out, owner)
    unfinished.remove_building(out, owner)
    return Built(manifest, 0, 0.0, was_complete=True)


def _build_shards(log: Path, jobs: list[Job], facts: dict[str, dict], total: int, run: Callable) -> None:
    """Builds shards and adds their facts to `facts`, by name.

    total: the images of the whole set, or of the part. run: `run_jobs` with an engine.
    """
    with Progress("Building", total, total - sum(len(job.records) for job in jobs)) as progress:
        for fact in run(build_shard, jobs, advance=progress.advance):
            append_log(log, {"shard": fact["name"], **fact.pop("log")})
            facts[fact["name"]] = fact


def build_shard(job: Job, advance=lambda images: None) -> dict:
    """Writes one shard, then its facts. Runs in a worker process; `advance` is called with 1 after every image.

    -> the facts, plus the shard's line of build.jsonl under "log". Raises InputError if an image cannot be used.
    """
    log = Log()
    fact: dict = {"name": job.name, "skipped": [], "boxes_clipped": 0, "reencoded": 0, "fallbacks": {}}
    keys, maps = [], {component(name): [] for name in job.recipe.saliency if name != "gt"}
    with log.stage("start-up"):
        sample.warm_up(job.recipe.saliency)
    with ShardWriter(job.folder, job.name) as writer:
        for number, record in enumerate(job.records):
            try:
                with images.name_image(record.file):
                    components, meta, stored_maps = sample.make(record, job.recipe, log)
            except (NotEnoughMemory, DetectorError):
                raise
            except InputError as fault:
                if job.recipe.on_bad_image == "stop":
                    raise
                why = fault.fault if isinstance(fault, BadImage) else str(fault)
                fact["skipped"].append({"file": printable(record.file), "why": printable(why)})
            else:
                with log.stage("write"):
                    writer.add(f"{job.first_key + number:0{job.key_digits}d}", components, meta)
                keys.append(job.first_key + number)
                for name, stored in stored_maps.items():
                    maps[name].append(stored)
                fact["boxes_clipped"] += meta.get("boxes_clipped", False)
                fact["reencoded"] += "source" in meta
                count_fallbacks(fact["fallbacks"], meta)
            advance(1)
    fact["entry"] = writer.entry
    fact = unfinished.write_mark(job.folder, fact, pack(keys, maps) if job.recipe.keep_maps and keys else None)
    return {**fact, "log": log.summary()}


def _validate(dataset: Dataset, recipe: sample.Recipe, shard_samples: int) -> None:
    if not dataset.records:
        raise InputError(f"The dataset {dataset.name} has no images.")
    if odd := next((word for word in dataset.classes if printable(word) != word), None):
        raise InputError(
            f"{dataset.name}: the name of class {printable(odd)} is not UTF-8 text. Rename it. If the name looks "
            "right in a file manager, set PYTHONUTF8=1 and rerun the command."
        )
    if not recipe.saliency:
        raise InputError("No detector is given: --saliency takes one or more names; `fgdata list` shows them.")
    if len(set(recipe.saliency)) < len(recipe.saliency):
        raise InputError(f"--saliency names a detector twice: {' '.join(recipe.saliency)}. Name each one once.")
    if recipe.max_side is not None and recipe.max_side < 16:
        raise InputError(f"--max-side {recipe.max_side}: must be at least 16 pixels.")
    if not 1 <= recipe.quality <= 100:
        raise InputError(f"--quality {recipe.quality}: must be 1 to 100.")
    if recipe.chroma not in images.CHROMA:
        raise InputError(f"--chroma {recipe.chroma}: must be one of {', '.join(images.CHROMA)}.")
    if shard_samples < 1:
        raise InputError(f"--shard-samples {shard_samples}: must be at least 1.")
    if recipe.keep_maps and set(recipe.saliency) == {"gt"}:
        raise InputError("--keep-maps: gt has no saliency map to keep. Add a detector, for example --saliency gt rbd")
    check_available(recipe.saliency, (record.file for record in dataset.records))
    if "gt" in recipe.saliency:
        without_box = [record for record in dataset.records if record.boxes == ()]
        if without_box:
            raise InputError(
                f"--saliency gt: {len(without_box):,} of {len(dataset.records):,} images of {dataset.name} have no "
                f"ground-truth box (the first is {without_box[0].file}). Use a detector, for example --saliency rbd"
            )


def _refuse_damaged(out: Path, manifest: dict) -> None:
    """Refuses a complete set if a file is missing or has the wrong length. Only `fgdata check` reads every byte."""
    faults = list(set_faults(open_store(out), manifest))
    if "maps" in manifest:
        path = out / MAPS
        if not path.is_file():
            faults.append(f"{path} is missing")
        elif (size := path.stat().st_size) != manifest["maps"]["bytes"]:
            faults.append(f"{path} is damaged: {size:,} bytes instead of {manifest['maps']['bytes']:,}")
    if faults:
        more = f" (the first of {len(faults):,} faults)" if len(faults) > 1 else ""
        folder = shlex.quote(str(out))
        raise InputError(
            f"{faults[0]}{more}. `fgdata check {folder}` lists all damage. Restore the files, or rebuild the set: "
            f"rm -r {folder}, then rerun the command"
        )


def _refuse_unlike(out: Path, plan: dict, images: int) -> None:
    """Refuses a folder that holds anything but an unfinished set with the same plan."""
    old_plan = unfinished.read_plan(out)
    if old_plan is not None:
        refuse_other(out, old_plan, plan, (old_plan.get("begun_with"), images), ())
    elif any(entry.name != BUILDING for entry in out.iterdir()):
        raise InputError(f"{out} is not empty and is not a shard set. Name another folder: --out FOLDER")


def make_jobs(dataset: Dataset, out: Path, recipe: sample.Recipe, shard_samples: int) -> list[Job]:
    """-> a job per shard, in the order of the set: assigns records and keys to shards."""
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


def count_shards(jobs: list[Job]) -> dict[str, int]:
    """-> the number of shards of each split."""
    return {split: count for split in SPLITS if (count := sum(job.name.startswith(f"{split}-") for job in jobs))}


def _move_boxes_forward(records: list[Record], among: int) -> None:
    """Moves the first record with boxes, or whose boxes are not read yet, to the front if it is not among the first
    `among` (FORMAT.md, "The json").
    """
    first = next((i for i, record in enumerate(records) if record.boxes != ()), 0)
    if first >= among:
        records.insert(0, records.pop(first))


def _refuse_bad_images(jobs: list[Job], threads: int) -> None:
    """Checks the header and the end of every image before the work starts. Raises InputError if one is unusable."""
    faults, total = [], sum(len(job.records) for job in jobs)
    with Progress("Checking images", total) as progress, ThreadPoolExecutor(threads) as pool:
        for job in jobs:  # shard by shard: the pool keeps a future for every image passed to `map`
            for fault in pool.map(partial(sample.find_fault, load=job.recipe.load), job.records):
                faults += [fault] if fault else []
                progress.advance(1)
    if faults:
        first, count = faults[0], len(faults)
        if isinstance(first, BadImage):
            raise BadImage(first.fault, first.remedy, count=count)
        raise InputError(f"{first}{first_of(count)}")
