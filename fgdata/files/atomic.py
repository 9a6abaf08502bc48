"""Files that appear whole or not at all, and files that grow by whole lines."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; it replaces `path` when the block ends without an error.

    The data is on the disk before the rename, so `path` is never seen half-written, also after a power cut. When the
    block fails, the temporary file is removed and `path` is unchanged.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file through `atomic`."""
    with atomic(path) as part:
        part.write_bytes(data)


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Writes a file that is on the disk when this returns; for files of a folder that appears by a rename."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, where the system allows a folder to be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_line(path: Path, line: str, sync: bool = False) -> None:
    """Appends a line, whole or not at all: on a full disk the part already written is removed and OSError raised.

    If the file ends in an incomplete line, as a power cut may leave it, the new line still starts on a line of its own.
    With `sync` the line is on the disk when this returns.
    """
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = file.read(1) not in (b"", b"\n")
        left = memoryview(("\n" * torn + line + "\n").encode())
        try:
            while left:
                left = left[file.write(left) :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
