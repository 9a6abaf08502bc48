"""Who is writing what: owner files with a lease, for a folder that several machines write to.

`flock` on a folder does not reach other machines on NFS and Lustre. Each process therefore keeps a file of its own,
`HOST-PID-TOKEN.owner`, which names its share of the work, and rewrites it every BEAT_SECONDS with a higher count. A
process is alive while its file changes. The reader measures this with its own clock, so clocks need not agree. On the
same machine, a process that no longer exists is dead at once.

A process that was silent for longer than the lease, such as a machine that was suspended, loses its share to another
one. Both may go on: their temporary names are random, each file appears whole, and the bytes are the same. Before a
process removes leftovers it asks `find_live`, so that it never removes the files of the one that took over.
"""

import json
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from shlex import quote

from ..errors import InputError, warn_once
from .atomic import is_part, write_atomic
from .json import read_json

BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""An owner file that has not changed for this long belongs to a process that is dead, or lost its file system."""
ALL = 1 << 50
"""More shards than any set has."""
SILENT_SECONDS = 600.0
"""For `seems_owned`: many leases, because the clocks of two machines may differ by minutes."""


@dataclass(frozen=True)
class Owner:
    """The content of an owner file. It owns the shards first <= number < end, in the order of the set."""

    host: str
    machine: str
    pid: int
    first: int
    end: int
    beat: int
    started: str = ""
    """When the process started, by its machine's kernel: another process may get its id later. Empty if unknown."""
    holds: bool = True
    """False while it waits to learn whether another owner is alive."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def runs(self) -> bool | None:
        """Whether it runs; None if it is a process of another machine, which only its file can tell."""
        here = self.machine == _machine() and os.name == "posix"
        return _runs(self.pid, self.started) if here else None


@contextmanager
def owning(
    folder: Path, does: str, first: int = 0, end: int = ALL, prefix: str = "", waits: bool = False
) -> Iterator[Path]:
    """Owns the shards first <= number < end until the block ends -> the owner file. Creates `folder`.

    folder: where the owner files are; removed at the end if it is empty. does: completes a message about another owner:
    "is building these shards of shards/cub". prefix: only files whose names start with it count. waits: wait until the
    other owner ends, and say so once.
    Raises InputError if a live process owns one of the shards, unless it waits. It may wait LEASE_SECONDS to learn
    whether a process on another machine is alive.
    """
    host = re.sub("[^A-Za-z0-9.]", "-", platform.node())[:80] or "unknown"
    file = _OwnFile(folder / f"{prefix}{host}-{os.getpid()}-{secrets.token_hex(4)}.owner", first, end)
    file.create(holds=False)  # before looking for others: of two that start together, at least one sees the other
    stop = threading.Event()
    beating = threading.Thread(target=file.renew, args=(stop,), daemon=True)
    beating.start()
    try:
        while other := find_live(folder, prefix, first, end, file.path):
            if not waits:
                raise InputError(_describe(other, does))
            warn_once(f"{other} {does}; waiting for it")
            time.sleep(_glance_seconds())
        file.create(holds=True)
        yield file.path
    finally:
        stop.set()
        beating.join()
        with suppress(OSError):
            file.path.unlink(missing_ok=True)
            _remove_unfinished(folder)
            folder.rmdir()  # a build that was refused leaves nothing


class _OwnFile:
    """The owner file of this process."""

    def __init__(self, path: Path, first: int, end: int):
        pid = os.getpid()
        self.path, self._lock = path, threading.Lock()
        self._owner = Owner(platform.node(), _machine(), pid, first, end, -1, _state(pid)[1], holds=False)

    def write(self, holds: bool | None = None) -> None:
        """Writes it with the next count. holds: the new value; None keeps it."""
        with self._lock:
            owner = replace(self._owner, beat=self._owner.beat + 1)
            self._owner = owner if holds is None else replace(owner, holds=holds)
            write_atomic(self.path, (json.dumps(asdict(self._owner)) + "\n").encode())

    def create(self, holds: bool) -> None:
        """Writes it into a folder that another process, which was refused or finished the set, may be clearing."""
        for _ in range(10):
            with suppress(FileNotFoundError):
                self.path.parent.mkdir(exist_ok=True)
                return self.write(holds)
        raise InputError(f"{self.path.parent} is removed again and again by another process. Rerun the command.")

    def renew(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            with suppress(OSError):  # a full disk or a failing drive: the work itself reports it
                self.write()


def find_live(
    folder: Path,
    prefix: str = "",
    first: int = 0,
    end: int = ALL,
    own: Path | None = None,
    holding: bool = False,
) -> Owner | None:
    """-> a live process that owns a shard of first <= number < end. Removes the files of dead ones.

    own: the owner file of the caller, which does not count. holding: those that still wait for others do not count.
    It waits up to LEASE_SECONDS for owners on other machines. Of several that wait for each other, the one whose file
    has the first name goes on.
    """
    seen = {path: owner for path, owner in _list(folder, prefix) if path != own}
    seen = {path: owner for path, owner in seen.items() if owner.first < end and first < owner.end}
    seen = {path: owner for path, owner in seen.items() if owner.holds or not holding}
    for path, owner in list(seen.items()):
        if owner.holds and owner.runs:
            return owner
        if owner.runs is False:
            _remove(path, seen)
    if seen:
        warn_once(
            f"{', '.join(map(str, seen.values()))} began to write to {folder.parent}. Waiting {LEASE_SECONDS:.0f} s to "
            "see whether it still does."
        )
    until = time.monotonic() + LEASE_SECONDS
    while seen and time.monotonic() < until:
        time.sleep(_glance_seconds())
        for path, before in list(seen.items()):
            now = _read(path)
            if now is None:
                del seen[path]
            elif now != before and now.holds:
                return now
            elif now != before and own is not None and own.name < path.name:
                del seen[path]  # it began to wait before this change, and waits until this process holds or ends
            elif now != before:
                seen[path], until = now, time.monotonic() + LEASE_SECONDS
    for path in list(seen):
        _remove(path, seen)
    return None


def _glance_seconds() -> float:
    """Time between two looks at the files of others."""
    return min(1.0, LEASE_SECONDS / 10)


def glance(folder: Path, prefix: str = "") -> Owner | None:
    """-> an owner that is not known to be dead, without waiting."""
    return next((owner for _, owner in _list(folder, prefix) if owner.runs is not False), None)


def seems_owned(folder: Path) -> bool:
    """Whether a process owns a folder, for showing it: one of this machine that runs, or one of another machine (or of
    this one before it was restarted) whose file was written in the last SILENT_SECONDS by the clock of the files. What
    is written is decided by `find_live`, which needs no clock.
    """
    for path, owner in _list(folder):
        with suppress(OSError):
            if owner.runs or (owner.runs is None and time.time() - path.stat().st_mtime < SILENT_SECONDS):
                return True
    return False


class Watch:
    """Tells which folders have a live owner, without waiting: for a process that has other work meanwhile."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Owner, float]] = {}

    def is_owned(self, folder: Path) -> bool:
        """Whether a process owns a folder. One of another machine counts until its file is unchanged for LEASE_SECONDS
        since the first call that saw it so.
        """
        return any(owner.runs or (owner.runs is None and self._is_fresh(path, owner)) for path, owner in _list(folder))

    def _is_fresh(self, path: Path, owner: Owner) -> bool:
        before, since = self._seen.get(path, (None, 0.0))
        if owner != before:
            self._seen[path] = owner, (since := time.monotonic())
        return time.monotonic() - since < LEASE_SECONDS


