"""A folder to write to: made, or refused in words; one process at a time."""

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
    """Makes a folder and those above it. InputError, naming the flag it was given by, where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(
            f"The folder {folder} cannot be made: {fault.strerror}. Name another place: {flag} FOLDER"
        ) from None


@contextmanager
def create_and_lock(folder: Path) -> Iterator[None]:
    """Makes a folder and those above it and holds the lock of `lock` on it.

    What it made goes again, before the lock does, when the block fails and left it empty. A process that is refused the
    lock removes nothing: the folder is the other's by then.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    handle = _lock(folder, makes=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in new:
                path.rmdir()
        raise
    finally:
        _unlock(handle)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder that exists, so that two processes never write the same set at once."""
    handle = _lock(folder, makes=False)
    try:
        yield
    finally:
        _unlock(handle)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder's lock at this moment; True, to be careful, where that cannot be seen."""
    try:
        _unlock(_lock(folder, makes=False))
    except (InputError, OSError):
        return True
    return fcntl is None


def _lock(folder: Path, makes: bool) -> int | None:
    """-> a handle that holds the lock of the folder that has this name. None on Windows, which has no such lock."""
    while True:
        if makes:
            create_folder(folder, "--out")
        if fcntl is None:
            return None
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # removed by the process that made it
            if makes:
                continue
            raise InputError(f"The folder {folder} is not there (any more).") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(handle)
            raise InputError(
                f"Another fgdata is writing {folder} at this moment. Wait for it, or name another folder: --out FOLDER"
            ) from None
        os.close(handle)  # removed or replaced between open and flock: a lock on a folder that nobody else can find


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
