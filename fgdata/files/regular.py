"""Opens files from untrusted sources: regular files only."""

import io
import os
import stat
from pathlib import Path

from ..errors import InputError, name_file


class NotRegular(InputError):
    """A folder, a FIFO, a device or a socket where a file should be."""

    def __init__(self, path: Path, mode: int):
        self.fault = f"{path} is {name_kind(mode)}; only a regular file can be read"
        super().__init__(f"{self.fault}. Replace it with the original file.")


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a file for reading in binary. Never waits: a FIFO without a writer would block `open` for ever.

    Args:
        path: The file, or a link to it.

    An error while reading names the file too: Python's own names it only while opening.

    Raises:
        NotRegular: It is a folder, a FIFO, a device or a socket, or a link to one.
        OSError: It does not exist or cannot be opened.

    Example:
        with open_regular(Path("shards/cub/train-000000.idx")) as file:
            header = file.readline(100)
    """
    _check(path, os.stat(path).st_mode)  # before it is opened: opening a device may have an effect
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check(path, os.fstat(handle).st_mode)
        return io.BufferedReader(_NamedFile(path, handle))
    except BaseException:
        os.close(handle)
        raise


class _NamedFile(io.FileIO):
    """A raw file whose errors name it."""

    def __init__(self, path: Path, handle: int):
        super().__init__(handle, "rb")
        self._path = path

    def readinto(self, buffer) -> int | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        with name_file(self._path):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with name_file(self._path):
            return super().readall()


def name_kind(mode: int) -> str:
    """The mode of a file that is not regular -> "a folder", "a FIFO", "a socket" or "a device"."""
    kinds = {"a folder": stat.S_ISDIR, "a FIFO": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((kind for kind, is_kind in kinds.items() if is_kind(mode)), "a device")


def _check(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotRegular(path, mode)
