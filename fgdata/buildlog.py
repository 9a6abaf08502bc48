"""build.jsonl: where the time of a build went. It lies in the folder of a shard set and is no part of it (FORMAT.md).

A line for each shard as it was finished: `shard`, its name, and what `sample.Log` says of it.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from .lines import add_line
from .shards.reader import ShardSet

LOG = "build.jsonl"


def append(folder: Path, line: dict[str, Any]) -> None:
    add_line(folder / LOG, json.dumps(line))


def read(shards: ShardSet) -> list[dict[str, Any]]:
    """The last line of each shard that the manifest names, with its `samples`; none of a shard whose line is lost."""
    path, found = shards.path / LOG, {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError, TypeError, KeyError):  # cut short, or garbage
            said = json.loads(line)
            found[said["shard"]] = said
    named = (shard for split in shards.manifest["splits"].values() for shard in split["shards"])
    return [found[shard["name"]] | {"samples": shard["samples"]} for shard in named if shard["name"] in found]
