"""One process at a time for a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


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
