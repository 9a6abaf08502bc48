"""build.jsonl: where the time of a build went. It lies in the folder of a shard set and is no part of it (FORMAT.md).

A line for each shard as it was finished: `shard`, its name, and what `sample.Log` says of it.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.atomic import append_line
from ..files.json import parse_json
from ..shards.reader import ShardSet
from ..shards.schema import NUMBER, TEXT, Each, Is, find_fault

LOG = "build.jsonl"
_SIZES = Is("two whole numbers", lambda value: isinstance(value, list) and [type(one) for one in value] == [int, int])
_LINE = {
    "shard": TEXT,
    "seconds": Each("[a-z0-9-]+", NUMBER),
    "slowest": [{"id": TEXT, "seconds": NUMBER}],
    "image_bytes?": _SIZES,
}


@dataclass
class Log:
    """Seconds per stage and the slowest samples of a shard. Never part of a shard set: times differ, bytes must not."""

    seconds: dict[str, float] = field(default_factory=dict)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    image_bytes: list[int] = field(default_factory=lambda: [0, 0])  # as read, as stored

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def finish(self, record_id: str, seconds: float) -> None:
        self.slowest = sorted([*self.slowest, (seconds, record_id)], reverse=True)[:3]

    def summary(self) -> dict:
        slowest = [{"id": name, "seconds": round(seconds, 4)} for seconds, name in self.slowest]
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return {"seconds": seconds, "slowest": slowest, "image_bytes": self.image_bytes}


def append_log(folder: Path, line: dict[str, Any]) -> None:
    append_line(folder / LOG, json.dumps(line))


def read_log(shards: ShardSet) -> list[dict[str, Any]]:
    """The last line of each shard that the manifest names, with its `samples`; none of a shard whose line is lost."""
    path, found = shards.path / LOG, {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError):  # cut short, or garbage
            said = parse_json(line)
            if not find_fault(said, _LINE):
                found[said["shard"]] = said
    named = (shard for split in shards.manifest["splits"].values() for shard in split["shards"])
    return [found[shard["name"]] | {"samples": shard["samples"]} for shard in named if shard["name"] in found]
