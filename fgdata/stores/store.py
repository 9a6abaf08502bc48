"""The files of one folder, on this machine or behind a URL, by their names."""

import io
import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from ..errors import InputError
from ..files.handles import HANDLES
from ..files.regular import open_regular
from .place import Url

AHEAD = 4
"""Items per thread that `each` begins before their turn."""
_OWNERS = itertools.count()  # numbers the folders, for their open files
T = TypeVar("T")
R = TypeVar("R")


class Store(Protocol):
    """Reads the files of a folder. Thread-safe; pickles without what it has open.

    A missing file raises FileNotFoundError, storage that fails OSError or InputError; each names the file.
    """

    parallel: int
    """How many files are worth reading at once when all are read: 1 where reading does not wait."""

    @property
    def place(self) -> Path | Url:
        """The folder."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Opens a file for reading from its start."""
        ...

    def read(self, name: str, size: int, offset: int) -> bytes:
        """`size` bytes of a file from `offset` on; fewer if the file ends before. The file may be kept open."""
        ...

    def names(self) -> list[str] | None:
        """The names of the files, in order; None if the storage cannot list them."""
        ...

    def close(self) -> None:
        """Closes open files. The next read opens them again."""
        ...


class Folder:
    """A folder of this machine. A file that `read` opens after its `size` was asked must not have changed since: its
    size and its time of modification are compared."""

    parallel = 1

    def __init__(self, path: Path, seen: dict[str, tuple[int, int]] | None = None):
        self.place = path
        self.owner = next_owner(self)
        self._seen = {} if seen is None else seen  # bytes and time of modification in ns, by name

    def size(self, name: str) -> int:
        with open_regular(self.place / name) as file:
            about = os.fstat(file.fileno())
        self._seen[name] = about.st_size, about.st_mtime_ns
        return about.st_size

    def open(self, name: str) -> BinaryIO:
        return open_regular(self.place / name)

    def read(self, name: str, size: int, offset: int) -> bytes:
        return HANDLES.read(self.owner, self.place / name, size, offset, partial(self._compare, name))

    def _compare(self, name: str, about: os.stat_result) -> None:
        now = about.st_size, about.st_mtime_ns
        if self._seen.get(name, now) != now:
            raise InputError(
                f"{self.place / name} was replaced while it was in use: its size or its time of modification is not "
                "that of the file when the set was opened. Wait until the set is complete, then rerun the command."
            )

    def names(self) -> list[str]:
        return sorted(path.name for path in self.place.iterdir())

    def close(self) -> None:
        HANDLES.close(self.owner)

    def __reduce__(self) -> tuple:
        return Folder, (self.place, self._seen)


def next_owner(store: Store) -> int:
    """Numbers a store, for HANDLES; its open files are closed with it."""
    owner = next(_OWNERS)
    weakref.finalize(store, HANDLES.close, owner).atexit = False  # the system closes them at the end
    return owner


def open_store(where: Path | Url) -> Store:
    """The store of a place. Nothing is read. InputError if the URL's extra is not installed."""
    if not isinstance(where, Url):
        return Folder(where)
    from .remote import Remote

    return Remote(where)


class RangeFile(io.RawIOBase):
    """A file of a store for code that needs a file object; each `readinto` is one `Store.read`."""

    def __init__(self, store: Store, name: str):
        self._store, self._name, self._size, self._position = store, name, store.size(name), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = min(len(buffer), self._size - self._position)
        data = self._store.read(self._name, size, self._position) if size > 0 else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def each(store: Store, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map`, in order; on storage that lets a reader wait, with several items at a time. A slow consumer holds it back:
    at most AHEAD items per thread are begun before their turn."""
    if store.parallel == 1:
        yield from map(work, items)
        return
    pool, begun = ThreadPoolExecutor(store.parallel), deque[Future[R]]()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) == AHEAD * store.parallel:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
