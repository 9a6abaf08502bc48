"""Random access to the samples of a shard set. Each sample is checked when it is read.

`ShardSet.open` checks the manifest's digest, each tar's size and each index's sha256; `SplitReader.read` checks the
crc32 of the sample it reads, unless it leaves out the image. Neither reads a whole tar: `fgdata check` does that.
"""

import bisect
import hashlib
import itertools
import os
import shlex
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import InputError, describe, is_failing_storage
from ..files.handles import HANDLES
from ..files.regular import open_regular
from .manifest import is_sealed, manifest_faults, read_manifest
from .sample import MOST_BYTES, Sample, open_sample, parse_index_line

_OWNERS = itertools.count()  # numbers the readers, for their open files


class _Place(NamedTuple):
    """Where a sample is in its tar: offset and size by extension, first byte, and bytes in all."""

    name: str  # of the sample, for messages
    shard: int
    spans: dict[str, tuple[int, int]]
    start: int
    size: int


class SplitReader:
    """The samples of one split by number, 0 to len - 1. Thread-safe; pickles without its open files.

    `ShardSet.split` opens one.

    Example:
        reader = ShardSet.open("shards/cub").split("train")
        sample = reader.read(0)
        jpeg, class_index, rbd = sample["jpg"], label(sample), box(sample, "rbd")
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        shards: list[dict],
        detectors: tuple[str, ...] = (),
        classes: int = 0,
        indexes: dict[str, bytes] | None = None,
    ):
        """Finds the samples in the indexes.

        Args:
            folder: The folder of the shard set.
            split: The split's name.
            shards: The manifest's entries for the shards to read.
            detectors: The boxes that every sample must have.
            classes: Number of classes; a class index must be below it. 0: any.
            indexes: The content of indexes that were read already, by the shard's name; those used are removed.
                The others are read here.

        Raises:
            InputError: An index is not a regular file or does not list as many samples as the manifest.
        """
        self.folder, self.split, self.shards, self.detectors, self.classes = folder, split, shards, detectors, classes
        self._ends = list(accumulate(shard["samples"] for shard in shards))
        known = {} if indexes is None else indexes
        self._indexes = [known.pop(shard["name"], None) or _read_index(folder, shard) for shard in shards]
        starts = [
            _line_starts(index, folder / f"{shard['name']}.idx", shard["samples"])
            for shard, index in zip(shards, self._indexes)
        ]
        self._starts = np.concatenate(starts) if starts else np.empty(0, np.int64)  # of each sample, in its index
        self._owner = next(_OWNERS)
        weakref.finalize(self, HANDLES.close, self._owner).atexit = False  # the system closes them at the end

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, number: int, without: Literal["jpg"] | None = None) -> Sample:
        """Reads one sample.

        Args:
            number: 0 to len - 1.
            without: "jpg" reads the few bytes beside the image: labels and boxes of a whole set in little time. The
                json, class and boxes are checked, but not the crc32, which needs the image too.

        Returns:
            The sample's components by extension: "jpg", "cls", "json", "rbd.npy", ...

        Raises:
            IndexError: There is no such sample.
            InputError: The sample's bytes do not match their crc32, or its index line, json, class or a box is not what
                FORMAT.md states. The message names the file and the sample.
        """
        with self._naming_tar(number):
            return self._read(number, without)

    def fetch(self, number: int) -> bytes:
        """The stored bytes of one sample, from one read; `open` checks them. Raises what `read` raises."""
        with self._naming_tar(number):
            return self._fetch(self._locate(number))

    def open(self, number: int, stored: bytes) -> Sample:
        """Checks the bytes that `fetch` returned for a sample -> what `read` returns. Raises what `read` raises."""
        with self._naming_tar(number):
            return self._open(self._locate(number), stored)

    def find_fault(self, number: int) -> str | None:
        """Reads one sample -> what is wrong with it, or None."""
        try:
            self._read(number)
        except ValueError as fault:
            return str(fault)
        return None

    @contextmanager
    def _naming_tar(self, number: int) -> Iterator[None]:
        """InputError that names the tar of a sample, for a ValueError in the block."""
        try:
            yield
        except ValueError as fault:
            tar = self.folder / f"{self.shards[self._shard(number)]['name']}.tar"
            check = shlex.join(["fgdata", "check", str(self.folder)])
            raise InputError(
                f"{tar} is damaged: {fault}. List all damage: {check}. Then restore the tar, or rebuild the set."
            ) from None

    def _read(self, number: int, without: str | None = None) -> Sample:
        """Raises ValueError for a sample that is not what FORMAT.md states; the text names it within its tar."""
        place = self._locate(number, without)
        return self._open(place, self._fetch(place), without)

    def _locate(self, number: int, without: str | None = None) -> "_Place":
        """Where a sample is, by its line in the index. Raises as `_read`."""
        if not 0 <= number < len(self):
            raise IndexError(f"there is no sample {number} in a split of {len(self)} samples")
        shard = self._shard(number)
        try:
            key, spans = parse_index_line(self._line(number), self.shards[shard]["bytes"])
            if without is not None and spans.pop(without, None) is None:
                raise ValueError(f"it has no {without}")
            start = min(offset for offset, _ in spans.values())
        except ValueError as fault:
            raise ValueError(f"sample {number - self._first(shard)}, counted from 0: {fault}") from None
        size = max(offset + length for offset, length in spans.values()) - start
        return _Place(f"sample {key} (byte {start:,})", shard, spans, start, size)

    def _fetch(self, place: "_Place") -> bytes:
        """Raises as `_read`."""
        if place.size > MOST_BYTES:
            raise ValueError(f"{place.name}: it has {place.size:,} bytes, more than the {MOST_BYTES:,} allowed")
        return self._read_span(place.shard, place.start, place.size)

    def _open(self, place: "_Place", stored: bytes, without: str | None = None) -> Sample:
        """Raises as `_read`."""
        blob = memoryview(stored)
        try:
            if without is None and not is_sealed(blob):
                raise ValueError("its bytes differ from its crc32")
            components = {
                extension: bytes(blob[offset - place.start : offset - place.start + length])
                for extension, (offset, length) in place.spans.items()
            }
            return open_sample(components, self.detectors, self.classes, without)
        except ValueError as fault:
            raise ValueError(f"{place.name}: {fault}") from None

    def _shard(self, number: int) -> int:
        return bisect.bisect_right(self._ends, number)

    def _first(self, shard: int) -> int:
        return self._ends[shard] - self.shards[shard]["samples"]

    def _line(self, number: int) -> str:
        index, start = self._indexes[self._shard(number)], int(self._starts[number])
        return index[start : index.index(b"\n", start)].decode("ascii", "replace")

    def key(self, number: int) -> str:
        """The key of a sample: the name of its files in the tar, up to the first dot."""
        return parse_index_line(self._line(number), self.shards[self._shard(number)]["bytes"])[0]

    def close(self) -> None:
        """Closes the open tars. The next read opens them again."""
        HANDLES.close(self._owner)

    def _read_span(self, shard: int, offset: int, size: int) -> bytes:
        return HANDLES.read(self._owner, self.folder / f"{self.shards[shard]['name']}.tar", size, offset)

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in ("folder", "split", "shards", "detectors", "classes")}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


class ShardSet:
    """A complete shard set. Open one with `ShardSet.open`.

    Attributes:
        path: The folder.
        manifest: The content of manifest.json.
        classes: The name of each class index.
        detectors: The names of the boxes that each sample has.
        splits: The number of samples of each split.
    """

    def __init__(self, path: Path, manifest: dict, indexes: dict[str, bytes] | None = None):
        self.path, self.manifest = path, manifest
        self._indexes = {} if indexes is None else indexes  # content by name, until a reader of the split takes it
        self.classes: tuple[str, ...] = tuple(manifest["dataset"].get("classes", ()))
        self.detectors: tuple[str, ...] = tuple(manifest["detectors"])
        self.splits: dict[str, int] = {name: split["samples"] for name, split in manifest["splits"].items()}
        self._readers: dict[str, SplitReader] = {}

    @staticmethod
    def open(path: str | Path) -> "ShardSet":
        """Opens a shard set for reading.

        Args:
            path: The folder of the set.

        Raises:
            InputError: The set is missing, unfinished or of a newer format; its manifest was changed; or a file of it
                is missing or truncated.

        Example:
            shards = ShardSet.open("shards/cub")
            print(shards.splits, shards.detectors)
            sample = shards.split("train").read(0)
        """
        path = Path(path)
        manifest, indexes = read_manifest(path), {}
        if fault := next(set_faults(path, manifest, indexes), None):
            check = shlex.join(["fgdata", "check", str(path)])
            raise InputError(f"{fault}. List all damage: {check}. Then restore the file, or rebuild the set.")
        return ShardSet(path, manifest, indexes)

    def split(self, name: str) -> SplitReader:
        """Returns the reader of one split. Raises InputError when the set has no such split."""
        if name not in self.splits:
            available = ", ".join(f"{split} ({count:,})" for split, count in self.splits.items()) or "no samples"
            raise InputError(f"{self.path} has no split {name!r}; it has {available}.")
        if name not in self._readers:
            self._readers[name] = self.reader(name, self.manifest["splits"][name]["shards"])
        return self._readers[name]

    def reader(self, split: str, shards: list[dict]) -> SplitReader:
        """A new reader of some shards of a split; `shards` are entries of the manifest."""
        return SplitReader(self.path, split, shards, self.detectors, len(self.classes), self._indexes)


def fetch_sample(reader: Any, number: int) -> Any:
    """`SplitReader.fetch`, or `read` of a reader that has only that."""
    return getattr(reader, "fetch", reader.read)(number)


def open_fetched(reader: Any, number: int, fetched: Any) -> Sample:
    """`SplitReader.open`; what a reader without it returned is the sample already."""
    return reader.open(number, fetched) if hasattr(reader, "open") else fetched


def set_faults(folder: Path, manifest: dict, indexes: dict[str, bytes] | None = None) -> Iterator[str]:
    """Yields what is wrong with a set's manifest, tars and indexes, without reading a tar. Adds the content of each
    sound index to `indexes`, by the shard's name."""
    yield from manifest_faults(folder, manifest)
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            yield from shard_faults(folder, shard, indexes)


