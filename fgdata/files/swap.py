"""A folder that is replaced by another in one step, whatever happens while the other is being written."""

import ctypes
import errno
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError
from .atomic import sync_folder
from .lock import create_and_lock, is_locked, lock

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: fcntl.h, renameat2(2)
_RENAME_SWAP = 2  # macOS: renamex_np(2)


@contextmanager
def replacing(source: Path, out: Path | None) -> Iterator[Path]:
    """Yields a new, empty folder; when the block ends without an error it becomes `out`, or takes the place of source.

    It lies in `.new/` beside the target until then, and goes when the block fails. What a killed run left there is
    cleared by the next. InputError when `out` holds something already, or another process works on the same folder.
    """
    target = (out or source).resolve()
    nursery = target.parent / ".new"
    new = nursery / target.name
    _refuse_full(out)  # before a folder is made, and again once no other process can be filling it
    with lock(source), create_and_lock(new):
        try:
            _refuse_full(out)
            for entry in new.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            yield new
            for folder, *_ in os.walk(new):
                sync_folder(Path(folder))
            if out is None:
                exchange(new, target)
            else:
                new.replace(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)  # the unfinished folder, or after an exchange the old one
            with suppress(OSError):  # another set's new folder may lie there
                nursery.rmdir()


def _refuse_full(out: Path | None) -> None:
    if out is not None and (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder. Name another: --out FOLDER, or leave --out away")


def exchange(new: Path, old: Path) -> None:
    """Two folders swap their names: in one step where the system can, else in two, the old set going last."""
    swap = _system_swap()
    if swap is not None:
        if swap(os.fsencode(new), os.fsencode(old)) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(old))
    aside = new.with_name(f"{new.name}.old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def recover(folder: Path) -> None:
    """Undoes an exchange in two steps that was killed between them: the old set gets its name back."""
    folder = folder.resolve()
    aside = folder.parent / ".new" / f"{folder.name}.old"
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)


def left_behind(parent: Path, name: str = "*") -> list[str]:
    """A sentence for every folder that `replacing` made for sets of this name: it is being written, or was left there.

    Only a killed process leaves one, for nothing of it runs then that could clear up.
    """
    news = (parent / ".new").glob("*") if name == "*" else (parent / ".new" / f"{name}{end}" for end in ("", ".old"))
    return [_left(new) for new in sorted(news) if new.is_dir()]


def _left(new: Path) -> str:
    name, old = new.name.removesuffix(".old"), new.name.endswith(".old")
    target, quoted = new.parent.parent / name, shlex.quote(str(new))
    if old and not target.exists():
        back = shlex.quote(str(target))
        return f"{new} is the set {name}, stopped while it was replaced. Put it back: mv {quoted} {back}"
    if is_locked(new):
        return f"{new}: {name} is being written by `fgdata rebox` or `fgdata add` at this moment"
    clears = "" if old else f"the next one of {name} clears it, or: "
    return f"{new} was left by a stopped `fgdata rebox` or `fgdata add`: {clears}rm -r {quoted}"


def _system_swap():
    """(new, old) -> 0 when done, by the system call that swaps two names; None where there is none."""
    library = ctypes.CDLL(None, use_errno=True) if sys.platform in ("linux", "darwin") else None
    if library is None:
        return None
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        return lambda new, old: library.renameat2(_AT_FDCWD, new, _AT_FDCWD, old, _RENAME_EXCHANGE)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return lambda new, old: library.renamex_np(new, old, _RENAME_SWAP)
    return None
