"""build.jsonl: the times of a build. It is in the folder of a shard set but is not part of the set (FORMAT.md).

One line per finished shard: `shard`, its name, and the values of `Log.summary`. `fgdata add` appends lines with
`added`, the name of its detector; they hold the seconds of that detector only.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.atomic import append_line
from ..files.json import MOST_BYTES, parse_json
from ..files.regular import NotRegular
from ..shards.manifest import list_shards
from ..shards.reader import ShardSet
from ..shards.schema import NUMBER, TEXT, Each, Is, find_fault

LOG = "build.jsonl"
_SIZES = Is("two whole numbers", lambda value: isinstance(value, list) and [type(one) for one in value] == [int, int])
_LINE = {
    "shard": TEXT,
    "added?": TEXT,
    "seconds": Each("[a-z0-9-]+", NUMBER),
    "slowest": [{"id": TEXT, "seconds": NUMBER}],
    "image_bytes?": _SIZES,
}


@dataclass
class Log:
    """Seconds per stage and the slowest samples of a shard. Not stored in the set: times differ between builds."""

    seconds: dict[str, float] = field(default_factory=dict)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    image_bytes: list[int] = field(default_factory=lambda: [0, 0])  # as read, as stored

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the duration of the block to the seconds of stage `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def finish(self, record_id: str, seconds: float) -> None:
        """Records the seconds of one sample; the three slowest are kept."""
        self.slowest = sorted([*self.slowest, (seconds, record_id)], reverse=True)[:3]

    def summary(self) -> dict:
        """-> the values of a line of build.jsonl."""
        slowest = [{"id": name, "seconds": round(seconds, 4)} for seconds, name in self.slowest]
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return {"seconds": seconds, "slowest": slowest, "image_bytes": self.image_bytes}


def append_log(path: Path, line: dict[str, Any]) -> None:
    """Appends a line to a log: the build.jsonl of a set, or that of a part."""
    append_line(path, json.dumps(line))


def read_log(shards: ShardSet) -> list[dict[str, Any]]:
    """-> the last line of each shard in the manifest, with its `samples` and the seconds of detectors added since.

    Shards without a valid line are omitted.
    """
    data, lines = b"", {}
    with suppress(FileNotFoundError, NotRegular), shards.store.open(LOG) as file:
        data = file.read(MOST_BYTES)
    for line in data.splitlines():
        with suppress(ValueError):  # incomplete or damaged
            values = parse_json(line)
            if not find_fault(values, _LINE):
                name = values["shard"]
                if "added" in values and name in lines:
                    lines[name]["seconds"] |= values["seconds"]
                else:
                    lines[name] = values
    listed = list_shards(shards.manifest)
    return [lines[shard["name"]] | {"samples": shard["samples"]} for shard in listed if shard["name"] in lines]
