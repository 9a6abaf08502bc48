"""What the files of a run and of a shard set tell about time: images, speed, steps done."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from fgdata.shards.manifest import MANIFEST, read_manifest

from ..evaluate.records import read_records
from ..runs.rundir import MOST_LOG_BYTES, step_of
from ..settings.common import Config
from .sets import DataSet

METRICS = "metrics.jsonl"
END_BYTES = 1 << 16


def median_speed(folder: Path) -> float | None:
    """Images per second of a run, the median of metrics.jsonl; None without. A file is read again once it has grown."""
    path = folder / METRICS
    return _median_speed(folder, path.stat().st_size) if path.is_file() else None


@lru_cache(1 << 12)
def _median_speed(folder: Path, size: int) -> float | None:
    speeds = [line.get("images_per_second") for line in _metrics(folder)]
    speeds = [value for value in speeds if isinstance(value, (int, float)) and value > 0]
    return statistics.median(speeds) if speeds else None


def last_step(folder: Path) -> int:
    """The last step in metrics.jsonl; 0 without. Reads only its end, since it is called often."""
    path = folder / METRICS
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        return max((step for line in file.read(END_BYTES).splitlines() if (step := step_of(line))), default=0)


def images_of(data: DataSet | None) -> tuple[int, int]:
    """Training and test images of a set: its own, or the published numbers while it is not built."""
    if data is None:
        return 0, 0
    if not data.is_built:
        return data.train, data.test
    splits = manifest(data.folder)["splits"]
    train, test = (splits[name]["samples"] if name in splits else 0 for name in ("train", "test"))
    return train, test


def classes_of(data: DataSet | None) -> int:
    """Classes of a set; 2 while it is not built."""
    return len(manifest(data.folder)["dataset"].get("classes", ())) if data is not None and data.is_built else 2


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a shard set, read again only after it was written again. InputError if the set is not there."""
    path = folder / MANIFEST
    return _manifest(folder, path.stat().st_mtime_ns if path.is_file() else 0)


@cache
def _manifest(folder: Path, changed: int) -> dict[str, Any]:
    return read_manifest(folder)


def without_weights(config: Config) -> Config:
    """The same settings for building without a weights file; "": a checkpoint would bring them."""
    changed: dict[str, Any] = {"init": ""} if config.init is not None else {}
    if getattr(config, "decoder", None) is not None:
        changed["decoder"] = None
    return replace(config, init_heads=False, **changed)


def _metrics(folder: Path) -> Iterator[dict[str, Any]]:
    yield from (line.values for line in read_records(folder / METRICS, lenient=True, most=MOST_LOG_BYTES))
