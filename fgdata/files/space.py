"""Free space, checked before hours of work that would end on a full disk."""

import shutil
from pathlib import Path

from ..errors import InputError


def need_space(size: int, folder: Path, what: str, instead: str) -> None:
    """InputError if `what`, such as a file or a set, needs more bytes than the drive of an existing folder has free.

    instead: what else to do, such as "name another folder: --out FOLDER".
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{what} needs {size / 1e9:,.1f} GB more in {folder}, and {free / 1e9:,.1f} GB are free. Free some space, "
            f"or {instead}"
        )
