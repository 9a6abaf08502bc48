"""Copies of a detector's files on a machine of a cluster that lacks them.

They are in $XDG_CACHE_HOME/fgdata/copies, by default ~/.cache/fgdata/copies, in a folder named after their contents. A
process uses the copy of a path only if VARIABLE names it, and only if nothing is at the path itself.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..files.atomic import write_atomic
from ..files.lock import create_folder
from ..files.regular import open_regular

VARIABLE = "FGDATA_COPIES"
"""Environment variable of a worker: JSON, a path as the detector's name has it -> that of its copy in `folder()`."""


@dataclass(frozen=True)
class Files:
    """The files of a detector that the machine of the command has."""

    path: str
    """Of the first, as the detector's name has it; the others are in its folder."""
    sums: dict[str, str]
    """Name relative to that folder -> sha256; the first file's first."""

    @property
    def copy(self) -> str:
        """Where the copy of the first file is, relative to `folder()`."""
        return f"{hashlib.sha256(json.dumps(self.sums).encode()).hexdigest()[:32]}/{PurePosixPath(self.path).name}"


def cache(name: str) -> Path:
    """$XDG_CACHE_HOME/fgdata/NAME, else ~/.cache/fgdata/NAME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fgdata" / name


def folder() -> Path:
    """Where copies are on this machine."""
    return cache("copies")


def find(path: str) -> Path:
    """A path in a detector's name -> the file there, or its copy."""
    here = Path(path).expanduser()  # the shell does not expand a ~ after a colon
    copy = json.loads(os.environ.get(VARIABLE) or "{}").get(path)
    return here if copy is None or here.exists() else folder() / copy


def read(path: str, names: Sequence[str]) -> tuple[Files, dict[str, bytes]]:
    """The files of a detector and their contents. names: relative to the folder of the first, whose path is given."""
    above = Path(path).expanduser().parent
    contents = {}
    for name in names:
        with open_regular(above / name) as file:
            contents[name] = file.read()
    return Files(path, {name: _sha256(data) for name, data in contents.items()}), contents


def receive(files: Files, load: Callable[[str], bytes]) -> None:
    """Copies the files of a detector to this machine, unless they, or copies of them, are on it.

    load: name -> the content of the file. InputError if it is not the expected one, or the cache cannot be written.
    """
    if Path(files.path).expanduser().exists():
        return
    target = (folder() / files.copy).parent
    for name, sha256 in reversed(files.sums.items()):  # the first file last: without it, there is no copy
        path = target / name
        if path.is_file() and _sha256(path.read_bytes()) == sha256:
            continue
        if (found := _sha256(data := load(name))) != sha256:
            raise InputError(f"The copy of {files.path} is damaged: {name} has sha256 {found}. Rerun the command.")
        create_folder(path.parent, "XDG_CACHE_HOME")
        write_atomic(path, data)


def as_variable(every: Iterable[Files]) -> dict[str, str]:
    """-> the environment of workers that use the copies."""
    return {VARIABLE: json.dumps({files.path: files.copy for files in every})}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
