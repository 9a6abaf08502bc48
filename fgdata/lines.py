"""Files that grow line by line."""

import os
from pathlib import Path


def add_line(path: Path, line: str, sync: bool = False) -> None:
    """Adds a line, whole or not at all: what a full disk cut short is taken back before the OSError goes on. Behind
    half a line, which a power cut may leave, it is still a line of its own. `sync`: on the disk when this returns.
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
