"""Compares the files of a shard set with its manifest, without reading the tars; reads the indexes."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np

from ..errors import InputError, describe, is_failing_storage
from ..files.regular import NotRegular
from ..stores.store import Store, each
from .manifest import manifest_faults


def set_faults(store: Store, manifest: dict, indexes: dict[str, bytes] | None = None) -> Iterator[str]:
    """Yields what is wrong with a set's manifest, tars and indexes, without reading a tar. Adds the content of each
    sound index to `indexes`, by the shard's name."""
    yield from manifest_faults(store.place, manifest)
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    for faults in each(store, partial(shard_faults, store, indexes=indexes), shards):
        yield from faults


def shard_faults(store: Store, shard: dict, indexes: dict[str, bytes] | None = None) -> list[str]:
    """Lists what is wrong with one shard's files without reading the tar: missing, wrong size, wrong index."""
    index = f"{shard['name']}.idx"
    faults = [size_fault(store, f"{shard['name']}.tar", shard["bytes"]), size_fault(store, index, shard["index_bytes"])]
    if not faults[1]:
        content = read_index(store, shard)
        if hashlib.sha256(content).hexdigest() != shard["index_sha256"]:
            faults.append(f"{store.place / index} is damaged: its sha256 differs from the manifest's")
        elif indexes is not None:
            indexes[shard["name"]] = content
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
    """Of what is left of an open file, in hexadecimal."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def read_index(store: Store, shard: dict) -> bytes:
    """The content of a shard's index."""
    with store.open(f"{shard['name']}.idx") as file:
        return file.read(shard["index_bytes"])


def line_starts(index: bytes, store: Store, shard: dict) -> np.ndarray:
    """The content of a shard's index -> the first byte of each of its lines after the first: (samples,) int64.

    InputError unless it lists as many samples as the manifest.
    """
    samples, ends = shard["samples"], np.flatnonzero(np.frombuffer(index, np.uint8) == ord("\n"))
    first = index[: ends[0]].decode("ascii", "replace") if len(ends) else ""
    if first.split() != ["v1.2", str(samples)] or len(ends) != samples + 1 or not index.endswith(b"\n"):
        raise InputError(
            f"{store.place / shard['name']}.idx does not list {samples:,} samples as an index of version 1.2. "
            "Restore the file, or rebuild the set."
        )
    return ends[:-1] + 1
