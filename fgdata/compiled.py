"""Compiled functions: numba's njit, cached on disk where that is possible."""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numba.core.config


def compiled(**options: Any) -> Callable[[Callable], Any]:
    """njit(cache=True, nogil=True, **options), which also works where neither the package nor HOME can be written.

    numba refuses to compile a function that it cannot cache, as in a container with a read-only install and a user
    without a home. Then the cache is in a private temporary folder; without one, each process compiles anew.
    """

    def decorate(function: Callable) -> Any:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:
            if folder := private_folder():
                numba.core.config.CACHE_DIR = str(folder)  # pyright: ignore
                try:
                    return numba.njit(cache=True, nogil=True, **options)(function)
                except RuntimeError:
                    pass
            return numba.njit(nogil=True, **options)(function)

    return decorate


def private_folder() -> Path | None:
    """A folder for this user's cache in the temporary folder; None if there is none that only this user can write.

    A cache is unpickled, so the folder of another user must never be used.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    folder = Path(tempfile.gettempdir()) / f"fgdata-numba-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022
    return folder if private and (not hasattr(os, "getuid") or status.st_uid == os.getuid()) else None
