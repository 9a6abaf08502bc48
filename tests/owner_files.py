"""Owner files of a process on another machine."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fgdata.files.atomic import write_atomic


def from_afar(folder: Path, prefix: str = "", **values) -> Path:
    """An owner file of a process on another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prefix}node7-42-00000000.owner"
    owner = {"host": "node7", "machine": "another", "pid": 42, "first": 0, "end": 3, "beat": 0}
    write_atomic(path, json.dumps(owner | values).encode())
    return path


@contextmanager
def living(folder: Path, prefix: str = "", **values) -> Iterator[Path]:
    """A process on another machine that renews its owner file."""
    path, stop = from_afar(folder, prefix, **values), threading.Event()

    def beat():
        count = 50  # a second of beats
        while not stop.wait(0.02):
            with suppress(OSError):  # the folder is being removed
                from_afar(folder, prefix, **values, beat=(count := count + 1))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield path
    finally:
        stop.set()
        thread.join()
