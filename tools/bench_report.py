"""Shared by all benches: single-threaded workers, the table, and the JSON file with command, machine and versions."""

import json
import multiprocessing
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import cv2
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fgdata import __version__

PACKAGES = ("numpy", "opencv-contrib-python-headless", "numba", "scipy")


def single_threaded(workers: int) -> ProcessPoolExecutor:
    """Worker processes as in a build, OpenCV on one thread; spawned, so that libraries read ENVIRONMENT on load."""
    from fgdata.cores import ENVIRONMENT  # here: earlier commits, which import this file, do not have it

    os.environ.update(ENVIRONMENT)
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, spawn, initializer=cv2.setNumThreads, initargs=(1,))


def run(pool: ProcessPoolExecutor, job: Callable, items: Sequence, what: str) -> list:
    """job(item) for every item, in order, under a progress bar on stderr."""
    results = pool.map(job, items, chunksize=4)
    return list(track(results, what, total=len(items), console=Console(stderr=True)))


def report(title: str, figures: list[dict[str, Any]], file: Path | None, packages: tuple[str, ...] = ()) -> None:
    """Print `figures`, rows with the same keys, as a table on stdout, and write them to `file`."""
    from fgdata.cores import machine

    table = Table(*figures[0], title=title)
    for row in figures:
        table.add_row(*(_text(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if file is None:
        return
    versions = {"fgdata": __version__, **{name: version(name) for name in (*PACKAGES, *packages)}}
    versions |= {"python": platform.python_version()}
    # Absolute paths would reveal the layout of this machine; the last part is enough.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = shlex.join(["tools/bench.py", *words])
    content = {"command": command, "machine": machine(), "versions": versions, "figures": figures}
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(file)


def spread(name: str, values: list[float]) -> dict[str, float | None]:
    """Median, minimum and maximum under three keys; None without values."""
    return {f"{name}{end}": f(values) if values else None for end, f in (("", median), ("_min", min), ("_max", max))}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
