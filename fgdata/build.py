"""plan -> one job per shard -> manifest. Every shard is an independent job, so any of them may be stopped and redone.

While a set is being built its folder holds `.building/plan.json` and, for each finished shard, `.building/NAME.json`,
written after the shard's tar and index. The manifest is written last, in one piece; then `.building` goes.
Everything inside the folder is the same whenever and however often it is built: times go to a log beside the folder.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import __version__, sample
from .boxes import Objective
from .datasets import DATASETS, Dataset, Record
from .engine import run_jobs, validate
from .errors import InputError
from .progress import Progress
from .saliency import detector
from .shards.manifest import (
    BUILDING,
    FORMAT_MAJOR,
    FORMAT_MINOR,
    MANIFEST,
    SPLITS,
    digest,
    dump,
    read_manifest,
    write_atomic,
)
from .shards.writer import ShardWriter

ORDER_SEED = (
    0  # train samples are stored in one fixed shuffled order, so that a reader with a small buffer mixes classes
)


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
) -> Built:
    """Writes the shard set of a dataset to a folder, or goes on with one that was stopped.

    InputError when the folder holds something else (it says what differs), when a detector needs boxes that the dataset
    lacks, or, with on_bad_image "stop", when an image cannot be read; all of it before any detector runs.
    """
    recipe = sample.Recipe(dataset.load, saliency, objective or Objective(), max_side, quality, on_bad_image)
    _validate(dataset, recipe, shard_samples)
    validate(workers, engine)
    plan = _plan(dataset, recipe, shard_samples)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. Name a folder for the shard set: --out FOLDER")
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        if (out / MANIFEST).is_file():
            manifest = read_manifest(out)
            _refuse_other(out, manifest, plan, ("versions", "format_version"))
            shutil.rmtree(out / BUILDING, ignore_errors=True)
            return Built(manifest, 0, 0.0)
        _refuse_unlike(out, plan)
        for part in out.glob("**/*.part"):
            part.unlink(missing_ok=True)
        jobs = _jobs(dataset, out, recipe, shard_samples)
        facts = {job.name: found for job in jobs if (found := _finished(job))}
        todo = [job for job in jobs if job.name not in facts]
        if on_bad_image == "stop" and (dataset.name not in DATASETS or DATASETS[dataset.name].files):
            _refuse_bad_images(todo, workers)
        (out / BUILDING).mkdir(exist_ok=True)
        write_atomic(out / BUILDING / "plan.json", dump(plan))
        total, done = len(dataset.records), sum(len(job.records) for job in jobs if job.name in facts)
        log = out.with_name(f"{out.name}.build.jsonl")
        with Progress("Building", total, done) as progress:
            for fact in run_jobs(build_shard, todo, workers=workers, engine=engine, advance=progress.advance):
                facts[fact["name"]] = fact
                with log.open("a") as file:
                    file.write(json.dumps({"shard": fact["name"], **fact.pop("log")}) + "\n")
            manifest = _manifest(plan, jobs, facts)
            for job in jobs:
                if not facts[job.name]["entry"][
                    "samples"
                ]:  # all of its images were skipped; DALI refuses an empty index
                    (out / f"{job.name}.tar").unlink(missing_ok=True)
                    (out / f"{job.name}.idx").unlink(missing_ok=True)
            write_atomic(out / MANIFEST, dump(manifest))
            shutil.rmtree(out / BUILDING)
            return Built(manifest, total - done, progress.seconds)


def build_shard(job: Job, advance=lambda images: None) -> dict:
    """Writes one shard and then its facts; runs in a worker process."""
    log = sample.Log()
    fact: dict = {"name": job.name, "skipped": [], "boxes_clipped": 0, "reencoded": 0, "fallbacks": {}}
    with ShardWriter(job.folder, job.name) as writer:
        for number, record in enumerate(job.records):
            try:
                components, meta = sample.make(record, job.recipe, log)
            except InputError as fault:
                if job.recipe.on_bad_image == "stop":
                    raise
                fact["skipped"].append({"file": record.file, "why": str(fault)})
            else:
                with log.stage("write"):
                    writer.add(f"{job.first_key + number:0{job.key_digits}d}", components, meta)
                fact["boxes_clipped"] += meta.get("boxes_clipped", False)
                fact["reencoded"] += "source" in meta
                for name, said in meta["detectors"].items():
                    if said["fallback"]:
                        counts = fact["fallbacks"].setdefault(name, {})
                        counts[said["fallback"]] = counts.get(said["fallback"], 0) + 1
            advance(1)
    fact["entry"] = writer.entry
    write_atomic(job.folder / BUILDING / f"{job.name}.json", dump(fact))
    return {**fact, "log": log.summary()}


def _validate(dataset: Dataset, recipe: sample.Recipe, shard_samples: int) -> None:
    if not dataset.records:
        raise InputError(f"The dataset {dataset.name} has no images at all.")
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
    if "gt" in recipe.saliency:
        bare = [record for record in dataset.records if record.boxes == ()]
        if bare:
            raise InputError(
                f"--saliency gt: {len(bare):,} of {len(dataset.records):,} images of {dataset.name} have no "
                f"ground-truth box (the first is {bare[0].file}). Ask for a detector, for example --saliency rbd"
            )


def _plan(dataset: Dataset, recipe: sample.Recipe, shard_samples: int) -> dict:
    """Everything that decides the bytes of the set."""
    said = [[r.id, r.file, r.label, r.class_name, r.split, r.boxes] for r in dataset.records]
    records = hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()
    return {
        "format_version": f"{FORMAT_MAJOR}.{FORMAT_MINOR}",
        "dataset": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "settings": dataset.settings,
            "records_sha256": records,
        },
        "detectors": {name: {} if name == "gt" else detector(name).SETTINGS for name in recipe.saliency},
        "objective": asdict(recipe.objective),
        "images": {"max_side": recipe.max_side, "quality": recipe.quality},
        "shard_samples": shard_samples,
        "order_seed": ORDER_SEED,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    import cv2
    import numba

    return {"fgdata": __version__, "numpy": np.__version__, "opencv": cv2.__version__, "numba": numba.__version__}


def _refuse_unlike(out: Path, plan: dict) -> None:
    """Refuses a folder that holds anything but an unfinished set of this very plan."""
    plan_file = out / BUILDING / "plan.json"
    if plan_file.is_file():
        _refuse_other(out, json.loads(plan_file.read_bytes()), plan, ())
    elif any(entry.name != BUILDING for entry in out.iterdir()):
        raise InputError(f"{out} is not empty and not a shard set. Name another folder: --out FOLDER")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Holds a lock on the folder itself, so that two builds never write the same set at once."""
    try:
        import fcntl
        import os
    except ImportError:  # Windows
        yield
        return
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(
            f"Another fgdata is building {out} at this moment. Wait for it, or name another folder: --out"
        ) from None
    finally:
        os.close(handle)


