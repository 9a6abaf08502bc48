"""Who is building which shards: owner files with a lease, for a folder that several machines write to.

`flock` on a folder does not reach other machines on NFS and Lustre. Each process therefore keeps a file of its own,
`.building/HOST-PID-TOKEN.owner`, which names its shards, and rewrites it every BEAT_SECONDS with a higher count. A
process is alive while its file changes. The reader measures this with its own clock, so clocks need not agree. On the
same machine, a process that no longer exists is dead at once.

Two processes that build the same shard do no harm: their temporary names are random, each file appears whole, and the
bytes are the same. Owner files save that work, and make `finish` and a build without --part wait for the parts.
"""

import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, warn
from ..files.atomic import write_atomic
from ..files.json import read_json
from ..shards.manifest import BUILDING, dump
from ..shards.schema import COUNT, TEXT, find_fault

BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""An owner file that has not changed for this long belongs to a process that is dead, or lost its file system."""
_SHAPE = {"host": TEXT, "machine": TEXT, "pid": COUNT, "first": COUNT, "end": COUNT, "beat": COUNT}


@dataclass(frozen=True)
class _Owner:
    """The content of an owner file. It owns the shards first <= number < end, in the order of the set."""

    host: str
    machine: str
    pid: int
    first: int
    end: int
    beat: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def owning(out: Path, first: int, end: int) -> Iterator[None]:
    """Owns the shards first <= number < end of an unfinished set until the block ends. Creates `.building`.

    Raises InputError if a live process owns one of them. It may wait LEASE_SECONDS to learn whether a process on
    another machine is alive.
    """
    host = re.sub("[^A-Za-z0-9.]", "-", platform.node())[:80] or "unknown"
    path = out / BUILDING / f"{host}-{os.getpid()}-{secrets.token_hex(4)}.owner"
    stop = threading.Event()

    def write(beat: int) -> None:
        values = {"host": platform.node(), "machine": _machine(), "pid": os.getpid()}
        write_atomic(path, dump(values | {"first": first, "end": end, "beat": beat}))

    def renew() -> None:
        beat = 1
        while not stop.wait(BEAT_SECONDS):
            with suppress(OSError):  # a full disk or a failing drive: the build itself reports it
                write(beat)
                beat += 1

    _create(path, write)  # before looking for others: of two that start together, at least one sees the other
    beating = threading.Thread(target=renew, daemon=True)
    beating.start()
    try:
        _refuse_live(out, path, first, end)
        yield
    finally:
        stop.set()
        beating.join()
        with suppress(OSError):
            path.unlink()
            path.parent.rmdir()  # a build that was refused leaves nothing


def begun_in_parts(out: Path) -> bool:
    """Whether a folder holds an owner file: of a part that runs, or of one that was killed."""
    return any((out / BUILDING).glob("*.owner"))


def _create(path: Path, write: Callable[[int], None]) -> None:
    """Writes the first version of an owner file, into a folder that a refused part may be removing."""
    for _ in range(10):
        with suppress(FileNotFoundError):
            path.parent.mkdir(exist_ok=True)
            return write(0)
    raise InputError(f"{path.parent} is removed again and again by another process. Rerun this command.")


def _refuse_live(out: Path, own: Path, first: int, end: int) -> None:
    """Raises InputError if a live process owns a shard of first <= number < end. Removes the files of dead ones."""
    paths = [path for path in (out / BUILDING).glob("*.owner") if path != own]
    seen = {path: owner for path in paths if (owner := _read(path)) and owner.first < end and first < owner.end}
    for path, owner in list(seen.items()):
        if owner.machine == _machine():
            if _runs(owner.pid):
                _refuse(out, owner)
            _remove(path, seen)
    if seen:
        warn(
            f"{', '.join(map(str, seen.values()))} began to build these shards. Waiting {LEASE_SECONDS:.0f} s to see "
            "whether it still does."
        )
    until = time.monotonic() + LEASE_SECONDS
    while seen and time.monotonic() < until:
        time.sleep(min(1.0, LEASE_SECONDS / 10))
        for path, before in list(seen.items()):
            now = _read(path)
            if now is None:
                del seen[path]
            elif now != before:
                _refuse(out, now)
    for path in list(seen):
        _remove(path, seen)


def _refuse(out: Path, owner: _Owner) -> None:
    raise InputError(
        f"{owner} is building these shards of {out}. Wait until it ends, then rerun this command. If it never ends, "
        f"stop it, and rerun this command after {LEASE_SECONDS:.0f} s"
    )


def _remove(path: Path, seen: dict[Path, _Owner]) -> None:
    with suppress(OSError):
        path.unlink()
    del seen[path]


def _read(path: Path) -> _Owner | None:
    """None if the file has gone. A damaged one is taken as that of a process that owns every shard."""
    try:
        values = read_json(path, "", most_bytes=1 << 16)
    except FileNotFoundError:
        return None
    except (InputError, OSError):
        values = None
    if not isinstance(values, dict) or find_fault(values, _SHAPE):
        return _Owner("an unknown machine", "", 0, 0, COUNT_OF_ALL, 0)
    return _Owner(**{name: values[name] for name in _SHAPE})


COUNT_OF_ALL = 1 << 50
"""More shards than any set has: an owner of first 0 and this end owns the whole set."""


def _machine() -> str:
    """What two processes have in common exactly if they see each other's ids: the boot, and the namespace of ids."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
