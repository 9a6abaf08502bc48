"""Replaces a folder by a new one in one step; until then the old folder is unchanged."""

import ctypes
import errno
import hashlib
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, describe
from .atomic import sync_folder
from .lock import create_and_lock, is_locked, lock
from .owners import glance, owning

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: fcntl.h, renameat2(2)
_RENAME_SWAP = 2  # macOS: renamex_np(2)


@contextmanager
def replacing(source: Path, out: Path | None) -> Iterator[Path]:
    """Yields a new, empty folder. When the block ends without an error, it is renamed to `out`, or replaces `source`.

    source: the folder to read from; it is locked, and shared with other readers if `out` is given. out: the folder to
    create; None replaces `source`. An owner file in `.new` keeps out other machines, which the locks may not reach.
    Until the rename the new folder is `.new/NAME` beside the target. It is removed if the block raises; the next call
    clears what a killed process left. Raises InputError if `out` exists and is not an empty folder or lies inside
    `source`, if the folder to replace is a mount point or one that this user may not rename, or if another process
    writes to the same folder.
    """
    target = _resolve(out or source)
    hidden = target.parent / ".new"
    new = hidden / target.name
    _refuse_mount_point(target)
    if out is None:
        _refuse_without_right(target)
    if out is not None and _resolve(source) in target.parents:
        raise InputError(f"{out} is inside {source}, the folder that is read. Name a folder beside it: --out FOLDER")
    _refuse_full(out)  # before a folder is created, and again under the lock
    with (
        lock(source, shared=out is not None),
        create_and_lock(new),
        owning(hidden, f"is writing {target}", prefix=_owner_prefix(target.name)),
    ):
        try:
            _refuse_full(out)
            _remove_aside(new, target)
            for entry in new.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            yield new
            for folder, *_ in os.walk(new):
                sync_folder(Path(folder))
            inside = is_working_folder(target)
            try:
                exchange(new, target) if out is None else new.replace(target)
            except OSError as fault:  # for example of an overlay file system, which cannot rename folders of an image
                raise InputError(
                    f"{target} cannot be replaced: {describe(fault)}. It is unchanged. "
                    "Name another folder: --out FOLDER"
                ) from None
            if inside:
                os.chdir(target)  # the working folder is the old one, which is removed now
            sync_folder(target.parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)  # the unfinished folder, or after an exchange the old one
            with suppress(OSError):  # it may hold the new folder of another set
                hidden.rmdir()


def _owner_prefix(name: str) -> str:
    """How the names of the owner files of a folder begin. Of fixed length: a name may be the longest allowed one."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + "-"


def _refuse_full(out: Path | None) -> None:
    if out is not None and (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder. Name another folder (--out FOLDER), or omit --out")


def _resolve(path: Path) -> Path:
    """Like `Path.resolve`, which raises for a loop of links."""
    return Path(os.path.realpath(path))


def _refuse_mount_point(target: Path) -> None:
    """A mount point cannot be renamed: refused before the work, not after it."""
    if os.path.ismount(target) or str(target) in _list_mount_points():
        raise InputError(f"{target} is a mount point and cannot be replaced. Name another folder: --out FOLDER")


def _refuse_without_right(target: Path) -> None:
    """A folder that this user may not rename: refused before the work, not after it.

    In a sticky folder, such as /tmp or a shared one, only the owner of the folder or of an entry may rename the entry.
    """
    parent, user = target.parent.stat(), os.geteuid()
    why = "" if os.access(target.parent, os.W_OK | os.X_OK) else f"{target.parent} is not writable"
    if parent.st_mode & stat.S_ISVTX and user not in (0, parent.st_uid, target.stat().st_uid):
        why = f"it belongs to another user, and {target.parent} is a folder in which only owners may rename (sticky)"
    if why:
        raise InputError(f"{target} cannot be replaced: {why}. Name another folder: --out FOLDER")


def _list_mount_points() -> set[str]:
    """Linux lists them. `os.path.ismount` misses a folder mounted on another one of the same file system."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return set()
    paths = [line.split()[4] for line in lines]  # spaces and other odd characters are written as \\ooo
    return {os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), path)) for path in paths}


def is_working_folder(folder: Path) -> bool:
    """Whether the working folder of this process is `folder` or below it."""
    try:
        return _resolve(folder) in (Path.cwd(), *Path.cwd().parents)
    except FileNotFoundError:  # it was removed
        return False


def exchange(new: Path, old: Path) -> None:
    """Swaps the names of two folders: in one step if the system supports it, otherwise by three renames.

    If the process is killed between the renames, `recover` restores the old folder after the first one, and `replacing`
    removes it after the second. Raises OSError if a rename fails.
    """
    swap = _system_swap()
    if swap is not None:
        if swap(os.fsencode(new), os.fsencode(old)) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(old))
    aside = _aside(new)
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)


def _aside(new: Path) -> Path:
    """Where the old folder is between the renames of `exchange`."""
    return new.with_name(f"{new.name}.old")


def _remove_aside(new: Path, target: Path) -> None:
    """Removes the old folder that is left if a process was killed after the second rename of `exchange`."""
    aside = _aside(new)
    if not (target.exists() and aside.is_dir()):
        return
    is_other_set = is_locked(aside) or glance(aside.parent, _owner_prefix(aside.name))
    if not is_other_set:
        shutil.rmtree(aside)


def recover(folder: Path) -> None:
    """Gives a folder its name back if a process was killed during the renames of `exchange`. Otherwise does nothing."""
    folder = _resolve(folder)
    aside = _aside(folder.parent / ".new" / folder.name)
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)


def list_leftovers(parent: Path, name: str = "*") -> list[str]:
    """-> a sentence for every folder that `replacing` created below `parent` for a set of this name (default: any).

    Each is being written now, or was left by a killed process; the sentence gives the command that removes or restores
    it.
    """
    news = (parent / ".new").glob("*") if name == "*" else (parent / ".new" / f"{name}{end}" for end in ("", ".old"))
    return [_describe(new) for new in sorted(news) if new.is_dir()]


def _describe(new: Path) -> str:
    name, old = new.name.removesuffix(".old"), new.name.endswith(".old")
    target, quoted = new.parent.parent / name, shlex.quote(str(new))
    if old and not target.exists():
        back = shlex.quote(str(target))
        return f"{new} is the set {name}; a process was killed while replacing it. Restore it: mv {quoted} {back}"
    owner = glance(new.parent, _owner_prefix(name))
    if is_locked(new) or (owner and owner.runs):
        return f"{new}: {name} is being written by `fgdata rebox`, `add` or `coreset`"
    if owner:
        return (
            f"{new}: {owner} began to write {name}. If it no longer runs, the next `fgdata rebox`, `add` or `coreset` "
            f"on {name} removes it"
        )
    return (
        f"{new} was left by a killed `fgdata rebox`, `add` or `coreset`. The next such command on {name} removes it, "
        f"or run: rm -r {quoted}"
    )


def _system_swap():
    """-> a function (new, old) -> 0 on success, the system call that swaps two names; None if there is no such call."""
    library = ctypes.CDLL(None, use_errno=True) if sys.platform in ("linux", "darwin") else None
    if library is None:
        return None
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        return lambda new, old: library.renameat2(_AT_FDCWD, new, _AT_FDCWD, old, _RENAME_EXCHANGE)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return lambda new, old: library.renamex_np(new, old, _RENAME_SWAP)
    return None
