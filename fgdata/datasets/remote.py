"""A dataset in object storage: its files are copied to this machine, and read there.

The copy is remote/SCHEME/BUCKET/FOLDER in $FGDATA_ROOT, else in data/. A file of the copy is kept if it has the size
and the time of modification of the one in the bucket, and copied again if not; so a copy that was stopped resumes.
Files that are not in the bucket are refused: a reader would take them for part of the dataset.
"""

import os
import stat
from collections.abc import Container
from pathlib import Path

from ..errors import InputError, abbreviate, counted, warn
from ..files.atomic import atomic, is_part
from ..files.lock import create_folder
from ..files.owners import owning
from ..files.space import need_space
from ..progress import Progress
from ..stores.place import Url
from ..stores.remote import PIECE, Remote
from ..stores.store import each
from . import default_root
from .parsing import check_relative_path

_OWNERS = ".copying"


def copy_dataset(url: Url) -> Path:
    """Copies the files behind an s3:// or gs:// URL to this machine, or those that are missing -> their folder.

    Another process, on any machine, that copies at the same time is waited for.

    Raises:
        InputError: There are no files, a name leads out of the folder, the storage refuses or fails, the disk is too
            small, or the copy has files that are not in the bucket.
    """
    remote = Remote(url)
    files = _list(remote)
    top = default_root("remote")
    folder = top / url.replace("://", "/")
    create_folder(folder, "FGDATA_ROOT, or --root")
    _refuse_others(folder, files, url)
    todo = _missing(folder, files)
    if todo:  # a complete copy may be where nothing can be written
        with owning(top / _OWNERS, f"is copying a dataset to {top}", waits=True):
            _remove_leftovers(folder, files)
            todo = _missing(folder, files)
            _copy_files(remote, folder, files, todo)
    already = f"; {counted(len(files) - len(todo), 'file')} had been copied before" if len(todo) < len(files) else ""
    warn(f"{url} is read from its copy, {folder}{already}")
    return folder


def _copy_files(remote: Remote, folder: Path, files: dict[str, tuple[int, int]], todo: list[str]) -> None:
    """Copies the files `todo`."""
    url, size, left = remote.place, sum(size for size, _ in files.values()), sum(files[name][0] for name in todo)
    need_space(left, folder, url, "set FGDATA_ROOT to a folder of a larger disk.")
    if todo:
        warn(f"Copying {counted(len(todo), 'file')}, {left / 1e6:,.1f} MB, of {url} to {folder}")
    with Progress(f"Copying {url.name}", size, size - left, unit="bytes") as progress:
        for done in each(remote, lambda name: _copy(remote, folder, name, *files[name]), todo):
            progress.advance(done)
    if wrong := _missing(folder, {name: files[name] for name in todo}):
        raise InputError(
            f"{abbreviate(wrong)} changed in {folder} while {url} was copied, or two names are one there. Copy the "
            "files by hand to a folder that tells them apart: --root FOLDER"
        )


def _list(remote: Remote) -> dict[str, tuple[int, int]]:
    """Bytes and time of modification of each file by its path, in order."""
    files = remote.walk()
    folders: set[str] = set()
    for name in files:
        while (name := name.rpartition("/")[0]) and name not in folders:
            folders.add(name)
    for name in ["", *folders & files.keys()]:  # consoles mark a folder by an object without bytes
        if name in files and files.pop(name)[0]:
            raise InputError(f"{remote.place / name} is a file and a folder. Rename one of them.")
    if not files:
        raise InputError(f"{remote.place} has no files. Check the URL; it names the folder of the dataset.")
    for name in files:
        try:
            check_relative_path(name)
        except ValueError as fault:
            raise InputError(f"{remote.place}: {fault}") from None
    return dict(sorted(files.items()))


def _missing(folder: Path, files: dict[str, tuple[int, int]]) -> list[str]:
    """The files that are not in the folder with their size and time."""

    def is_there(name: str, size: int, seconds: int) -> bool:
        try:
            found = (folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(found.st_mode) and (found.st_size, int(found.st_mtime)) == (size, seconds)

    return [name for name, about in files.items() if not is_there(name, *about)]


def _refuse_others(folder: Path, files: dict[str, tuple[int, int]], url: Url) -> None:
    """InputError if the folder has files that are not in the bucket."""
    paths = (Path(top, name) for top, _, names in os.walk(folder) for name in names)
    others = [path.relative_to(folder).as_posix() for path in paths if not is_part(path)]
    if others := sorted({*others} - files.keys()):
        raise InputError(
            f"{folder}, the copy of {url}, has {counted(len(others), 'file')} that the URL does not have: "
            f"{abbreviate(others)}. Remove them, or the folder: its files are then copied again."
        )


def _remove_leftovers(folder: Path, files: Container[str]) -> None:
    """Removes what a killed process left, and folders without files."""
    for top, _, names in os.walk(folder, topdown=False):
        for path in (Path(top, name) for name in names):
            if is_part(path) and path.relative_to(folder).as_posix() not in files:
                path.unlink()
        if Path(top) != folder and not os.listdir(top):
            os.rmdir(top)


def _copy(remote: Remote, folder: Path, name: str, size: int, seconds: int) -> int:
    """Copies a file, which appears whole -> its bytes."""
    path = folder / name
    create_folder(path.parent, "FGDATA_ROOT, or --root")
    with atomic(path) as part:
        try:
            with part.open("wb") as file:
                for offset in range(0, size, PIECE):
                    file.write(remote.read(name, min(PIECE, size - offset), offset))
        except FileNotFoundError as fault:
            if fault.filename != str(remote.place / name):
                raise
            raise InputError(f"{fault.filename} was removed while it was copied. Rerun the command.") from None
        os.utime(part, (seconds, seconds))
    return size
