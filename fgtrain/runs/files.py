"""Reads and writes the files of a run. An error of the disk becomes an InputError that names the file."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fgdata.errors import InputError
from fgdata.files.atomic import append_line, atomic


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file through `whole`."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file through `whole`."""
    with whole(path) as part:
        part.write_bytes(data)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; it becomes `path` when the block ends and is removed when the block fails.
    Missing folders are created.

    InputError, naming `path`, if the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as part:
            yield part
    except OSError as error:
        raise InputError(f"{path} could not be written: {error.strerror}. No partial file is left.") from error


def append(path: Path, line: str) -> None:
    """Appends a line. InputError, with the file unchanged, if the disk is full or the file cannot be written."""
    try:
        append_line(path, line)
    except OSError as error:
        raise InputError(
            f"{path} could not be written: {error.strerror}. Its existing contents are unchanged."
        ) from error


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. InputError if it cannot be read or is not a JSON object."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object.")
    return value