def _describe(owner: Owner, does: str) -> str:
    seconds = owner.beat * BEAT_SECONDS
    age = f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
    return (
        f"{owner} {does}; it began about {age} ago. Wait until it ends, then rerun the command. If it never ends, "
        f"stop it (on {quote(owner.host)}: kill {owner.pid}), and rerun the command after {LEASE_SECONDS:.0f} s"
    )


def _list(folder: Path, prefix: str = "") -> list[tuple[Path, Owner]]:
    name = re.compile(re.escape(prefix) + r"[A-Za-z0-9.-]+\.owner")
    try:
        paths = [path for path in sorted(folder.iterdir()) if name.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(path, owner) for path in paths if (owner := _read(path))]


def _remove(path: Path, seen: dict[Path, Owner]) -> None:
    with suppress(OSError):
        path.unlink()
    del seen[path]


def _remove_unfinished(folder: Path) -> None:
    """Removes owner files that were never finished: their processes were killed while they wrote the first time.

    A live process that is writing its first one now finds it gone, and `create` writes another one.
    """
    for path in folder.iterdir():
        owner = path.with_suffix("").with_suffix("")  # without `.TOKEN.part`
        if is_part(path) and owner.suffix == ".owner" and path.is_file() and not owner.exists():
            path.unlink(missing_ok=True)


def _read(path: Path) -> Owner | None:
    """None if the file has gone. A damaged one is taken as that of a process that owns every shard."""
    try:
        values = read_json(path, "", most_bytes=1 << 16)
    except FileNotFoundError:
        return None
    except (InputError, OSError):
        values = None
    kinds = {field.name: field.type for field in fields(Owner)}
    required = {field.name for field in fields(Owner)} - {"started", "holds"}  # of older versions
    if (
        not isinstance(values, dict)
        or not required <= values.keys()
        or any(type(values[name]) is not kind for name, kind in kinds.items() if name in values)
        or min(values["pid"], values["first"], values["end"], values["beat"]) < 0
    ):
        return Owner("an unknown machine", "", 0, 0, ALL, 0)
    return Owner(**{name: values[name] for name in kinds if name in values})


def _machine() -> str:
    """What two processes have in common exactly if they see each other's ids: the boot, and the namespace of ids."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _runs(pid: int, started: str) -> bool:
    """Whether a process of this machine runs. One that has ended but whose parent has not noticed does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    state, start = _state(pid)
    return state not in ("Z", "X") and (not started or not start or started == start)


def _state(pid: int) -> tuple[str, str]:
    """The state of a process and its start in ticks since the boot (proc(5)). Empty where the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], words[19]
    except (OSError, IndexError, ValueError):
        return "", ""
