"""Checks an output file that the user names: it must not replace anything else."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError


def check_output(path: Path, suffixes: Sequence[str], flag: str, inputs: Iterable[Path] = ()) -> None:
    """Refuses a path that is not a new file, or an earlier one of the same kind. Writes nothing.

    Args:
        path: The file to write.
        suffixes: How its name may end, such as (".png", ".pdf"). No file of a shard set or a run has such a name,
            weights excepted.
        flag: The flag or argument that names the file, for messages.
        inputs: Files that the command reads.

    Raises:
        InputError: The name ends differently; the path is a folder, a device or a FIFO; or it is one of the inputs.

    Example:
        check_output(Path("cub.html"), (".html",), "--out")
    """
    again = f"{flag} FILE" if flag.startswith("--") else flag
    if path.is_dir():
        raise InputError(f"{path} is a folder. Name a file: {again}")
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{flag} is {path}; allowed: a file whose name ends in {', '.join(suffixes)}.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file. Name another file: {again}")
    if path.exists() and any(given.exists() and path.samefile(given) for given in inputs):
        raise InputError(f"{path} is the file that this command reads. Name another file: {again}")


def reason_unwritable(path: Path) -> str:
    """Why a file or folder that exists cannot be written, to complete a sentence about it; "" if it can."""
    if os.access(path, os.W_OK | os.X_OK if path.is_dir() else os.W_OK):
        return ""
    read_only = hasattr(os, "statvfs") and os.statvfs(path).f_flag & os.ST_RDONLY
    return "is on a read-only file system" if read_only else "lacks the permission"
