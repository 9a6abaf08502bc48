"""Open files that many threads read at a position; beyond a limit, the least recently used is closed."""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path

from ..errors import name_file
from .regular import open_regular


def most_open() -> int:
    """How many files to keep open: half of what this process may open (RLIMIT_NOFILE), 128 on Windows."""
    try:
        import resource
    except ImportError:
        return 128
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(8, soft // 2)


class Handles:
    """Keeps files open, shared by all readers of the process. Thread-safe, also in a process that was forked."""

    def __init__(self, most: int | None = None):
        self.most = most  # None: as many as `most_open` says when a file is opened
        self._kept: OrderedDict[tuple[int, Path], _Handle] = OrderedDict()
        self._gone: deque[int] = deque()  # owners whose files are to be closed
        self._lock = threading.Lock()

    def read(
        self,
        owner: int,
        path: Path,
        size: int,
        offset: int,
        check: Callable[[os.stat_result], None] = lambda about: None,
    ) -> bytes:
        """Reads at a position until all bytes have arrived or the file ends.

        Args:
            owner: Identifies the reader; another reader of the same path opens the file again, since it may have been
                replaced meanwhile.
            path: The file; its errors name it.
            size: Bytes.
            offset: Of the first byte.
            check: Raises an error if a file that was just opened is not the expected one.
        """
        with name_file(path):
            handle = self._take((owner, path), check)
            try:
                pieces = []
                while size > 0:
                    piece = self._read_once(handle.number, size, offset)
                    if not piece:
                        break
                    pieces.append(piece)  # one call may return fewer bytes, as FUSE file systems do
                    offset, size = offset + len(piece), size - len(piece)
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            finally:
                with self._lock:
                    handle.users -= 1
                    handle.close_if_unused()
                self._close_gone()

    def open_files(self, owner: int) -> list[int]:
        """The descriptors that are kept open for a reader."""
        with self._lock:
            return [handle.number for key, handle in self._kept.items() if key[0] == owner]

    def close(self, owner: int) -> None:
        """Closes the files of a reader; one that is being read is closed when that read ends.

        Never waits: the garbage collector may call it in a thread that holds the lock, whose `read` then closes them.
        """
        self._gone.append(owner)
        self._close_gone()

    def reset_after_fork(self) -> None:
        """In a child process: other threads do not exist, so none holds the lock or reads."""
        self._lock = threading.Lock()
        for handle in self._kept.values():
            handle.users = 0

    def _take(self, key: tuple[int, Path], check: Callable[[os.stat_result], None]) -> "_Handle":
        """The open file, with one user more."""
        with self._lock:
            handle = self._kept.get(key)
            if handle is not None:
                handle.users += 1
                self._kept.move_to_end(key)
                return handle
        with open_regular(key[1]) as file:
            check(os.fstat(file.fileno()))
            handle = _Handle(os.dup(file.fileno()))
        with self._lock:
            if key not in self._kept:  # else another thread was faster, and this one is closed after its read
                handle.kept = True
                self._kept[key] = handle
                for _ in range(len(self._kept) - (most_open() if self.most is None else self.most)):
                    self._drop(next(iter(self._kept)))
        return handle

    def _drop(self, key: tuple[int, Path]) -> None:
        handle = self._kept.pop(key)
        handle.kept = False
        handle.close_if_unused()

    def _close_gone(self) -> None:
        while self._gone and self._lock.acquire(blocking=False):  # else whoever holds the lock comes here afterwards
            try:
                while self._gone:
                    owner = self._gone.popleft()
                    for key in [key for key in self._kept if key[0] == owner]:
                        self._drop(key)
            finally:
                self._lock.release()

    def _read_once(self, handle: int, size: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(handle, size, offset)
        with self._lock:  # Windows has no pread
            os.lseek(handle, offset, os.SEEK_SET)
            return os.read(handle, size)


class _Handle:
    """An open file, how many threads read it, and whether it stays open without them."""

    def __init__(self, number: int):
        self.number, self.users, self.kept = number, 1, False

    def close_if_unused(self) -> None:
        if not self.users and not self.kept and self.number >= 0:
            os.close(self.number)
            self.number = -1


HANDLES = Handles()
"""Those of this process."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HANDLES.reset_after_fork)
