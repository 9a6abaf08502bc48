"""maps.h5: the saliency maps of a shard set, downsized to eight bits; `fgdata rebox` computes boxes from them.

A map is stored as SIDE x SIDE cells, each the mean of an equal share of the image, whatever its aspect ratio. Boxes are
solved on such a grid: for a grid that divides SIDE, only the rounding to 1/255 of the map's range is lost. FORMAT.md,
"maps.h5", specifies the layout. The file contains no timestamps: the same maps give the same bytes.
"""

import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from ..boxes.objective import area_average
from ..errors import InputError, is_reported
from ..files.atomic import atomic
from ..files.regular import open_regular
from ..stores.place import Url
from ..stores.store import Store
from .faults import sha256, size_fault
from .manifest import BUILDING
from .reader import ShardSet

MAPS = "maps.h5"
SIDE = 128
_VERSION = ("v110", "v110")  # of the HDF5 file format; pinned so that a newer library writes the same bytes
_GZIP = 4
_CHUNK = (1, SIDE, SIDE)
_MOST_EXPANSION = 2000  # deflate expands at most 1,032 times
_MOST_STORED = 2 * SIDE * SIDE  # bytes of a compressed map
_LOCKING = False
"""Of h5py.File: HDF5 would lock the file, which fails on NFS without a lock server. Files that are read do not change,
and no other process knows the name of one that is written."""


def shrink_map(saliency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) map -> (SIDE, SIDE) uint8 and (2,) float32, the values of bytes 0 and 255; NaN for a non-finite map."""
    cells = area_average(saliency, SIDE)
    low, high = cells.min(), cells.max()
    if not np.isfinite(low + high):
        return np.zeros(_CHUNK[1:], np.uint8), np.full(2, np.nan, np.float32)
    share = (cells - low) / (high - low) if high > low else np.zeros_like(cells)
    return np.rint(255 * share).astype(np.uint8), np.array([low, high], np.float32)


class MapFile:
    """An open maps.h5. A row is a sample's position in the set, with splits and shards in the manifest's order."""

    def __init__(self, path: Path):
        """Opens the file. Raises InputError when it is not HDF5."""
        self.path = path
        self._file = _open(path)
        self._datasets: dict[str, tuple[h5py.Dataset, h5py.Dataset]] = {}

    def read(self, detector: str, row: int) -> np.ndarray:
        """Returns the map of a detector and row, (SIDE, SIDE) float64. Raises InputError when the file lacks it."""
        with _hdf5_faults(self.path, f"has no map {row} by {detector}"):
            if detector not in self._datasets:
                self._datasets[detector] = _maps_and_ranges(self._file, detector)
            maps, ranges = self._datasets[detector]
            mask, stored = _stored(maps, row)
            low, high = ranges[row].astype(np.float64)
            cells = _inflate(mask, stored)
        if not (np.isfinite(low) and np.isfinite(high)):
            return np.full(_CHUNK[1:], np.nan)
        return low + (high - low) / 255 * cells

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


_AGAIN = "restore it, or rebuild the set with --keep-maps."


@contextmanager
def _hdf5_faults(path: Path, problem: str) -> Iterator[None]:
    """Raises InputError for whatever h5py raises about a bad file."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {_AGAIN}") from None
    except (KeyError, OSError, IndexError, ValueError, RuntimeError, zlib.error) as fault:
        _raise_system_fault(fault, path)
        raise InputError(f"{path} {problem} ({fault}); {_AGAIN}") from None


