"""Compares every byte of a shard set with its manifest."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from ..cores import available_cores
from ..errors import InputError
from ..stores.place import Url
from ..stores.store import Store, open_store
from . import maps
from .faults import shard_faults
from .manifest import MANIFEST, manifest_faults, read_manifest
from .reader import ShardSet

_SHOWN = 5  # damaged samples of a shard that a fault names
_PIECE = 1 << 20  # bytes


def check(folder: Path | Url, advance: Callable[[int], None] = lambda samples: None) -> tuple[dict, list[str]]:
    """Checks a complete shard set.

    Args:
        folder: The folder of the shard set, or its URL.
        advance: Called after each shard with its number of samples.

    Returns:
        The manifest and the faults, one sentence each that names the file. An intact set has none.

    Raises:
        InputError: The manifest cannot be read.

    Example:
        manifest, faults = check(Path("shards/cub"))
        if faults:
            print(*faults, sep="\\n")
    """
    store = open_store(folder)
    manifest = read_manifest(folder, store)
    shards = ShardSet(folder, manifest, store=store)
    faults = list(manifest_faults(folder, manifest))
    listed = [(name, shard) for name, split in manifest["splits"].items() for shard in split["shards"]]
    expected = {MANIFEST} | {f"{shard['name']}.{end}" for _, shard in listed for end in ("tar", "idx")}
    pool = ThreadPoolExecutor(available_cores())  # hashing and reading release the GIL
    try:
        for (_, shard), found in zip(listed, pool.map(lambda one: _shard_faults(shards, *one), listed)):
            faults += found
            advance(shard["samples"])
    finally:
        pool.shutdown(cancel_futures=True)
    if "maps" in manifest:
        expected.add(maps.MAPS)
        fault = maps.fault(store, manifest["maps"], shards.detectors, sum(shards.splits.values()))
        faults += [fault] if fault else []
    faults += [
        f"{folder / name} does not belong to the set: the manifest does not list it"
        for name in store.names() or ()
        if name not in expected and _claims_to_belong(name)
    ]
    return manifest, faults


def _claims_to_belong(name: str) -> bool:
    """Whether a file looks like a part of the set. macOS's ._* files and the index files of energon do not."""
    return (
        not name.startswith(".") and not name.endswith(".tar.idx") and name.endswith((".tar", ".idx", ".part", ".h5"))
    )


def _shard_faults(shards: ShardSet, split: str, shard: dict) -> list[str]:
    """What is wrong with one shard. If its files are there, reads the tar and every sample in it: at most one fault."""
    if faults := shard_faults(shards.store, shard):
        return faults
    name = f"{shard['name']}.tar"
    tar = shards.path / name
    with closing(_ReadOnce(shards.store, name)) as once:
        try:
            reader = shards.reader(split, [shard], once)
        except InputError as fault:
            return [str(fault)]
        damaged = [fault for number in range(len(reader)) if (fault := reader.find_fault(number))]
        same = once.finish() == shard["sha256"]
    more = f" and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
    where = "; ".join(damaged[:_SHOWN]) + more
    if not same:
        where = where or "outside the samples: a tar header, padding or the end of the tar"
        return [f"{tar} is damaged: its sha256 differs from the manifest's ({where})"]
    return [f"{tar} does not follow FORMAT.md: {where}"] if damaged else []


class _ReadOnce:
    """A store that takes every byte of a tar once, in order, and computes the tar's sha256 from them."""

    parallel = 1

    def __init__(self, store: Store, name: str):
        self._store, self._name, self._hash, self._position = store, name, hashlib.sha256(), 0
        self._file = store.open(name)
        self.place, self.size, self.open, self.names = store.place, store.size, store.open, store.names

    def read(self, name: str, size: int, offset: int) -> bytes:
        """`Store.read`. Samples stand in their tar in order; what stands elsewhere is read by itself."""
        if name != self._name or offset < self._position:
            return self._store.read(name, size, offset)
        while self._position < offset and self._take(min(_PIECE, offset - self._position)):
            pass
        return self._take(size)

    def finish(self) -> str:
        """Reads what is left -> the sha256 of the tar, in hexadecimal."""
        while self._take(_PIECE):
            pass
        return self._hash.hexdigest()

    def _take(self, size: int) -> bytes:
        content = self._file.read(size)
        self._hash.update(content)
        self._position += len(content)
        return content

    def close(self) -> None:
        self._file.close()
