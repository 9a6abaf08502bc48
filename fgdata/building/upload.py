"""Copies a complete set to remote storage: tar, index and mark of each shard, then maps and log, the manifest last.

Until the manifest is there, the folder behind the URL is an unfinished set for every reader. `.building/upload.json`
names the set that is being copied; `.building/SHARD.json` marks a shard whose files are there, so that a copy that was
stopped resumes after them. Both are removed at the end.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import InputError
from ..files.json import parse_json
from ..files.lock import lock
from ..shards.faults import set_faults
from ..shards.manifest import BUILDING, MANIFEST, list_shards, read_manifest, refuse_changed
from ..shards.maps import MAPS
from ..stores.place import Url
from ..stores.remote import LISTED, Remote
from ..stores.store import Folder
from .log import LOG

_UPLOAD = "upload.json"
_AT_ONCE = 8  # shards


@dataclass(frozen=True)
class Uploaded:
    """What `upload` did."""

    bytes: int
    seconds: float


def check_target(url: Url) -> None:
    """InputError if this URL cannot be written or listed. A build calls it before it starts."""
    if url.scheme not in LISTED:
        raise InputError(f"{url}: sets are written to s3:// and gs:// only. Name such a URL, or a folder.")
    if Remote(url).names() is None:
        raise InputError(f"{url} cannot be listed with these credentials. Writing a set needs permission to list.")


def upload(folder: Path, url: Url, advance: Callable[[int], None] = lambda samples: None) -> Uploaded:
    """Copies a complete set to a URL, or resumes a copy that was stopped.

    Args:
        folder: The set.
        url: Where to; s3:// or gs://.
        advance: Called with the number of samples of each shard that is there.

    Raises:
        InputError: The set is damaged, another set or other files are there, or the storage refuses.
    """
    start = time.monotonic()
    check_target(url)
    with lock(folder, shared=True):  # commands that replace the set are refused until then
        written = _upload(folder, url, advance)
    return Uploaded(written, time.monotonic() - start)


def _upload(folder: Path, url: Url, advance: Callable[[int], None]) -> int:
    """`upload` under the lock of the set -> the bytes that it copied."""
    manifest, source, target = read_manifest(folder), Folder(folder), Remote(url)
    if fault := next(set_faults(source, manifest), None):
        raise InputError(f"{fault}. Restore the file, or rebuild the set; then rerun the command.")
    content = (folder / MANIFEST).read_bytes()
    names, marks = target.names() or [], Remote(url / BUILDING)
    if MANIFEST in names:
        if read_manifest(url, target)["digest"] != manifest["digest"]:
            raise InputError(f"{url} has another set. Remove it, or name another URL: --out URL")
        _remove_marks(url)
        return 0
    _claim(marks, names, url, manifest["digest"])
    there = {*(marks.names() or ())}
    shards = list_shards(manifest)
    pool, written = ThreadPoolExecutor(_AT_ONCE), 0
    try:
        for shard, size in zip(shards, pool.map(partial(_copy_shard, folder, target, marks, there), shards)):
            written += size
            advance(shard["samples"])
    finally:
        pool.shutdown(cancel_futures=True)
    for name in [MAPS] * ("maps" in manifest) + [LOG] * (folder / LOG).is_file():
        written += target.put(name, folder / name)
    refuse_changed(folder, manifest)  # before its files there become a set
    written += target.put(MANIFEST, content)
    _remove_marks(url)
    return written


def _claim(marks: Remote, names: list[str], url: Url, digest: str) -> None:
    """Writes which set is being copied. InputError if it is another one, or if other files are there."""
    begun = None
    if BUILDING in names:
        with suppress(FileNotFoundError, ValueError), marks.open(_UPLOAD) as file:
            begun = parse_json(file.read(1000))
    if names and (not isinstance(begun, dict) or begun.get("digest") != digest):
        what = "an unfinished copy of another set" if begun else "other files"
        raise InputError(f"{url} has {what}. Remove them, or name another URL: --out URL")
    marks.put(_UPLOAD, json.dumps({"digest": digest}).encode())


def _copy_shard(folder: Path, target: Remote, marks: Remote, there: set[str], shard: dict) -> int:
    """Copies the tar and the index of a shard, then its mark -> bytes."""
    if (mark := f"{shard['name']}.json") in there:
        return 0
    size = sum(target.put(name, folder / name) for name in (f"{shard['name']}.tar", f"{shard['name']}.idx"))
    marks.put(mark, json.dumps(shard).encode())
    return size


def _remove_marks(url: Url) -> None:
    marks = Remote(url / BUILDING)
    if names := marks.names():
        marks.delete([name for name in names if name != _UPLOAD])
        marks.delete([_UPLOAD])  # last: it says whose marks these are
