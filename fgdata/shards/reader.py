"""Random access to the samples of a shard set. Each sample is checked when it is read.

`ShardSet.open` checks the manifest's digest, each tar's size and each index's sha256; `SplitReader.read` checks the
crc32 of the sample it reads, unless it leaves out the image. Neither reads a whole tar: `fgdata check` does that.
"""

import bisect
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import InputError
from ..stores.copies import keep_copies
from ..stores.place import Url, place
from ..stores.store import Store, each, open_store
from .faults import set_faults
from .index import Indexes, read_index
from .manifest import is_sealed, list_shards, read_manifest
from .sample import MOST_BYTES, Sample, open_sample


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
        folder: Path | Url,
        split: str,
        shards: list[dict],
        detectors: tuple[str, ...] = (),
        classes: int = 0,
        indexes: Indexes | None = None,
        store: Store | None = None,
    ):
        """Finds the samples in the indexes.

        Args:
            folder: The folder of the shard set, or its URL.
            split: The split's name.
            shards: The manifest's entries for the shards to read.
            detectors: The boxes that every sample must have.
            classes: Number of classes; a class index must be below it. 0: any.
            indexes: Those that were read already; the others are added here.
            store: The files of the folder, if they are open.

        Raises:
            InputError: An index is not a regular file or does not list as many samples as the manifest.
        """
        self.folder, self.split, self.shards, self.detectors, self.classes = folder, split, shards, detectors, classes
        self.store = store or open_store(folder)
        self._ends = list(accumulate(shard["samples"] for shard in shards))
        self._indexes = indexes or Indexes(folder)
        missing = [shard for shard in shards if shard["name"] not in self._indexes]
        for shard, content in zip(missing, each(self.store, partial(read_index, self.store), missing)):
            self._indexes.add(shard, content)

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
        """Where a sample is. Raises as `_read`."""
        if not 0 <= number < len(self):
            raise IndexError(f"there is no sample {number} in a split of {len(self)} samples")
        shard = self._shard(number)
        try:
            key, spans = self._find(number)
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
        return self.store.read(f"{self.shards[place.shard]['name']}.tar", place.size, place.start)

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

    def _find(self, number: int) -> tuple[str, dict[str, tuple[int, int]]]:
        shard = self._shard(number)
        return self._indexes.find(self.shards[shard]["name"], number - self._first(shard))

    def key(self, number: int) -> str:
        """The key of a sample: the name of its files in the tar, up to the first dot."""
        return self._find(number)[0]

    def close(self) -> None:
        """Closes the open tars. The next read opens them again."""
        self.store.close()

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in ("folder", "split", "shards", "detectors", "classes", "store")}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


class ShardSet:
    """A complete shard set. Open one with `ShardSet.open`.

    Attributes:
        path: The folder, or its URL.
        manifest: The content of manifest.json.
        classes: The name of each class index.
        detectors: The names of the boxes that each sample has.
        splits: The number of samples of each split.
    """

    def __init__(self, path: Path | Url, manifest: dict, indexes: Indexes | None = None, store: Store | None = None):
        self.path, self.manifest, self.store = path, manifest, store or open_store(path)
        self._indexes = indexes
        self.classes: tuple[str, ...] = tuple(manifest["dataset"].get("classes", ()))
        self.detectors: tuple[str, ...] = tuple(manifest["detectors"])
        self.splits: dict[str, int] = {name: split["samples"] for name, split in manifest["splits"].items()}
        self._readers: dict[str, SplitReader] = {}

    @staticmethod
    def open(path: str | Path, cache_dir: str | Path | None = None, cache_gb: float = 50.0) -> "ShardSet":
        """Opens a shard set for reading.

        Args:
            path: The folder of the set, or its URL: s3://, gs://, hf://datasets/, https:// (docs/remote.md).
            cache_dir: For a URL: a folder that keeps copies of its tars, so that each is transferred once. Several
                processes and sets may share it. Default: none.
            cache_gb: Most gigabytes of copies in that folder; tars for which there is no room are read from the URL.

        Raises:
            InputError: The set is missing, unfinished or of a newer format; its manifest was changed; or a file of it
                is missing or truncated.

        Example:
            shards = ShardSet.open("shards/cub")
            print(shards.splits, shards.detectors)
            sample = shards.split("train").read(0)
        """
        where = place(path)
        store = open_store(where)
        manifest = read_manifest(where, store)
        shards = list_shards(manifest)
        indexes = Indexes(where)
        if fault := next(set_faults(store, manifest, indexes), None):
            check = shlex.join(["fgdata", "check", str(where)])
            raise InputError(f"{fault}. List all damage: {check}. Then restore the file, or rebuild the set.")
        if cache_dir is not None:
            store = keep_copies(store, shards, Path(cache_dir), int(cache_gb * 1e9))
        return ShardSet(where, manifest, indexes, store)

    def split(self, name: str) -> SplitReader:
        """Returns the reader of one split. Raises InputError when the set has no such split."""
        if name not in self.splits:
            available = ", ".join(f"{split} ({count:,})" for split, count in self.splits.items()) or "no samples"
            raise InputError(f"{self.path} has no split {name!r}; it has {available}.")
        if name not in self._readers:
            self._readers[name] = self.reader(name, self.manifest["splits"][name]["shards"])
        return self._readers[name]

    def map_row(self, split: str, number: int) -> int:
        """The row of a sample in maps.h5, which has the splits one after another."""
        names = list(self.splits)
        return sum(self.splits[name] for name in names[: names.index(split)]) + number

    def reader(self, split: str, shards: list[dict], store: Store | None = None) -> SplitReader:
        """A new reader of some shards of a split; `shards` are entries of the manifest. store: other than the set's."""
        store = store or self.store
        return SplitReader(self.path, split, shards, self.detectors, len(self.classes), self._indexes, store)


def fetch_sample(reader: Any, number: int) -> Any:
    """`SplitReader.fetch`, or `read` of a reader that has only that."""
    return getattr(reader, "fetch", reader.read)(number)


def read_all(reader: Any, without: Literal["jpg"] | None = None) -> Iterator[Sample]:
    """Every sample of a reader, in order; behind a URL, with several reads at a time."""
    read = partial(reader.read, without=without)
    return each(reader.store, read, range(len(reader))) if hasattr(reader, "store") else map(read, range(len(reader)))


def open_fetched(reader: Any, number: int, fetched: Any) -> Sample:
    """`SplitReader.open`; what a reader without it returned is the sample already."""
    return reader.open(number, fetched) if hasattr(reader, "open") else fetched


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
