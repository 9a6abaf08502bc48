"""What the files of a run and of a shard set tell about time: images, speed, steps done."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..evaluate.records import read_records
from ..place import open_shards
from ..runs.rundir import MOST_LOG_BYTES
from ..settings.common import Config
from .sets import DataSet


def median_speed(folder: Path) -> float | None:
    """Images per second of a run, the median of metrics.jsonl; None without."""
    speeds = [line.get("images_per_second") for line in _metrics(folder)]
    speeds = [value for value in speeds if isinstance(value, (int, float)) and value > 0]
    return statistics.median(speeds) if speeds else None


def last_step(folder: Path) -> int:
    """The last step in metrics.jsonl; 0 without."""
    return max((step for line in _metrics(folder) if isinstance(step := line.get("step"), int)), default=0)


def images_of(data: DataSet | None) -> tuple[int, int]:
    """Training and test images of a set: its own, or the published numbers while it is not built."""
    if data is None:
        return 0, 0
    if (data.folder / "manifest.json").is_file():
        splits = open_shards(data.folder).splits
        return splits.get("train", 0), splits.get("test", 0)
    return data.train, data.test


def without_weights(config: Config) -> Config:
    """The same settings for building without a weights file; "": a checkpoint would bring them."""
    changed: dict[str, Any] = {"init": ""} if config.init is not None else {}
    if getattr(config, "decoder", None) is not None:
        changed["decoder"] = None
    return replace(config, init_heads=False, **changed)


def _metrics(folder: Path) -> Iterator[dict[str, Any]]:
    yield from (line.values for line in read_records(folder / "metrics.jsonl", lenient=True, most=MOST_LOG_BYTES))
