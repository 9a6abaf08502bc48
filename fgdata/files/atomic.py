"""Files that appear whole or not at all, and files that grow by whole lines."""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, describe, is_failing_storage, is_reported, name_file

_PART = re.compile(r".+\.[0-9a-f]{8}\.part|.+\.(tar|idx|h5|json)\.[0-9]+\.part")  # the second: of older versions
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; it replaces `path` when the block ends without an error.

    The data is synced to disk before the rename, so `path` is never incomplete, even after a power cut. If the block
    raises, the temporary file is removed and `path` is unchanged.

        with atomic(Path("report.html")) as part:
            part.write_text(page)
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # its own even on another machine
    try:
        with name_file(path):
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def is_part(path: Path) -> bool:
    """Whether a path has the name of a temporary file of `atomic`."""
    return _PART.fullmatch(path.name) is not None


def remove_parts(folder: Path) -> None:
    """Removes the temporary files that killed processes left in a folder. No other process may be writing to it."""
    for path in folder.iterdir():
        if is_part(path):
            path.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` to `path` through `atomic`: the file appears whole or not at all."""
    with atomic(path) as part:
        part.write_bytes(data)


def write_once(path: Path, data: bytes) -> bool:
    """Writes a file unless it exists -> whether this call created it. The file appears whole.

    Of several processes that call this at once, also on several machines, one creates the file: it is created by a hard
    link, which fails if the name exists. On a file system without hard links the last one wins.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        write_synced(part, data)
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError:
            if path.exists():
                return False
            part.replace(path)
        return True
    finally:
        with suppress(OSError):
            part.unlink()


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Writes a file and syncs it to disk before returning. For files of a folder that is renamed into place later."""
    with name_file(path), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Syncs the names in a folder to disk. Does nothing on systems that cannot open or sync a folder.

    Raises OSError, which names the folder, if the disk is full or fails.
    """
    with name_file(folder):
        try:
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as fault:
            if fault.errno in _FULL or is_failing_storage(fault):
                raise


def append_line(path: Path, line: str, sync: bool = False) -> None:
    """Appends a line to a file, whole or not at all. Creates the file if it does not exist.

    path: the file. line: the text, without its line break. sync: also sync the file to disk before returning.
    If the file ends in an incomplete line (after a power cut), the new line still starts on a line of its own.
    Raises OSError, for example on a full disk, after removing what was written of the line; InputError for a file that
    cannot be appended to, such as one of the kernel.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file: no line can be appended. Move it away and rerun the command.")
    with name_file(path), path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        incomplete = file.read(1) not in (b"", b"\n")
        unwritten = memoryview(("\n" * incomplete + line + "\n").encode())
        try:
            while unwritten:
                unwritten = unwritten[file.write(unwritten) :]
            if sync:
                os.fsync(file.fileno())
        except OSError as fault:
            with suppress(OSError):
                file.truncate(end)
            if is_reported(fault):
                raise
            raise InputError(
                f"{path} takes no more lines: {describe(fault)}. Move it away and rerun the command."
            ) from None