def _refuse_other(out: Path, there: dict, asked: dict, ignored: tuple[str, ...]) -> None:
    there, asked = ({key: value for key, value in _flat(plan).items()} for plan in (there, asked))
    differs = [
        f"  {key}: {_short(there.get(key))} there, {_short(asked.get(key))} asked"
        for key in asked
        if there.get(key) != json.loads(json.dumps(asked[key])) and not key.startswith(ignored)
    ]
    extra = [key for key in there if key.startswith("detectors.") and key not in asked]
    differs += [f"  {key}: {_short(there[key])} there, nothing asked" for key in extra]
    if differs:
        raise InputError(
            f"{out} holds a shard set made with other settings:\n"
            + "\n".join(differs)
            + "\nBuild into another folder (--out FOLDER), or delete this one first."
        )


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
    return text if len(text) <= 60 else f"{text[:57]}..."


def _jobs(dataset: Dataset, out: Path, recipe: sample.Recipe, shard_samples: int) -> list[Job]:
    jobs, key = [], 0
    digits = max(6, len(str(len(dataset.records))))
    for split in SPLITS:
        records = [record for record in dataset.records if record.split == split]
        if split == "train":
            records = [records[i] for i in np.random.default_rng(ORDER_SEED).permutation(len(records))]
        for number, start in enumerate(range(0, len(records), shard_samples)):
            chunk = tuple(records[start : start + shard_samples])
            jobs.append(Job(out, f"{split}-{number:06d}", key, digits, chunk, recipe))
            key += len(chunk)
    return jobs


def _finished(job: Job) -> dict | None:
    """The facts of a shard that is whole on disk, else None."""
    path = job.folder / BUILDING / f"{job.name}.json"
    if not path.is_file():
        return None
    fact = json.loads(path.read_bytes())
    sizes = {f"{job.name}.tar": fact["entry"]["bytes"], f"{job.name}.idx": fact["entry"]["index_bytes"]}
    whole = all(
        (job.folder / name).is_file() and (job.folder / name).stat().st_size == size for name, size in sizes.items()
    )
    return fact if whole else None


def _refuse_bad_images(jobs: list[Job], threads: int) -> None:
    """Looks at every image's header before hours of work, and names the unreadable ones."""
    records = [(record, job.recipe.load) for job in jobs for record in job.records]
    faults = []
    with Progress("Checking images", len(records)) as progress, ThreadPoolExecutor(threads) as pool:
        for fault in pool.map(lambda pair: sample.fault(*pair), records):
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
    fallbacks: dict[str, dict[str, int]] = {}
    for fact in ordered:
        for name, counts in fact["fallbacks"].items():
            for kind, count in counts.items():
                fallbacks.setdefault(name, {})[kind] = fallbacks.get(name, {}).get(kind, 0) + count
    manifest = {
        **plan,
        "splits": splits,
        "skipped": [skipped for fact in ordered for skipped in fact["skipped"]],
        "boxes_clipped": sum(fact["boxes_clipped"] for fact in ordered),
        "reencoded": sum(fact["reencoded"] for fact in ordered),
        "fallbacks": fallbacks,
    }
    return {**manifest, "digest": digest(json.loads(json.dumps(manifest)))}
