"""Compares the files of a shard set with its manifest, without reading the tars."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from ..errors import describe, is_failing_storage
from ..files.regular import NotRegular
from ..stores.store import Store, each
from .index import Indexes, read_index
from .manifest import list_shards, manifest_faults


def set_faults(store: Store, manifest: dict, indexes: Indexes | None = None) -> Iterator[str]:
    """Yields what is wrong with a set's manifest, tars and indexes, without reading a tar. Adds each sound index to
    `indexes`. InputError for an index that does not list the samples of its shard."""
    yield from manifest_faults(store.place, manifest)
    shards = list_shards(manifest)
    for faults in each(store, partial(shard_faults, store, indexes=indexes), shards):
        yield from faults


def shard_faults(store: Store, shard: dict, indexes: Indexes | None = None) -> list[str]:
    """Lists what is wrong with one shard's files without reading the tar: missing, wrong size, wrong index."""
    index = f"{shard['name']}.idx"
    faults = [size_fault(store, f"{shard['name']}.tar", shard["bytes"]), size_fault(store, index, shard["index_bytes"])]
    if not faults[1]:
        content = read_index(store, shard)
        if hashlib.sha256(content).hexdigest() != shard["index_sha256"]:
            faults.append(f"{store.place / index} is damaged: its sha256 differs from the manifest's")
        elif indexes is not None:
            indexes.add(shard, content)
    return [fault for fault in faults if fault]


def size_fault(store: Store, name: str, size: int) -> str | None:
    """Whether a file of a set is missing, not a regular file, or not of the size that the manifest states."""
    file = store.place / name
    try:
        actual = store.size(name)
    except NotRegular:
        return f"{file} is not a regular file"
    except FileNotFoundError:
        return f"{file} is missing"
    except OSError as fault:
        if is_failing_storage(fault) or isinstance(fault, PermissionError):  # the file may be intact
            raise
        return f"{file} cannot be read: {describe(fault)}"
    return None if actual == size else f"{file} is damaged: it has {actual:,} bytes; the manifest states {size:,}"


def sha256(file: BinaryIO) -> str:
    """sha256 of the rest of an open file, in hexadecimal."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
