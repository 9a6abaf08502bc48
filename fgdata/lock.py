"""A folder to write to: made, or refused in words; one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError


def make(folder: Path, flag: str) -> None:
    """Makes a folder and those above it. InputError, naming the flag it was given by, where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(
            f"The folder {folder} cannot be made: {fault.strerror}. Name another place: {flag} FOLDER"
        ) from None


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes a folder and those above it; what it made goes again when the block fails and left it empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    make(folder, "--out")
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in new:
                path.rmdir()
        raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds a lock on the folder itself, so that two processes never write the same set at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(
            f"Another fgdata is writing {folder} at this moment. Wait for it, or name another folder: --out FOLDER"
        ) from None
    finally:
        os.close(handle)
