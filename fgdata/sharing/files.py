"""The files of a shard set, as its manifest lists them and as the Hugging Face hub lists them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.regular import open_regular
from ..shards.manifest import list_shards
from ..shards.maps import MAPS


@dataclass(frozen=True)
class SetFile:
    """A file that a manifest lists."""

    name: str
    size: int
    sha256: str


def list_files(manifest: dict) -> list[SetFile]:
    """The tars, indexes and maps of a set, in its order; not the manifest."""
    files = []
    for shard in list_shards(manifest):
        files.append(SetFile(f"{shard['name']}.idx", shard["index_bytes"], shard["index_sha256"]))
        files.append(SetFile(f"{shard['name']}.tar", shard["bytes"], shard["sha256"]))
    if maps := manifest.get("maps"):
        files.append(SetFile(MAPS, maps["bytes"], maps["sha256"]))
    return files


def list_remote(api: Any, repository: str, revision: str | None = None) -> dict[str, Any]:
    """The files of a dataset on the hub by name, with `size`, `blob_id` (git) and, of large files, `lfs.sha256`."""
    entries = api.list_repo_tree(repository, repo_type="dataset", revision=revision)
    return {entry.path: entry for entry in entries if hasattr(entry, "size")}


def is_same(entry: Any, path: Path, sha256: str) -> bool:
    """Whether a file on the hub has the contents of a local one: by its sha256, or for a small one by git's hash."""
    if entry.size != path.stat().st_size:
        return False
    if entry.lfs:
        return entry.lfs.sha256 == sha256
    with open_regular(path) as file:
        blob = b"blob %d\0" % entry.size + file.read()
    return entry.blob_id == hashlib.sha1(blob, usedforsecurity=False).hexdigest()
