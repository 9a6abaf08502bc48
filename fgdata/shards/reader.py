"""Random access to the samples of a shard set. Each sample is checked when it is read.

`ShardSet.open` checks the manifest's digest, each tar's size and each index's sha256; `SplitReader.read` checks the
crc32 of the sample it reads. Neither reads a whole tar: `fgdata check` does that.
"""

import bisect
import hashlib
import json
import os
import shlex
import threading
import weakref
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np

from ..errors import InputError
from .manifest import MANIFEST, digest, is_sealed, read_manifest

_KEPT = 64  # tars that a reader keeps open: ImageNet has 5,000, and a process may open 256 files (macOS) or 1,024


class SplitReader:
    """The samples of one split by number, 0 to len - 1. Thread-safe; pickles without its open files.

    Example:
        reader = ShardSet.open("shards/cub").split("train")
        sample = reader.read(0)
        jpeg, class_index, rbd = sample["jpg"], label(sample), box(sample, "rbd")
    """

    def __init__(self, folder: Path, split: str, shards: list[dict]):
        self.folder, self.split, self.shards = folder, split, shards
        self._ends = list(accumulate(shard["samples"] for shard in shards))
        self._lines = [_index_lines(folder, shard) for shard in shards]
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._files).atexit = False  # the system closes them when the process ends

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, number: int) -> dict[str, bytes]:
        """Reads one sample.

        Args:
            number: 0 to len - 1.

        Returns:
            The sample's components by extension: "jpg", "cls", "json", "rbd.npy", ...

        Raises:
            IndexError: There is no such sample.
            InputError: The sample's bytes do not match their crc32. The message names the tar and the sample.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of a split of {len(self)}")
        shard = bisect.bisect_right(self._ends, number)
        line = self._lines[shard][number - self._ends[shard]]
        fields = line.split()
        spans = {fields[i]: (int(fields[i + 1]), int(fields[i + 2])) for i in range(0, len(fields), 4)}
        start = min(offset for offset, _ in spans.values())
        blob = memoryview(self._pread(shard, start, max(o + n for o, n in spans.values()) - start))
        if not is_sealed(blob):
            name = self.shards[shard]["name"]
            raise InputError(
                f"{self.folder / name}.tar is damaged: sample {fields[3].split('.')[0]} (byte {start:,}) differs from "
                f"its crc32. List all damage: {shlex.join(['fgdata', 'check', str(self.folder)])}. Then restore the "
                "tar, or rebuild the set."
            )
        return {
            extension: bytes(blob[offset - start : offset - start + size])
            for extension, (offset, size) in spans.items()
        }

    def key(self, number: int) -> str:
        """The key of a sample: the name of its files in the tar, up to the first dot."""
        shard = bisect.bisect_right(self._ends, number)
        return self._lines[shard][number - self._ends[shard]].split()[3].split(".")[0]

    def close(self) -> None:
        """Closes the open tars. The next read opens them again."""
        with self._lock:
            _close(self._files)

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "split": self.split, "shards": self.shards}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        handle = self._files.get(shard)
        if handle is None:
            handle = os.open(
                self.folder / f"{self.shards[shard]['name']}.tar", os.O_RDONLY | getattr(os, "O_BINARY", 0)
            )
            with self._lock:
                stays_open = len(self._files) < _KEPT and self._files.setdefault(shard, handle) == handle
            if not stays_open:
                try:
                    return self._read_at(handle, size, offset)
                finally:
                    os.close(handle)
        return self._read_at(handle, size, offset)

    def _read_at(self, handle: int, size: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(handle, size, offset)
        with self._lock:  # Windows has no pread
            os.lseek(handle, offset, os.SEEK_SET)
            return os.read(handle, size)


class ShardSet:
    """A complete shard set. Open one with `ShardSet.open`.

    Attributes:
        path: The folder.
        manifest: The content of manifest.json.
        classes: The name of each class index.
        detectors: The names of the boxes that each sample has.
        splits: The number of samples of each split.
    """

    def __init__(self, path: Path, manifest: dict):
        self.path, self.manifest = path, manifest
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
        manifest = read_manifest(path)
        if fault := next(set_faults(path, manifest), None):
            check = shlex.join(["fgdata", "check", str(path)])
            raise InputError(f"{fault}. List all damage: {check}. Then restore the file, or rebuild the set.")
        return ShardSet(path, manifest)

    def split(self, name: str) -> SplitReader:
        """Returns the reader of one split. Raises InputError when the set has no such split."""
        if name not in self.splits:
            available = ", ".join(f"{split} ({count:,})" for split, count in self.splits.items())
            raise InputError(f"{self.path} has no split {name!r}; it has {available}.")
        if name not in self._readers:
            self._readers[name] = SplitReader(self.path, name, self.manifest["splits"][name]["shards"])
        return self._readers[name]


def set_faults(folder: Path, manifest: dict) -> Iterator[str]:
    """Yields what is wrong with a set's manifest, tars and indexes, without reading a tar."""
    if digest(manifest) != manifest["digest"]:
        yield f"{folder / MANIFEST} was changed after it was written: its digest does not match"
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            yield from shard_faults(folder, shard)


def shard_faults(folder: Path, shard: dict) -> list[str]:
    """Lists what is wrong with one shard's files without reading the tar: missing, wrong size, wrong index."""
    faults = []
    tar, index = folder / f"{shard['name']}.tar", folder / f"{shard['name']}.idx"
    if not tar.is_file():
        faults.append(f"{tar} is missing")
    elif tar.stat().st_size != shard["bytes"]:
        faults.append(f"{tar} is damaged: it has {tar.stat().st_size:,} bytes; the manifest states {shard['bytes']:,}")
    if not index.is_file():
        faults.append(f"{index} is missing (the index of {tar.name})")
    elif hashlib.sha256(index.read_bytes()).hexdigest() != shard["index_sha256"]:
        faults.append(f"{index} is damaged: its sha256 differs from the manifest's")
    return faults


def label(sample: dict[str, bytes]) -> int:
    """The class index of a sample, 0-based."""
    return int(sample["cls"])


def meta(sample: dict[str, bytes]) -> dict:
    """The json of a sample, as FORMAT.md specifies it."""
    return json.loads(sample["json"])


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


def _close(files: dict[int, int]) -> None:
    for handle in files.values():
        os.close(handle)
    files.clear()


def _index_lines(folder: Path, shard: dict) -> list[str]:
    return (folder / f"{shard['name']}.idx").read_text("ascii").splitlines()[1:]
