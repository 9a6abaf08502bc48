"""Chooses the images of one shard set that are nearest to another one, and writes them as a shard set of their own."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..cores import free_memory
from ..errors import InputError, counted
from ..files.atomic import write_atomic
from ..files.swap import replacing
from ..progress import Progress
from ..shards.manifest import (
    MANIFEST,
    RowsDigest,
    count_fallbacks,
    dump,
    identify_images,
    newest_version,
    refuse_changed,
    signed,
)
from ..shards.maps import MAPS, pick, set_fault
from ..shards.reader import ShardSet, SplitReader, meta
from ..shards.writer import ShardWriter
from ..stores.place import need_local
from . import Encoder
from .simcore import CENTRES, choose, count_bytes, find_centres, similarities, unit

MOST_CENTRES = 100_000


@dataclass(frozen=True)
class Chosen:
    """The result: the manifest of the new set, the similarity of every round, and the seconds this took."""

    manifest: dict
    rounds: list[float]
    seconds: float


def coreset(
    pool: ShardSet,
    target: ShardSet,
    encoder: Encoder,
    budget: float,
    out: Path,
    *,
    split: str = "train",
    centres: int = CENTRES,
    stop: float = 0,
    seed: int = 0,
) -> Chosen:
    """Writes the part of a pool that SimCore chooses for a target set (simcore.py).

    pool, target: sets; only the split `split` of each is read. encoder: from `open_encoder`. budget: a number of
    images, or below 1 a share of the pool. out: the folder of the new set. centres: of the target, at most the number
    of its images. stop: see `simcore.choose`. seed: of the first centres.
    Every component of a chosen sample, its key and its class index stay as they are, and so does its map in maps.h5.
    The new set appears complete or not at all; the pool is locked until then.
    Raises InputError, before any image is embedded, if a set has no images in the split, if both have the same images,
    if a value is out of range, or if `out` is not empty.
    """
    start = time.monotonic()
    need_numbers(centres, stop, seed)
    for role, shards in (("pool", pool), ("target", target)):
        if not shards.splits.get(split):
            has = ", ".join(f"{name} ({count:,})" for name, count in shards.splits.items() if count) or "no images"
            raise InputError(f"The {role} {shards.path} has no images in the split {split}; it has {has}. See --split.")
    if identify_images(pool.manifest) == identify_images(target.manifest):
        raise InputError(
            f"The pool {pool.path} has the same images as the target {target.path}, so every image would be its own "
            "nearest. Name a pool of other images."
        )
    folder = need_local(pool.path, "Choosing from a set")
    number = count_images(budget, pool.splits[split], folder)
    need_memory(target.splits[split], pool.splits[split], centres, number)
    with replacing(folder, out) as new:
        refuse_changed(folder, pool.manifest)  # it was read before the folder was locked
        if "maps" in pool.manifest and (damage := set_fault(pool)):
            raise InputError(f"{damage}. Restore it, or rebuild the set with --keep-maps.")
        with Progress("Reading the target", target.splits[split]) as progress:
            features = np.concatenate([_counted(batch, target, progress) for batch in encoder.embed(target, split)])
        middle = find_centres(unit(features), centres, seed)
        with Progress("Reading the pool", pool.splits[split]) as progress:
            batches = (_counted(batch, pool, progress) for batch in encoder.embed(pool, split))
            cosines = similarities(batches, middle, pool.splits[split])
        numbers, rounds = choose(cosines, number, stop)
        how: dict[str, Any] = {"method": "simcore", "encoder": encoder.SETTINGS, "budget": budget}
        how |= {"centres": len(middle), "stop": stop, "seed": seed, "rounds": len(rounds)}
        how["similarity"] = [round(rounds[0], 4), round(rounds[-1], 4)]
        for role, shards in (("pool", pool), ("target", target)):
            how[role] = {"dataset": shards.manifest["dataset"]["name"], "digest": shards.manifest["digest"]}
            how[role] |= {"split": split, "samples": shards.splits[split]}
        manifest = write(pool, split, numbers, how, new)
    return Chosen(manifest, rounds, time.monotonic() - start)


def need_numbers(centres: int, stop: float, seed: int) -> None:
    """Refuses a number out of its range."""
    if not 1 <= centres <= MOST_CENTRES:
        raise InputError(f"--centres is {centres}; allowed: 1 to {MOST_CENTRES:,}.")
    if not 0 <= stop <= 1:
        raise InputError(f"--stop is {stop:g}; allowed: 0 to spend the whole budget, or a share up to 1.")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"--seed is {seed}; allowed: 0 to 2^63 - 1.")


def need_memory(target: int, pool: int, centres: int, budget: int) -> None:
    """Refuses a choice that does not fit into memory. Numbers of images, of centres, and of images to choose."""
    if (size := count_bytes(target, pool, centres, budget)) > (free := free_memory()):
        raise InputError(
            f"--centres {centres:,} with {counted(pool, 'image')} of the pool and {target:,} of the target needs "
            f"{size / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free. Choose fewer centres (--centres "
            f"{CENTRES}), or a smaller part of the sets."
        )


def count_images(budget: float, count: int, pool: Path) -> int:
    """A number of images, or below 1 a share of `count` -> the number of images to choose."""
    number = budget if budget >= 1 else math.floor(budget * count) if budget > 0 else 0
    if not 1 <= number <= count or number != int(number):
        raise InputError(
            f"--budget is {budget:g}; allowed: 1 to {count:,}, the number of images of the pool {pool}, or a share "
            f"of them from {1 / count:.3g} to below 1."
        )
    return int(number)


def _counted(batch: np.ndarray, shards: ShardSet, progress: Progress) -> np.ndarray:
    if not np.isfinite(batch).all():
        raise InputError(
            f"The encoder's features of {shards.path} are not finite: its training diverged. Name another encoder."
        )
    progress.advance(len(batch))
    return batch


def write(pool: ShardSet, split: str, numbers: np.ndarray, how: dict[str, Any], folder: Path) -> dict:
    """Writes the samples `numbers` of a split to a folder -> their manifest. how: what it records of the choice."""
    reader, old = pool.split(split), pool.manifest
    ordered = _move_boxes_forward(reader, numbers.tolist())
    size, counts, entries, records = _shard_samples(old), _Counts(), [], RowsDigest()
    for first in range(0, len(ordered), size):
        with ShardWriter(folder, f"{split}-{first // size:06d}") as writer:
            for number in ordered[first : first + size]:
                sample = reader.read(number)
                fields = dict(meta(sample))
                del fields["crc32"], sample["json"]
                for result in fields["detectors"].values():  # null before format 1.2
                    result["fallback"] = result["fallback"] or ""
                writer.add(reader.key(number), sample, fields)
                counts.add(fields)
                records.add([[fields[name] for name in ("id", "file", "class", "split", "boxes")]])
        entries.append(writer.entry)
    reader.close()
    dataset = {**old["dataset"], "settings": {**old["dataset"].get("settings", {}), "coreset": how}}
    dataset["records_sha256"] = records.hexdigest()
    manifest = {**old, **asdict(counts), "format_version": newest_version(old), "dataset": dataset, "skipped": []}
    manifest["splits"] = {split: {"samples": len(ordered), "shards": entries}}
    if "maps" in old:
        detectors = [name for name in pool.detectors if name != "gt"]
        maps = need_local(pool.path, "Reading maps.h5") / MAPS
        rows = [pool.map_row(split, number) for number in ordered]
        manifest["maps"] = pick(maps, detectors, rows, folder / MAPS)
    manifest = signed(manifest)
    write_atomic(folder / MANIFEST, dump(manifest))
    return manifest


@dataclass
class _Counts:
    """The counts of a manifest over its samples."""

    boxes_clipped: int = 0
    reencoded: int = 0
    fallbacks: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, fields: dict[str, Any]) -> None:
        self.boxes_clipped += bool(fields.get("boxes_clipped", False))
        self.reencoded += "source" in fields
        count_fallbacks(self.fallbacks, fields)


def _move_boxes_forward(reader: SplitReader, numbers: list[int]) -> list[int]:
    """Moves the first sample with ground truth to the front unless one is among the first five (FORMAT.md)."""
    first = next((i for i, number in enumerate(numbers) if meta(reader.read(number, without="jpg"))["boxes"]), 0)
    return [numbers[first], *numbers[:first], *numbers[first + 1 :]] if first >= 5 else numbers


def _shard_samples(manifest: dict) -> int:
    value = manifest.get("shard_samples")
    return value if type(value) is int and value > 0 else 256