def shard_faults(folder: Path, shard: dict, indexes: dict[str, bytes] | None = None) -> list[str]:
    """Lists what is wrong with one shard's files without reading the tar: missing, wrong size, wrong index."""
    tar, index = folder / f"{shard['name']}.tar", folder / f"{shard['name']}.idx"
    faults = [size_fault(tar, shard["bytes"]), size_fault(index, shard["index_bytes"])]
    if not faults[1]:
        content = _read_index(folder, shard)
        if hashlib.sha256(content).hexdigest() != shard["index_sha256"]:
            faults.append(f"{index} is damaged: its sha256 differs from the manifest's")
        elif indexes is not None:
            indexes[shard["name"]] = content
    return [fault for fault in faults if fault]


def size_fault(path: Path, size: int) -> str | None:
    """Whether a file of a set is missing, not a regular file, or not of the size that the manifest states."""
    try:
        with open_regular(path) as file:
            actual = os.fstat(file.fileno()).st_size
    except InputError:
        return f"{path} is not a regular file"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as fault:
        if is_failing_storage(fault) or isinstance(fault, PermissionError):  # the file may be intact
            raise
        return f"{path} cannot be read: {describe(fault)}"
    return None if actual == size else f"{path} is damaged: it has {actual:,} bytes; the manifest states {size:,}"


