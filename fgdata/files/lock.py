"""Creates and locks the folders that commands write to: one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def create_folder(folder: Path, flag: str) -> None:
    """Creates a folder and its parents.

    flag: the flag that names the folder, for the message. Raises InputError if the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(
            f"The folder {folder} cannot be created: {fault.strerror}. Name another folder: {flag} FOLDER"
        ) from None


@contextmanager
def create_and_lock(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents, and locks it (as `lock` does) until the block ends.

    If the block raises, the folders created here are removed again if they are empty, before the lock is released.
    Raises InputError if the folder cannot be created, or if another process holds its lock; that process owns the
    folder, so nothing is removed then.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    handle = _lock(folder, create=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in created:
                path.rmdir()
        raise
    finally:
        _unlock(handle)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Locks an existing folder until the block ends, so that two processes never write the same set at once.

    Raises InputError if the folder does not exist, or if another process holds its lock.
    """
    handle = _lock(folder, create=False)
    try:
        yield
    finally:
        _unlock(handle)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder now. True, the safe answer, if this cannot be determined."""
    try:
        _unlock(_lock(folder, create=False))
    except (InputError, OSError):
        return True
    return fcntl is None


def _lock(folder: Path, create: bool) -> int | None:
    """-> an open handle that holds the lock of the folder at this path. None on Windows, which has no such lock."""
    while True:
        if create:
            create_folder(folder, "--out")
        if fcntl is None:
            return None
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # removed by the process that created it
            if create:
                continue
            raise InputError(f"The folder {folder} does not exist (any more).") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(handle)
            raise InputError(
                f"Another process is writing to {folder}. Wait until it ends, or name another folder: --out FOLDER"
            ) from None
        os.close(handle)  # the folder was removed or replaced between open and flock: try again with the current one


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
