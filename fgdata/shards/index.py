"""Where the components of each sample are in its tar: the indexes of a set, read once and kept as arrays."""

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..stores.place import Url
from ..stores.store import Store
from .sample import parse_index_line

_BLOCK = 512  # a tar header, and the unit to which the data of a component is padded
_MOST = 256  # components of a sample that an array has; an index with more stays text


def read_index(store: Store, shard: dict) -> bytes:
    """The content of a shard's index."""
    with store.open(f"{shard['name']}.idx") as file:
        return file.read(shard["index_bytes"])


class Indexes:
    """Where the samples of some shards are, from the content of their indexes; after `add` no index is read again.

    A sample takes 16 bytes of memory and 8 for each component, so an index of the usual four is 48 bytes a sample.
    """

    def __init__(self, folder: Path | Url):
        """Nothing is read; `add` each of the shards. folder: names the indexes in errors."""
        self._folder = folder
        self._shards: dict[str, _Table | _Text] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def add(self, shard: dict, content: bytes) -> None:
        """Takes the content of a shard's index. InputError unless it lists as many samples as the manifest."""
        samples, ends = shard["samples"], np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        first = content[: ends[0]].decode("ascii", "replace") if len(ends) else ""
        if first.split() != ["v1.2", str(samples)] or len(ends) != samples + 1 or not content.endswith(b"\n"):
            raise InputError(
                f"{self._folder / shard['name']}.idx does not list {samples:,} samples as an index of version "
                "1.2. Restore the file, or rebuild the set."
            )
        text = _Text(content, (ends + 1).astype(np.uint32), shard["bytes"])  # an index has at most 256 MiB
        self._shards[shard["name"]] = as_table(text) or text

    def find(self, name: str, number: int) -> tuple[str, dict[str, tuple[int, int]]]:
        """What `parse_index_line` returns for a sample, counted from 0, of the shard `name`. Raises what it raises."""
        return self._shards[name].find(number)


class _Text(NamedTuple):
    """An index as it is stored."""

    content: bytes
    starts: np.ndarray  # (N + 1,) uint32, of the samples' lines, and the end
    tar_bytes: int

    def find(self, number: int) -> tuple[str, dict[str, tuple[int, int]]]:
        start, stop = (int(at) for at in self.starts[number : number + 2])
        return parse_index_line(self.content[start : stop - 1].decode("ascii", "replace"), self.tar_bytes)


class _Table(NamedTuple):
    """An index whose samples have the same components, each of which starts one tar header after the one before."""

    extensions: Sequence[str]
    digits: int  # of a key
    rows: np.ndarray  # (N, 2 + C) int64: key, offset of the first component, size of each component

    def find(self, number: int) -> tuple[str, dict[str, tuple[int, int]]]:
        key, at, *sizes = self.rows[number].tolist()
        spans = {}
        for extension, size in zip(self.extensions, sizes):
            spans[extension] = at, size
            at = _after(at, size)
        return f"{key:0{self.digits}}", spans


def _after(offset, size):
    """Offset of the component that follows one at `offset`."""
    return offset + -(-size // _BLOCK) * _BLOCK + _BLOCK


def as_table(text: _Text) -> _Table | None:
    """An index as an array, if it is as fgdata writes them. Others stay text: their faults are found line by line."""
    content, starts, tar_bytes = text
    samples = len(starts) - 1
    try:
        key, spans = text.find(0)
    except (IndexError, ValueError):
        return None
    if len(spans) > _MOST or len(key) > 18:
        return None
    keys = [b"([0-9]{%d})" % len(key), *[rb"\3"] * (len(spans) - 1)]  # each component has the first one's key
    names = [re.escape(extension.encode()) for extension in spans]
    line = b" ".join(rb"%b ([0-9]{1,15}) ([0-9]{1,15}) %b\.%b" % (n, k, n) for n, k in zip(names, keys))
    found = re.findall(rb"^%b$" % line, content[starts[0] :], re.MULTILINE)
    if len(found) != samples:
        return None
    fields = np.fromiter(map(int, chain.from_iterable(found)), np.int64).reshape(samples, -1)
    numbers, fields = fields[:, 2], np.delete(fields, 2, 1)
    offsets, sizes = fields[:, ::2], fields[:, 1::2]
    if (_after(offsets, sizes)[:, :-1] != offsets[:, 1:]).any() or (offsets + sizes).max() > tar_bytes:
        return None
    return _Table(tuple(spans), len(key), np.column_stack([numbers, offsets[:, 0], sizes]))