def label(sample: dict[str, bytes]) -> int:
    """The class index of a sample, 0-based."""
    return int(sample["cls"])


def meta(sample: Sample) -> dict:
    """The content of a sample's json, as FORMAT.md specifies it."""
    return sample.info


def box(sample: dict[str, bytes], detector: str) -> np.ndarray:
    """The box of a detector in a sample: (l, t, w, h), float32 (4,) in [0, 1].

    Args:
        sample: What `SplitReader.read` returns.
        detector: A name in `ShardSet.detectors`.

    Raises:
        InputError: The sample has no such box.
    """
    data = sample.get(f"{detector}.npy")
    if data is None:
        available = ", ".join(name.removesuffix(".npy") for name in sample if name.endswith(".npy")) or "none"
        raise InputError(f"The sample has no box by {detector!r}; it has {available}.")
    return np.frombuffer(data, "<f4", offset=len(data) - 16).copy()  # float32 (4,) are the last 16 bytes of its .npy


def _line_starts(index: bytes, path: Path, samples: int) -> np.ndarray:
    """The content of an index -> the first byte of each of its lines after the first: (samples,) int64."""
    ends = np.flatnonzero(np.frombuffer(index, np.uint8) == ord("\n"))
    first = index[: ends[0]].decode("ascii", "replace") if len(ends) else ""
    if first.split() != ["v1.2", str(samples)] or len(ends) != samples + 1 or not index.endswith(b"\n"):
        raise InputError(
            f"{path} does not list {samples:,} samples as an index of version 1.2. "
            "Restore the file, or rebuild the set."
        )
    return ends[:-1] + 1


def _read_index(folder: Path, shard: dict) -> bytes:
    with open_regular(folder / f"{shard['name']}.idx") as file:
        return file.read(shard["index_bytes"])
