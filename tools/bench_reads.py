"""tools/bench.py reads: bytes and seconds of commands that need little of a set, with this tree and with a commit."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from bench_against import ROOT, commit_folder, in_turn, measuring, name_of, ratio_row
from bench_report import report

from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError

BEFORE = "90fcb32"
"""The last commit before those that read less."""
PASSES = ("labels of fine-tuning", "boxes of localization")


def reads(
    data: Path = Path("../shared/data"),
    dataset: str = "cub50",
    against: str = BEFORE,
    rounds: int = 5,
    workers: int = 2,
    json: Path | None = None,
) -> None:
    """MB that the processes of a command read, and its seconds, with this tree and with an earlier commit.

    Bytes are rchar of /proc/self/io, of the command and all its processes: what they ask of the system, from its cache
    or not. Those of commands include the modules of Python, about as many for both. Files are in the system's cache, so
    seconds are those of fast storage. Every round runs each command with both trees, in alternating order; ratios
    compare figures of one round. Linux only.

    Args:
        data: folder that holds the dataset.
        dataset: folder of CUB-200-2011 or of a part of it.
        against: the commit.
        rounds: number of measurements.
        workers: worker processes of `build-shards` and `add`.
        json: file to write the figures to.
    """
    if rounds < 1 or workers < 1:
        raise InputError("--rounds and --workers must be at least 1.")
    if not Path("/proc/self/io").exists():
        raise InputError("tools/bench.py reads needs /proc/self/io, which only Linux has.")
    root, found = (data / dataset).resolve(), {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        birds = read("cub", root)
        build(birds, folder / "set", saliency=("spectral-residual", "gt"), workers=workers)
        stored = sum(file.stat().st_size for file in (folder / "set").glob("*.tar"))
        write_maps(folder / "maps", [record.file for record in birds.records])
        trees = (ROOT, stack.enter_context(commit_folder(against)))
        asks = [stack.enter_context(measuring(tree, "bench_reads")) for tree in trees]
        cases = [*commands(root, folder, workers), *PASSES]
        for ask in asks:
            ask("compile_all", str(folder))
        for turn in range(rounds):
            for case in in_turn(cases, turn):
                for which in in_turn((0, 1), turn):
                    result = asks[which]("measure", case, str(root), str(folder), workers)
                    found.setdefault(case, ([], []))[which].append(result)
                    print(
                        f"round {turn + 1}/{rounds}: {case}, {(ROOT.name, against)[which]}: {result}", file=sys.stderr
                    )
    figures = [row(case, *found[case]) | {"against": name_of(against)} for case in cases]
    report(f"reads of {dataset}, {len(birds.records):,} images, {stored / 1e6:.1f} MB of tars", figures, json)


def row(case: str, new: list[tuple[float, float]], old: list[tuple[float, float]]) -> dict[str, Any]:
    """(MB, seconds) of the rounds by tree -> medians, and the ratios of the rounds."""
    megabytes, seconds = (ratio_row(unit, *([one[i] for one in tree] for tree in (new, old))) for i, unit in UNITS)
    kept = {name: megabytes[name] for name in ("MB", "MB_other", "ratio")}
    return {"command": case, **kept, **{name.replace("ratio", "s_ratio"): value for name, value in seconds.items()}}


UNITS = ((0, "MB"), (1, "s"))


def commands(root: Path, folder: Path, workers: int) -> dict[str, list[str]]:
    """Name -> arguments of fgdata. A command that writes has a fresh folder, `out`."""
    shards, out, jobs = str(folder / "set"), str(folder / "out"), ["--jobs", str(workers)]
    build_shards = ["build-shards", "--dataset", "cub", "--root", str(root), "--out", out, *jobs, "--saliency"]
    return {
        "build-shards": [*build_shards, "spectral-residual"],
        "add maps:": ["add", shards, "--saliency", f"maps:{folder / 'maps'}", "--out", out, *jobs],
        "score": ["score", shards],
        "show": ["show", shards],
        "check": ["check", shards],
    }


def measure(case: str, root: str, folder: str, workers: int) -> tuple[float, float]:
    """MB read and seconds of a command or a pass, with the fgdata and fgtrain that this process imports."""
    if case in PASSES:
        return counted(prepare_pass(case, Path(folder) / "set"))
    words = commands(Path(root), Path(folder), workers)[case]
    shutil.rmtree(Path(folder) / "out", ignore_errors=True)
    return counted(lambda: run_command("-m", "fgdata", *words, folder=folder))


def compile_all(folder: str) -> None:
    """Compiles the modules and the functions that a tree has not compiled yet, since that reads files too."""
    import fgdata

    run_command("-m", "compileall", "-q", *map(str, Path(fgdata.__file__).parents[1].glob("fg*/")), folder=folder)
    drawn = ("--dataset", "drawn", "--classes", "2", "--images-per-class", "4", "--jobs", "1")
    run_command(
        "-m", "fgdata", "build-shards", *drawn, "--saliency", "spectral-residual", "--out", "drawn", folder=folder
    )
    shutil.rmtree(Path(folder) / "drawn")


def run_command(*words: str, folder: str) -> None:
    """Runs Python in `folder` with the packages that this process imports; ends this process if it fails."""
    import fgdata

    environment = os.environ | {"PYTHONPATH": str(Path(fgdata.__file__).parents[1])}
    done = subprocess.run([sys.executable, *words], env=environment, cwd=folder, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode(errors="replace"))


def prepare_pass(case: str, path: Path) -> Callable[[], Any]:
    """The function that reads the labels or boxes of a set, which is opened before it runs."""
    from fgdata.shards.reader import ShardSet
    from fgtrain.evaluate.localization import true_boxes
    from fgtrain.evaluate.probe import labels_of

    shards = ShardSet.open(path)
    function, splits = (labels_of, ("train", "test")) if case == PASSES[0] else (true_boxes, ("test",))
    return lambda: [function(shards, split) for split in splits]


def counted(run: Callable[[], Any]) -> tuple[float, float]:
    """MB that a function reads, those of processes that it waits for included, and its seconds."""
    before, start = bytes_read(), time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return (bytes_read() - before) / 1e6, seconds


def bytes_read() -> int:
    """Bytes that this process has read, with its children that ended and that it has waited for."""
    with open("/proc/self/io") as file:
        return int(file.readline().removeprefix("rchar:"))


def write_maps(folder: Path, files: list[str]) -> None:
    """A small grey map for each image, a bright square on black."""
    grey = np.zeros((32, 32), np.uint8)
    grey[8:24, 8:24] = 255
    for file in files:
        path = (folder / file).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), grey)