def pack(keys: list[int], maps: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> bytes:
    """Stores the maps of one shard.

    Args:
        keys: The key of each sample, as a number.
        maps: Per detector, what `shrink_map` returned for each sample.

    Returns:
        The bytes of an HDF5 file, for `merge`.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=_VERSION) as file:
        _create(file, list(maps), len(keys))
        cast(h5py.Dataset, file["key"])[:] = keys
        for name, shrunk in maps.items():
            cast(h5py.Dataset, file[f"maps/{name}"])[:] = np.stack([cells for cells, _ in shrunk])
            cast(h5py.Dataset, file[f"range/{name}"])[:] = np.stack([limits for _, limits in shrunk])
    return buffer.getvalue()


def merge(sources: dict[str, list[Path]], out: Path) -> dict:
    """Merges map files into one without decompressing them.

    Args:
        sources: Per detector, the files that contain its maps, in the set's order.
        out: The file to write. It appears complete or not at all.

    Returns:
        The manifest's entry for the file.
    """
    first = next(iter(sources.values()))
    keys = np.concatenate([_keys(path) for path in first])
    with atomic(out) as part, _disk_faults(part), h5py.File(part, "w", libver=_VERSION, locking=_LOCKING) as file:
        _create(file, list(sources), len(keys))
        cast(h5py.Dataset, file["key"])[:] = keys
        for name, paths in sources.items():
            _copy(file, name, paths)
    return entry(out)


def pick(source: Path, detectors: list[str], rows: list[int], out: Path) -> dict:
    """Copies some rows of a map file, in the order given, without decompressing them -> the manifest's entry for `out`.

    The file appears complete or not at all. InputError when the source lacks a row.
    """
    with (
        atomic(out) as part,
        _disk_faults(part),
        _open(source) as old,
        h5py.File(part, "w", libver=_VERSION, locking=_LOCKING) as file,
        _hdf5_faults(source, "is damaged"),
    ):
        _create(file, detectors, len(rows))
        cast(h5py.Dataset, file["key"])[:] = _dataset(old, "key", "<u8", ())[:][rows]
        for name in detectors:
            maps, ranges = _maps_and_ranges(old, name)
            cast(h5py.Dataset, file[f"range/{name}"])[:] = ranges[:][rows]
            for i, row in enumerate(rows):
                mask, data = _stored(maps, row)
                cast(h5py.Dataset, file[f"maps/{name}"]).id.write_direct_chunk((i, 0, 0), data, mask)
    return entry(out)


def entry(path: Path) -> dict:
    """The manifest's entry for a map file: side, name, bytes and sha256."""
    with open_regular(path) as file:
        return {"side": SIDE, "name": path.name, "bytes": path.stat().st_size, "sha256": sha256(file)}


def fault(store: Store, expected: dict, detectors: Iterable[str], samples: int) -> str | None:
    """Compares a set's map file with its manifest -> what is wrong with it, or None.

    Args:
        store: The files of the shard set. Behind a URL, only the size and the sha256 are compared.
        expected: The manifest's entry for the file.
        detectors: The set's detectors; `gt` has no maps.
        samples: Number of samples of the set.
    """
    path = store.place / MAPS
    if wrong := size_fault(store, MAPS, expected["bytes"]):
        return wrong.replace("is damaged:", "is damaged, or belongs to another set:")
    with store.open(MAPS) as file:
        same = sha256(file) == expected["sha256"]
    if not same:
        return f"{path} is damaged, or belongs to another set: its sha256 differs from the manifest's"
    if isinstance(path, Url):
        return None
    try:
        with _open(path) as file, _hdf5_faults(path, "is not what FORMAT.md states"):
            rows = {len(_dataset(file, "key", "<u8", ()))}
            rows |= {len(maps) for name in detectors if name != "gt" for maps in _maps_and_ranges(file, name)}
    except InputError as wrong:
        return str(wrong).removesuffix(f"; {_AGAIN}")
    return None if rows == {samples} else f"{path} does not have {samples:,} rows, one per sample"


def set_fault(shards: ShardSet) -> str | None:
    """What is wrong with the map file of an open set that has one; see `fault`."""
    return fault(shards.store, shards.manifest["maps"], shards.detectors, sum(shards.splits.values()))


def _open(path: Path) -> h5py.File:
    """Raises InputError when a file is not a regular file or not HDF5."""
    with _hdf5_faults(path, "cannot be read as HDF5"):
        open_regular(path).close()
        return h5py.File(path, "r", locking=_LOCKING)


def _maps_and_ranges(file: h5py.File, detector: str) -> tuple[h5py.Dataset, h5py.Dataset]:
    """(N, SIDE, SIDE) uint8 and (N, 2) float32. ValueError as of `_dataset`."""
    maps = _dataset(file, f"maps/{detector}", "u1", _CHUNK[1:])
    ranges = _dataset(file, f"range/{detector}", "<f4", (2,))
    if len(ranges) != len(maps):
        raise ValueError(f"{detector} has {len(maps):,} maps but {len(ranges):,} ranges")
    return maps, ranges


def _dataset(file: h5py.File, name: str, dtype: str, inner: tuple[int, ...]) -> h5py.Dataset:
    """A dataset of shape (N, *inner) whose data are in this file. Reads none of them.

    HDF5 follows links, external storage and virtual datasets to any file that the user may read, and a dataset without
    storage may claim any size. Raises ValueError for these, another type or another shape.
    """
    node: Any = file
    for part in name.split("/"):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"no dataset {name}, or only a link to one")
        node = node[part]
    own = isinstance(node, h5py.Dataset) and not node.external and not node.is_virtual
    fits = own and node.dtype == np.dtype(dtype) and len(node.shape) == 1 + len(inner) and node.shape[1:] == inner
    if fits and inner == _CHUNK[1:]:
        fits = node.chunks == _CHUNK and node.compression == "gzip"
        fits = fits and node.id.get_create_plist().get_nfilters() == 1
        fits = fits and node.nbytes <= _MOST_EXPANSION * os.path.getsize(file.filename)
    elif fits:
        fits = node.chunks is None and node.id.get_storage_size() == node.nbytes
    if not fits:
        raise ValueError(f"{name} is not a {dtype} array of shape {('N', *inner)} stored in this file")
    return node


