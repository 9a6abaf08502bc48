"""Reads and writes the files of a run. An error of the disk becomes an InputError that names the file."""

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fgdata.errors import InputError, printable
from fgdata.files.atomic import append_line, atomic
from fgdata.files.json import MOST_BYTES
from fgdata.files.regular import open_regular

from ..place import is_out_of_memory

SYSTEM_ERROR = "The file may be intact: fix the cause of this error of the system, then rerun the command."
"""What to do about a file that a failing disk, missing permissions or too little memory keep from being read."""

MOST_SETTINGS_BYTES = 1 << 20
"""Of a file that a person writes: settings in YAML, a study."""
YAML_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


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
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file. Remove it, then resume with --resume.")
    try:
        append_line(path, printable(line))
    except OSError as error:
        raise InputError(
            f"{path} could not be written: {error.strerror}. Its existing contents are unchanged."
        ) from error


def create_link(link: Path, name: str) -> bool:
    """Creates a symbolic link to the folder `name` beside it -> True. False on Windows without permission for links,
    which it gives in developer mode only: a run without the link `last` uses its newest checkpoint.
    """
    try:
        link.symlink_to(name, target_is_directory=True)
    except OSError:
        if sys.platform != "win32":
            raise
        return False
    return True


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_json(path: Path, advice: str = "Restore the file.") -> dict[str, Any]:
    """The JSON object in a file. InputError, ending with `advice`, if it cannot be read or is not a JSON object."""
    try:
        return parse_json(read_bytes(path, MOST_BYTES))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}. {advice}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file: plain values only, nothing in it is run. InputError if it cannot be read, or when
    PyYAML is missing. Aliases are refused: a few lines of them stand for more values than fit into memory."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise InputError(f"{path} needs PyYAML, which is not installed: pip install pyyaml") from error

    class Loader(yaml.SafeLoader):
        """YAML 1.2's numbers: 1e-4 is one, which YAML 1.1 takes for text."""

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*NAME) are not allowed; write the value again")
            return super().compose_node(parent, index)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", YAML_FLOAT, list("-+0123456789."))
    try:
        values = yaml.load(read_bytes(path, MOST_SETTINGS_BYTES), Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML: {printable(' '.join(str(error).split()))[:200]}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no settings; write NAME: VALUE lines, such as epochs: 100.")
    return values


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The contents of a regular file; anything else, such as a pipe, is not opened.

    InputError if it cannot be read, or has more than `most` bytes.
    """
    if not path.is_file():
        raise InputError(f"{path} {'is not a regular file' if path.exists() else 'does not exist'}.")
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > most:
                raise InputError(f"{path} has {size:,} bytes; the largest size allowed is {most:,}. Restore the file.")
            return file.read()
    except (OSError, MemoryError) as error:
        raise_system_error(str(path), error)
        raise InputError(f"{path} cannot be read: {error}.") from error


def read_through(path: Path) -> None:
    """Reads a file once, and keeps nothing of it, so that a failing disk raises its OSError here.

    Libraries hide that error behind one of their own, and a library that maps the file is ended by a signal.
    """
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def raise_system_error(what: str, error: BaseException) -> None:
    """Raises InputError if an error is the system's, which says nothing about the content of the file; else returns.

    what: the file, as messages name it. error: what a reader raised, perhaps because of an error of the system.
    """
    cause: BaseException | None = error
    while cause is not None:
        if reason := _system_reason(cause):
            raise InputError(f"{what} cannot be read: {reason}. {SYSTEM_ERROR}") from error
        cause = cause.__cause__ or cause.__context__


def _system_reason(error: BaseException) -> str | None:
    if is_out_of_memory(error):
        return "not enough memory"
    if not isinstance(error, OSError):
        return None
    of_rust = re.search(r"\(os error (\d+)\)", str(error))  # safetensors: its errors have no errno
    number = error.errno or (int(of_rust[1]) if of_rust else None)
    # A missing file has its own message, and a reader of damaged bytes may seek to an impossible place.
    return None if number in (None, errno.ENOENT, errno.EINVAL) else os.strerror(number)


def parse_json(data: bytes | str) -> dict[str, Any]:
    """JSON text -> the object in it. ValueError if it is not valid JSON or not an object, whatever the bytes are."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is not valid JSON (nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"it is not valid JSON ({printable(str(error))})") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value
