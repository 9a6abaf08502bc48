"""Copies of remote tars in a folder of this machine, within a limit of bytes.

A copy is named by its sha256, so it is of no set in particular and never out of date. It appears when it is complete
and its sha256 is right. Any number of processes may use the folder at once: one copies a tar while it holds the lock of
`SHA256.part`; the size of that file, reserved at its start, counts. A part whose lock is free was left by a killed
process and is removed. Copies of other sets that nobody read for a while are removed to make room, the oldest first;
those of the own set stay, since removing one to copy another would transfer both again in every epoch.
"""

import hashlib
import os
import queue
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError, describe, warn
from ..files.handles import HANDLES
from ..files.lock import create_folder
from .remote import Remote
from .store import Store, next_owner

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

IDLE_S = 600
"""A copy of another set may be removed when it was not read for so long."""
_TOUCH_S = 60  # a copy in use is marked as read at most this often
_PIECE = 8 << 20


class CopyFolder:
    """The folder of the copies."""

    def __init__(self, path: Path, most_bytes: int):
        """Creates the folder. InputError if that fails, or on a system without locks."""
        if fcntl is None:
            raise InputError("A cache folder needs file locks, which this system does not have. Omit it.")
        create_folder(path, "--data.cache-dir")
        self.path, self.most_bytes = path, most_bytes

    def file(self, sha256: str) -> Path:
        """Where the copy of a tar is, or would be."""
        return self.path / f"{sha256}.tar"

    def add(self, sha256: str, size: int, own: set[str], read: Callable[[int, int], bytes]) -> bool:
        """Copies a tar -> whether there was room for it and no other process is copying it.

        own: the sha256 of tars that stay. read: (bytes, offset) -> bytes of the tar. Raises ValueError for another
        sha256, what `read` raises, and OSError of the disk; nothing is left then.
        """
        part = self.path / f"{sha256}.part"
        with self._locked():
            if self.file(sha256).exists():
                return True
            if self._is_copied(part) or not self._make_room(size, own):
                return False
            file = part.open("wb+")
            _try_lock(file)
            os.truncate(part, size)
        with file:
            try:
                digest = hashlib.sha256()
                for offset in range(0, size, _PIECE):
                    piece = read(min(_PIECE, size - offset), offset)
                    digest.update(piece)
                    file.write(piece)
                if digest.hexdigest() != sha256:
                    raise ValueError("its sha256 differs from the manifest's")
                file.flush()
                os.fsync(file.fileno())
                with self._locked():  # who counts sees it once
                    part.replace(self.file(sha256))
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time counts and reserves. Nothing is transferred meanwhile."""
        with (self.path / "lock").open("ab") as file:
            assert fcntl is not None
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _is_copied(self, part: Path) -> bool:
        """Whether a process is copying this tar. Removes the parts that killed processes left."""
        for other in self.path.glob("*.part"):
            with suppress(OSError), other.open("rb+") as file:  # gone, or of another user; NFS locks what it may write
                if _try_lock(file):
                    other.unlink()
        return part.exists()

    def _make_room(self, size: int, own: set[str]) -> bool:
        about = {}
        for path in self.path.iterdir():
            with suppress(FileNotFoundError):  # a copy that failed just now
                about[path] = path.stat()
        used = sum(one.st_size for one in about.values())
        since = time.time() - IDLE_S
        old = [p for p in about if p.suffix == ".tar" and p.stem not in own and about[p].st_mtime < since]
        for path in sorted(old, key=lambda path: about[path].st_mtime):
            if used + size <= self.most_bytes:
                break
            with suppress(OSError):  # of another user
                path.unlink()
                used -= about[path].st_size
        return used + size <= self.most_bytes and size < shutil.disk_usage(self.path).free


def _try_lock(file: BinaryIO) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Copied:
    """A remote set whose tars are copied to this machine, one after the other, when they are first read.

    Until a tar is copied, its samples are read by ranges, so nothing waits for a copy.
    """

    parallel = Remote.parallel

    def __init__(self, remote: Remote, folder: CopyFolder, tars: dict[str, tuple[str, int]]):
        """tars: sha256 and bytes of each tar, by name."""
        self.place, self._remote, self._folder, self._tars = remote.place, remote, folder, tars
        self._own = {sha256 for sha256, _ in tars.values()}
        self._ready: dict[str, float] = {}  # when a copy was last marked as read, by name
        self._asked: set[str] = set()
        self._failed = False
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._owner = next_owner(self)

    def size(self, name: str) -> int:
        return self._remote.size(name)

    def open(self, name: str) -> BinaryIO:
        return self._remote.open(name)

    def names(self) -> list[str] | None:
        return self._remote.names()

    def close(self) -> None:
        HANDLES.close(self._owner)

    def read(self, name: str, size: int, offset: int) -> bytes:
        if name in self._tars and self._is_ready(name):
            try:
                return HANDLES.read(self._owner, self._folder.file(self._tars[name][0]), size, offset)
            except FileNotFoundError:  # another process made room
                self._ready.pop(name, None)
        return self._remote.read(name, size, offset)

    def __reduce__(self) -> tuple:
        return Copied, (self._remote, self._folder, self._tars)

    def _is_ready(self, name: str) -> bool:
        """Whether a tar is copied. If not, asks for it, once."""
        now, file = time.monotonic(), self._folder.file(self._tars[name][0])
        if now - self._ready.get(name, -_TOUCH_S) < _TOUCH_S:
            return True
        with suppress(OSError):  # a copy of another user, or on a read-only file system
            os.utime(file)
        if os.access(file, os.R_OK):
            self._ready[name] = now
            return True
        self._ready.pop(name, None)
        with self._lock:
            if name not in self._asked and not self._failed:
                self._asked.add(name)
                self._queue.put(name)
                if self._thread is None:
                    self._thread = threading.Thread(target=_copy, args=(weakref.ref(self), self._queue), daemon=True)
                    self._thread.start()
                    weakref.finalize(self, _stop, self._queue, self._thread)
        return False

    def copy(self, name: str) -> None:
        """Copies a tar now, if there is room. A failure is a warning, and ends the copying: reads go to the URL."""
        if self._failed:
            return
        sha256, size = self._tars[name]
        try:
            self._folder.add(sha256, size, self._own, lambda size, offset: self._remote.read(name, size, offset))
        except (ValueError, InputError, OSError) as fault:
            self._failed = True
            reason = describe(fault) if isinstance(fault, OSError) else str(fault)
            warn(f"{self.place / name} was not copied to {self._folder.path}, and no more tars will be: {reason}")


def _copy(copied: "weakref.ref[Copied]", names: queue.SimpleQueue) -> None:
    while (name := names.get()) is not None and (store := copied()) is not None:
        store.copy(name)
        del store  # while it waits, nobody holds it


def _stop(names: queue.SimpleQueue, thread: threading.Thread) -> None:
    """Ends the thread after its current tar: at exit, none is left in the middle of a request."""
    while not names.empty():
        with suppress(queue.Empty):
            names.get_nowait()
    names.put(None)
    if thread is not threading.current_thread():
        thread.join()


def keep_copies(store: Store, shards: list[dict], folder: Path, most_bytes: int) -> Store:
    """The store of a set that copies its tars to a folder. shards: the manifest's entries. InputError for a set on this
    machine."""
    if not isinstance(store, Remote):
        raise InputError(f"{store.place} is on this machine, and a cache folder keeps copies of remote sets. Omit it.")
    tars = {f"{shard['name']}.tar": (shard["sha256"], shard["bytes"]) for shard in shards}
    return Copied(store, CopyFolder(folder, most_bytes), tars)