def _stored(maps: h5py.Dataset, row: int) -> tuple[int, bytes]:
    """The filter mask and the compressed bytes of a map. ValueError for more bytes than a map can have.

    `get_chunk_info_by_coord` tells their number too, but HDF5 walks over all chunks before this one.
    """
    mask, data = maps.id.read_direct_chunk((row, 0, 0), out=bytearray(_MOST_STORED))
    return mask, bytes(data)


def _inflate(mask: int, stored: bytes) -> np.ndarray:
    """What `_stored` returned -> (SIDE, SIDE) uint8. ValueError or zlib.error if it is not a map."""
    if mask & 1:  # deflate would have made it larger
        cells, complete = stored, True
    else:
        inflater = zlib.decompressobj()
        cells, complete = inflater.decompress(stored, SIDE * SIDE + 1), inflater.eof
    if not complete or len(cells) != SIDE * SIDE:
        raise ValueError(f"its chunk does not have {SIDE * SIDE:,} bytes")
    return np.frombuffer(cells, np.uint8).reshape(_CHUNK[1:])


def _create(file: h5py.File, detectors: list[str], samples: int) -> None:
    file.create_dataset("key", (samples,), "<u8", track_times=False)
    for name in detectors:
        file.create_dataset(
            f"maps/{name}",
            (samples, SIDE, SIDE),
            "u1",
            chunks=_CHUNK,
            compression="gzip",
            compression_opts=_GZIP,
            track_times=False,
        )
        file.create_dataset(f"range/{name}", (samples, 2), "<f4", track_times=False)


def _keys(path: Path) -> np.ndarray:
    with _open(path) as file, _hdf5_faults(path, "is damaged"):
        return _dataset(file, "key", "<u8", ())[:]


def _copy(file: h5py.File, name: str, paths: list[Path]) -> None:
    into, row = cast(h5py.Dataset, file[f"maps/{name}"]), 0
    for path in paths:
        with _open(path) as source:
            with _hdf5_faults(path, "is damaged"):
                maps, ranges = _maps_and_ranges(source, name)
                if row + len(maps) > len(into):
                    raise ValueError(f"it has more maps by {name} than the set has samples")
                limits = ranges[:]
            cast(h5py.Dataset, file[f"range/{name}"])[row : row + len(maps)] = limits
            for i in range(len(maps)):
                with _hdf5_faults(path, "is damaged"):
                    mask, data = _stored(maps, i)
                into.id.write_direct_chunk((row + i, 0, 0), data, mask)
            row += len(maps)


@contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    """Raises a plain OSError for a full or failing disk."""
    try:
        yield
    except (OSError, RuntimeError) as fault:
        _raise_system_fault(fault, path)
        raise


def _raise_system_fault(fault: Exception, path: Path) -> None:
    """Raises the OSError of a full or failing disk that HDF5 wrapped in a text of its own; else does nothing."""
    number = re.search(r"errno = ([0-9]+)", str(fault))
    code = int(number[1]) if number else fault.errno if isinstance(fault, OSError) else None
    if code and is_reported(plain := OSError(code, os.strerror(code), str(path))):
        raise plain from None


def maps_part(folder: Path, name: str) -> Path:
    """The file that contains the maps of one shard until all are merged."""
    return folder / BUILDING / f"{name}.{MAPS}"
