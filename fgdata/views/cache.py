"""The decoded images of a split, kept in one block of memory, so that each is read and decoded once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..cores import free_memory, processes_here
from ..errors import InputError
from ..shards.reader import SplitReader, fetch_sample, meta, open_fetched
from ..shards.sample import Sample

_MEASURED = 256  # samples whose sizes are read to estimate the size of all
_SHARE = 0.75  # of the free memory; the rest is for batches, the network and everything else


class Kept(Sample):
    """A sample without its JPEG, whose pixels are in the cache."""

    pixels: np.ndarray  # (H, W, 3) uint8, RGB


class Cache:
    """A reader of a split that returns a `Kept` in place of each sample whose pixels it has. Thread-safe.

    It fills in the first epoch. What does not fit, because the sizes of some samples misled the estimate, is read and
    decoded in every epoch, as without a cache.
    """

    def __init__(self, reader: SplitReader, world_size: int):
        """Reserves the memory. InputError if the decoded images do not fit into it.

        reader: the split. world_size: processes that train together; each process of this machine has its own cache.
        """
        self.split = reader.split
        self._reader = reader
        size, processes = estimate_bytes(reader), processes_here(world_size)
        free = int(_SHARE * free_memory()) // processes
        each = f" in each of {processes} processes" if processes > 1 else ""
        problem = (
            f"The decoded images of split {reader.split!r} ({len(reader):,}) take about {_gigabytes(size)}{each}, and "
            f"a cache may take {_gigabytes(free)}, three quarters of the free memory"
            f"{' divided by them' if each else ''}. Omit the cache (--data.cache), or build a set with smaller images: "
            "add --max-side 256 and another --out to the command that built this one."
        )
        if size > free:
            raise InputError(problem)
        try:
            self._block = np.empty(size, np.uint8)  # the system provides its pages as they are written
        except MemoryError:
            raise InputError(problem) from None
        self._used = 0
        self._kept: dict[int, Kept | None] = {}  # None: another thread is copying its pixels
        self._lock = threading.Lock()

    def fetch(self, number: int) -> Any:
        """A `Kept`, or what the reader returns."""
        return self._kept.get(number) or fetch_sample(self._reader, number)

    read = fetch

    def open(self, number: int, stored: Any) -> Sample:
        """What `fetch` returned -> the sample; of a `Kept` there is nothing left to check."""
        return stored if isinstance(stored, Kept) else open_fetched(self._reader, number, stored)

    def put(self, number: int, sample: Sample, pixels: np.ndarray) -> None:
        """Keeps the pixels (H, W, 3) uint8 of a sample, if they are new and fit."""
        with self._lock:
            start, end = self._used, self._used + pixels.size
            if number in self._kept or end > len(self._block):
                return
            self._used, self._kept[number] = end, None
        kept = Kept({name: data for name, data in sample.items() if name != "jpg"})
        kept.info, kept.pixels = sample.info, self._block[start:end].reshape(pixels.shape)
        np.copyto(kept.pixels, pixels)
        self._kept[number] = kept


def estimate_bytes(reader: SplitReader) -> int:
    """Bytes of the decoded images of a split: exact for up to 256 samples; of a larger split an upper limit, the mean
    of 256 evenly spaced ones plus four standard errors."""
    n = len(reader)
    numbers = np.linspace(0, n - 1, min(n, _MEASURED)).round().astype(int)

    def pixels(number: int) -> int:
        try:
            about = meta(reader.read(int(number)))
        except InputError:  # reported when its batch is made
            return 0
        return 3 * about["width"] * about["height"]

    with ThreadPoolExecutor(32) as pool:
        sizes = np.array(list(pool.map(pixels, numbers)), np.float64)
    error = sizes.std() / np.sqrt(len(sizes)) * np.sqrt(1 - len(sizes) / n)
    return int(np.ceil(n * (sizes.mean() + 4 * error)))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
