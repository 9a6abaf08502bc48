"""Finds the images in a folder: which names are images, which are never data, and what is left out.

Only regular files are images. A link that leads nowhere counts as the file that is missing, so that a build stops at
it. Hidden files and folders, and the copies and thumbnails that notebooks, network drives, archives and desktops leave
behind, are never data.
"""

import errno
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..errors import abbreviate, counted
from ..files.regular import name_kind
from ..shards.manifest import BUILDING, MANIFEST, PULLING

SUFFIXES = frozenset(".jfif .jpe .jpeg .jpg .png .ppm .pgm .webp .bmp .tif .tiff .gif .avif".split())
"""Suffixes of images, in lower case; any case is accepted."""
_NEVER_DATA = frozenset(
    ("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "lost+found")
    + ("thumbs.db", "desktop.ini")
)

_OF_A_SET = (MANIFEST, BUILDING, PULLING)


def is_never_data(name: str) -> bool:
    """Whether a file or folder of this name is hidden (.DS_Store, ._x.jpg, .ipynb_checkpoints) or a system's own."""
    return name.startswith(".") or name.lower() in _NEVER_DATA


def normalize(name: str) -> str:
    """A name in Unicode's form NFC: "é" as one character, whichever form the file system stores."""
    return unicodedata.normalize("NFC", name)


@dataclass
class LeftOut:
    """What a scan left out, for a dataset's note."""

    by_suffix: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    never_data: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    """Images beside the class folders."""
    folders: list[str] = field(default_factory=list)
    """Folders beside the images, where only one folder is read."""
    sets: list[str] = field(default_factory=list)
    """Shard sets, or folders of them, beside the class folders."""
    special: list[str] = field(default_factory=list)
    """FIFOs, sockets and devices, whatever their names."""
    links: list[str] = field(default_factory=list)
    """Links to a folder that contains them, or that was already read."""

    def notes(self) -> list[str]:
        """One line for each kind of thing that was left out."""
        lines = []
        if self.files:
            suffixes = ", ".join(
                f"{suffix or 'no suffix'} {count:,}" for suffix, count in sorted(self.by_suffix.items())
            )
            lines.append(
                f"left out {counted(len(self.files), 'non-image file')} ({suffixes}): "
                f"{abbreviate(self.files)}; suffixes of images: {' '.join(sorted(SUFFIXES))}"
            )
        if self.special:
            are = "is not a regular file" if len(self.special) == 1 else "are not regular files"
            lines.append(f"left out {len(self.special):,} that {are}: {abbreviate(self.special)}")
        if self.outside:
            lines.append(
                f"left out {counted(len(self.outside), 'image')} in no class folder: {abbreviate(self.outside)}"
            )
        if self.folders:
            lines.append(
                f"left out {counted(len(self.folders), 'folder')} beside the images: {abbreviate(self.folders)}"
            )
        if self.sets:
            lines.append(f"left out {counted(len(self.sets), 'folder')} of shard sets: {abbreviate(self.sets)}")
        if self.never_data:
            kinds = "file or folder" if len(self.never_data) == 1 else "files and folders"
            lines.append(f"left out {len(self.never_data):,} hidden or system {kinds}: {abbreviate(self.never_data)}")
        if self.links:
            lines.append(
                f"left out {counted(len(self.links), 'duplicate or circular folder link')}: {abbreviate(self.links)}"
            )
        return lines


def list_folders(folder: Path) -> list[str]:
    """Names of the subfolders that can be data, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if not is_never_data(entry.name) and _is_folder(entry))


def holds_sets(folder: Path) -> bool:
    """Whether a folder is a shard set, finished or not, or has subfolders and all of them are. None has an image."""
    is_set, inner = _look_for_set(folder)
    return is_set or (bool(inner) and all(_look_for_set(folder / name)[0] for name in inner))


def _look_for_set(folder: Path) -> tuple[bool, list[str]]:
    """-> whether a folder is a shard set, and its subfolders that can be data. It stops at an image: (False, []).

    A folder with a manifest.json and subfolders or images is a class.
    """
    inner, marked = [], False
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_image(entry):
                return False, []
            if not is_never_data(entry.name) and _is_folder(entry):
                inner.append(entry.name)
            marked = marked or entry.name in _OF_A_SET
    return marked and not inner, inner


def leave_out_beside_classes(root: Path, halves: Sequence[str], left_out: LeftOut) -> None:
    """Adds what is beside the class folders of each half to `left_out`. A half is "" or a folder's name and a slash.

    Beside the halves, only hidden and system files are added: lists and texts belong there.
    """
    for folder in dict.fromkeys(("", *halves)):
        for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
            path = f"{folder}{entry.name}"
            if is_never_data(entry.name):
                left_out.never_data.append(path)
            elif folder in halves and _is_folder(entry):
                left_out.sets += [f"{path}/"] if holds_sets(root / path) else []
            elif folder in halves:
                left_out.outside.append(path) if _is_image(entry) else _leave_out(entry, path, left_out)


def list_images(folder: Path, left_out: LeftOut) -> list[str]:
    """Names of the images directly in a folder, sorted. What else is there is added to `left_out`."""
    names = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if is_never_data(entry.name):
            left_out.never_data.append(entry.name)
        elif _is_image(entry):
            names.append(entry.name)
        elif _is_folder(entry):
            left_out.folders.append(f"{entry.name}/")
        else:
            _leave_out(entry, entry.name, left_out)
    return names


def walk_images(root: Path, folder: str, left_out: LeftOut) -> list[str]:
    """Paths of all images below root/folder, relative to `root`, sorted. What else is there is added to `left_out`.

    Each folder is read once, however many links lead to it, so that a loop of links ends.
    """
    top = (root / folder).resolve()
    seen = {_identity(path) for path in (top, *top.parents)}
    paths: list[str] = []
    todo = [folder]
    while todo:
        current = todo.pop()
        for entry in sorted(os.scandir(root / current), key=lambda entry: entry.name):
            path = f"{current}/{entry.name}"
            if is_never_data(entry.name):
                left_out.never_data.append(path)
            elif _is_folder(entry):
                if (identity := _identity(entry.path)) in seen:
                    left_out.links.append(path)
                else:
                    seen.add(identity)
                    todo.append(path)
            elif _is_image(entry):
                paths.append(path)
            else:
                _leave_out(entry, path, left_out)
    return sorted(paths)


def _is_image(entry: os.DirEntry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in SUFFIXES and _is_file(entry)


def _is_file(entry: os.DirEntry) -> bool:
    """Whether it is a regular file, a link to one, or a link that leads nowhere."""
    return _leads_nowhere(entry) or entry.is_file()


def _is_folder(entry: os.DirEntry) -> bool:
    return not _leads_nowhere(entry) and entry.is_dir()


def _leads_nowhere(entry: os.DirEntry) -> bool:
    """Whether it is a link to something that does not exist, or to itself."""
    try:
        return entry.is_symlink() and not entry.stat()
    except OSError as fault:
        if fault.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return True


def _leave_out(entry: os.DirEntry, path: str, left_out: LeftOut) -> None:
    if not _is_file(entry):
        left_out.special.append(f"{path} ({name_kind(entry.stat().st_mode)})")
        return
    left_out.by_suffix[PurePath(path).suffix.lower()] += 1
    left_out.files.append(path)


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
