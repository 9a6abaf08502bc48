"""The indexes of a set: one line per sample, which says where its components are in the tar."""

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..stores.place import Url
from ..stores.store import Store

MOST_IN_MEMORY = 32 << 20
"""Bytes of indexes that stay in memory: those of about 200,000 samples."""


def read_index(store: Store, shard: dict) -> bytes:
    """The content of a shard's index."""
    with store.open(f"{shard['name']}.idx") as file:
        return file.read(shard["index_bytes"])


class Indexes:
    """The lines of the indexes of some shards.

    Where the indexes are larger than MOST_IN_MEMORY, a line is read from its file when it is needed: the system's file
    cache then holds them once for all processes. Behind a URL they always stay in memory, since a line would be a
    request.
    """

    def __init__(self, store: Store, shards: Sequence[dict]):
        """Nothing is read; `add` each of the shards."""
        self._store = store
        small = sum(shard["index_bytes"] for shard in shards) <= MOST_IN_MEMORY
        self._keeps = small or isinstance(store.place, Url)
        self._contents: dict[str, bytes] = {}
        self._starts: dict[str, np.ndarray] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._starts

    def add(self, shard: dict, content: bytes) -> None:
        """Takes the content of a shard's index. InputError unless it lists as many samples as the manifest."""
        samples, ends = shard["samples"], np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        first = content[: ends[0]].decode("ascii", "replace") if len(ends) else ""
        if first.split() != ["v1.2", str(samples)] or len(ends) != samples + 1 or not content.endswith(b"\n"):
            raise InputError(
                f"{self._store.place / shard['name']}.idx does not list {samples:,} samples as an index of version "
                "1.2. Restore the file, or rebuild the set."
            )
        if self._keeps:
            self._contents[shard["name"]] = content
        self._starts[shard["name"]] = (ends + 1).astype(np.uint32)  # an index has at most 256 MiB

    def line(self, name: str, number: int) -> str:
        """The line of a sample, counted from 0, of the shard `name`."""
        start, stop = (int(at) for at in self._starts[name][number : number + 2])
        kept = self._contents.get(name)
        line = self._store.read(f"{name}.idx", stop - start, start) if kept is None else kept[start:stop]
        return line[:-1].decode("ascii", "replace")
