"""The files of a run. What the disk refuses is an InputError that names the file."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fgdata.errors import InputError
from fgdata.files.atomic import append_line, atomic


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    with whole(path) as part:
        part.write_bytes(data)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields `path`.part to write, in a folder made for it where there is none; it becomes `path` when the block ends,
    and goes when the block fails.

    InputError, naming `path`, when the disk is full or the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as part:
            yield part
    except OSError as error:
        raise InputError(f"{path} could not be written: {error.strerror}. Nothing of it is left behind.") from error


def append(path: Path, line: str) -> None:
    """Adds a line, or on a full disk nothing of it and InputError."""
    try:
        append_line(path, line)
    except OSError as error:
        raise InputError(f"{path} could not be written: {error.strerror}. What it held before is kept.") from error


def remove(path: Path) -> None:
    """A file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object.")
    return value
