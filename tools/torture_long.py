"""Build, train and evaluate in a loop, in this process and as commands: what grows from round to round.

Most rounds call the commands in this process, where a leak adds up. One in six starts them as processes, which may
leave files, shared memory or other processes behind. Shared memory is the machine's: run it alone, since a build that
is killed leaves files there. After every round this process is measured; the growth is the slope of a line through the
rounds of one kind, with its 95 % interval.
"""

import ctypes
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from torture_commands import Runner, last_line
from torture_runs import TRAIN
from torture_sets import BUILD

ROUND = (BUILD, TRAIN, ("fgtrain", "eval", "knn", "run", "--k", "2"))
KINDS = {"in this process": 5, "as commands": 1}
"""How a round runs its commands -> how many such rounds follow one another."""
WARM_UP, FEWEST = 3, 3
"""Rounds of each kind that are not counted, since libraries load and caches fill; and how many must follow."""
MEASURES = {
    "resident memory, MB": lambda: (
        int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    ),
    "allocated memory, MB": lambda: allocated() / 1e6,
    "blocks of Python": sys.getallocatedblocks,  # gc.get_objects() would allocate 4 MB itself
    "handles": lambda: len(os.listdir("/proc/self/fd")),
    "threads": lambda: len(os.listdir("/proc/self/task")),
    "processes": lambda: len(own_processes()),
    "shared memory, files": lambda: len(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else 0,
    "temporary files": lambda: sum(len(files) for _, _, files in os.walk(tempfile.gettempdir())),
}
"""What is measured -> its value now, which must not grow."""
SMALLEST = {"resident memory, MB": 0.05, "allocated memory, MB": 0.05, "blocks of Python": 800.0}
"""Growth a round below which a measure counts as flat; 0 for the others. An hour has a few hundred rounds; 800 blocks
of 64 bytes are 0.05 MB."""


def long_run(minutes: float) -> dict[str, Any]:
    """Runs rounds for so long and prints what each measure did -> the fields of a row of the table."""
    start, before = time.monotonic(), tempfile.tempdir
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    (folder / "tmp").mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
    values: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    numbers: dict[str, list[int]] = {kind: [] for kind in KINDS}
    lost, number = [], 0
    try:
        while time.monotonic() - start < 60 * minutes and not lost:
            for kind in (kind for kind, count in KINDS.items() for _ in range(count)):
                lost += run_round(folder / "work", kind == "as commands")
                gc.collect()
                trim()
                values[kind].append([float(measure()) for measure in MEASURES.values()])
                numbers[kind].append(number := number + 1)
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        shutil.rmtree(folder, ignore_errors=True)
    print("\n| measure | rounds | first | last | growth a round, 95 % interval |\n|---|---|---|---|---|")
    for kind, rounds in values.items():
        if len(rounds) < WARM_UP + FEWEST:
            lost.append(f"{len(rounds)} rounds {kind} show nothing; at least {WARM_UP + FEWEST}: --minutes")
            continue
        for name, series in zip(MEASURES, zip(*rounds[WARM_UP:])):
            low, high = growth(numbers[kind][WARM_UP:], series)
            ends = f"{series[0]:,.1f} | {series[-1]:,.1f}"
            print(f"| {name}, {kind} | {len(series)} | {ends} | {low:+.3f} to {high:+.3f} |")
            if low > SMALLEST.get(name, 0.0):
                lost.append(f"{name}, {kind}: {low:+.3f} to {high:+.3f} a round")
    print(*("", *lost), sep="\n")
    print("\n| test | tries | survived | lost | time | outcomes |\n|---|---|---|---|---|---|", flush=True)
    tries = sum(len(rounds) for rounds in values.values())
    seconds = round(time.monotonic() - start, 1)
    return {"tries": tries, "survived": 0 if lost else tries, "lost": lost, "seconds": seconds}


def run_round(folder: Path, as_commands: bool) -> list[str]:
    """Builds, trains and evaluates in an empty folder, and removes it -> which command failed, and how."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for words in ROUND:
        code, output = Runner(False).run(folder, *words) if as_commands else call(folder, *words)
        if code:
            return [f"{' '.join(words)} ended with {code}: {last_line(output)}"]
    shutil.rmtree(folder)
    return []


def call(folder: Path, program: str, *arguments: str) -> tuple[int, str]:
    """Runs a command in this process -> its exit code, and what it printed."""
    from fgdata.cli import main as fgdata
    from fgtrain.cli import main as fgtrain

    before = os.getcwd()
    os.chdir(folder)
    try:
        with Path("output").open("w") as output, redirect_stdout(output), redirect_stderr(output):
            code = {"fgdata": fgdata, "fgtrain": fgtrain}[program](list(arguments))
        return code or 0, Path("output").read_text()
    finally:
        os.chdir(before)


def growth(rounds: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Numbers of rounds, and a value after each -> the 95 % interval of the slope of a line through them.

    By least squares and Student's t.

    values: at least three.
    """
    import numpy as np
    from scipy.stats import t

    x, y = np.array(rounds) - np.mean(rounds), np.array(values) - np.mean(values)
    slope = float(x @ y / (x @ x))
    rest = y - slope * x
    half = float(t.ppf(0.975, len(values) - 2) * np.sqrt(rest @ rest / (len(values) - 2) / (x @ x)))
    return slope - half, slope + half


def own_processes() -> list[str]:
    """The processes that a round has started and that still run, by their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"TMPDIR={tempfile.gettempdir()}".encode() in environment.split(b"\0"):
                found.append(entry.name)
    return found


class Mallinfo(ctypes.Structure):
    """What mallinfo2(3) of glibc tells."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def allocated() -> int:
    """Bytes that malloc has given out and not got back, in all threads. 0 where the C library is not glibc."""
    if not hasattr(libc := ctypes.CDLL(None), "mallinfo2"):
        return 0
    libc.mallinfo2.restype = Mallinfo
    told = libc.mallinfo2()
    return told.uordblks + told.hblkhd


def trim() -> None:
    """Returns freed memory to the system, where the C library is glibc, which otherwise keeps it for reuse."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
