"""maps.h5: the saliency maps of a shard set, downsized to eight bits; `fgdata rebox` solves boxes from them.

A map is stored as SIDE x SIDE cells, each the mean of an equal share of the image, whatever its aspect ratio. Boxes are
solved on such a grid: for a grid that divides SIDE, only the rounding to 1/255 of the map's range is lost. FORMAT.md,
"maps.h5", specifies the layout. The file contains no timestamps: the same maps give the same bytes.
"""

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import h5py
import numpy as np

from ..boxes.objective import area_average
from ..errors import InputError
from ..files.atomic import atomic
from .manifest import BUILDING

MAPS = "maps.h5"
SIDE = 128
_VERSION = ("v110", "v110")  # of the HDF5 file format; pinned so that a newer library writes the same bytes
_GZIP = 4
_CHUNK = (1, SIDE, SIDE)


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
        try:
            self._file = h5py.File(path, "r", locking="best-effort")
        except OSError as fault:
            raise InputError(f"{path} cannot be read as HDF5 ({fault}); {_AGAIN}") from None

    def read(self, detector: str, row: int) -> np.ndarray:
        """Returns the map of a detector and row, (SIDE, SIDE) float64. Raises InputError when the file lacks it."""
        try:
            cells = cast(h5py.Dataset, self._file[f"maps/{detector}"])[row]
            low, high = cast(h5py.Dataset, self._file[f"range/{detector}"])[row].astype(np.float64)
        except (KeyError, OSError, IndexError, ValueError) as fault:
            raise InputError(f"{self._file.filename} has no map {row} by {detector} ({fault}); {_AGAIN}") from None
        return low + (high - low) / 255 * cells

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


_AGAIN = "restore it, or rebuild the set with --keep-maps."


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
    with atomic(out) as part, _disk_faults(part), h5py.File(part, "w", libver=_VERSION) as file:
        _create(file, list(sources), len(keys))
        cast(h5py.Dataset, file["key"])[:] = keys
        for name, paths in sources.items():
            _copy(file, name, paths)
    return entry(out)


def entry(path: Path) -> dict:
    """The manifest's entry for a map file: side, name, bytes and sha256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"side": SIDE, "name": path.name, "bytes": path.stat().st_size, "sha256": digest}


def fault(folder: Path, expected: dict) -> str | None:
    """Compares a set's map file with its entry in the manifest -> what is wrong with it, or None."""
    path = folder / MAPS
    if not path.is_file():
        return f"{path} is missing"
    actual = entry(path)
    if actual["sha256"] == expected["sha256"]:
        return None
    if actual["bytes"] != expected["bytes"]:
        sizes = f"it has {actual['bytes']:,} bytes; the manifest states {expected['bytes']:,}"
        return f"{path} is damaged, or of another set: {sizes}"
    return f"{path} is damaged, or of another set: its sha256 differs from the manifest's"


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
    with h5py.File(path, "r", locking="best-effort") as file:
        return cast(h5py.Dataset, file["key"])[:]


def _copy(file: h5py.File, name: str, paths: list[Path]) -> None:
    into, row = cast(h5py.Dataset, file[f"maps/{name}"]), 0
    for path in paths:
        with h5py.File(path, "r", locking="best-effort") as source:
            chunks = cast(h5py.Dataset, source[f"maps/{name}"])
            limits = cast(h5py.Dataset, source[f"range/{name}"])
            cast(h5py.Dataset, file[f"range/{name}"])[row : row + len(chunks)] = limits[:]
            for i in range(len(chunks)):
                mask, data = chunks.id.read_direct_chunk((i, 0, 0))
                into.id.write_direct_chunk((row + i, 0, 0), data, mask)
            row += len(chunks)


@contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    """Raises a plain OSError for a full disk: HDF5 wraps the system's error in a text of its own."""
    try:
        yield
    except (OSError, RuntimeError) as fault:
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if f"errno = {code}" in str(fault) or os.strerror(code) in str(fault):
                raise OSError(code, os.strerror(code), str(path)) from None
        raise


def maps_part(folder: Path, name: str) -> Path:
    """The file that contains the maps of one shard until all are merged."""
    return folder / BUILDING / f"{name}.{MAPS}"
