"""Creates and locks the folders that commands write to: one process of this machine at a time.

Where the system or the file system has no locks, and between machines, owner files do the same (owners.py).
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, describe

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What flock raises on file systems without it. NFS has none for folders: EBADF, as a folder cannot be opened to write.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF}


def create_folder(folder: Path, flag: str) -> None:
    """Creates a folder and its parents.

    flag: the flag that names the folder, for the message. Raises InputError if the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        leads_nowhere = folder.is_symlink() and not folder.exists()
        reason = "it is a link that leads nowhere, or back to itself" if leads_nowhere else describe(fault)
        raise InputError(
            f"The folder {folder} cannot be created: {reason}. Name another folder: {flag} FOLDER"
        ) from None


@contextmanager
def create_and_lock(folder: Path, shared: bool = False, flag: str = "--out") -> Iterator[None]:
    """Creates a folder and its parents, and locks it (as `lock` does) until the block ends.

    shared: other processes may hold a shared lock at the same time, but no exclusive one. flag: the flag that names
    the folder, for messages.

    If the block raises, the folders created here are removed again if they are empty, before the lock is released.
    Raises InputError if the folder cannot be created, or if another process holds its lock; that process owns the
    folder, so nothing is removed then.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    handle = _open_and_lock(folder, flag, shared)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in created:
                path.rmdir()
        raise
    finally:
        _unlock(handle)


@contextmanager
def lock(folder: Path, shared: bool = False) -> Iterator[None]:
    """Locks an existing folder until the block ends, so that two processes never write the same set at once.

    shared: for a process that only reads the folder: others may too, but none may replace it.
    On a file system without locks the block runs without one.
    Raises InputError if the folder does not exist, or if another process holds its lock.
    """
    handle = _open_and_lock(folder, None, shared)
    try:
        yield
    finally:
        _unlock(handle)


def is_locked(folder: Path) -> bool:
    """Whether a process writes to a folder now: it holds the lock, not shared. True if this cannot be determined."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        return _try_lock(handle, shared=True) is not True
    finally:
        os.close(handle)


def _try_lock(handle: int, shared: bool = False) -> bool | None:
    """Whether this process holds the lock now; None if the system or the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as fault:
        if fault.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _try_for_a_moment(handle: int, shared: bool) -> bool | None:
    """`_try_lock`, repeated: `is_locked` of another process takes the lock too, and releases it at once."""
    for seconds in (0.01, 0.05, 0.2):
        if (locked := _try_lock(handle, shared)) is not False:
            return locked
        time.sleep(seconds)
    return _try_lock(handle, shared)


def _open_and_lock(folder: Path, flag: str | None, shared: bool) -> int | None:
    """-> an open handle that holds the lock of the folder at this path. None on Windows, which has no such lock.

    flag: the flag that names the folder, which is created; None if it must exist.
    """
    while True:
        if flag:
            create_folder(folder, flag)
        if fcntl is None:
            return None
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # removed by the process that created it
            if flag:
                continue
            raise InputError(f"The folder {folder} does not exist, or was just removed.") from None
        try:
            locked = _try_for_a_moment(handle, shared)
            if locked is False:
                use, advice = "using", "then rerun the command"
                if flag:
                    use, advice = "writing to", f"or name another folder: {flag} FOLDER"
                raise InputError(f"Another process is {use} {folder}. Wait until it ends, {advice}")
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the folder was removed or replaced between open and flock: try again with the current one


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
