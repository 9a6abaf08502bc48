"""tools/bench.py build: build speed, compared with a loop that only decodes and rewrites the same files."""

import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench_against import ROOT, alternate, commit_folder, name_of, ratio_row
from bench_report import report, single_threaded

from fgdata.boxes.objective import Objective
from fgdata.building import sample
from fgdata.building.build import build as build_set
from fgdata.building.build import build_shard, make_jobs
from fgdata.datasets import Dataset, read
from fgdata.errors import InputError
from fgdata.images import decode
from fgdata.shards.manifest import BUILDING

SHARD_SAMPLES = 256
STEPS = 5_000_000


def build(
    data: Path = Path("../shared/data"),
    detectors: tuple[str, ...] = ("gt", "spectral-residual", "rbd"),
    rounds: int = 2,
    repeats: int = 5,
    scaling: str = "rbd",
    scaling_rounds: int = 4,
    against: str | None = None,
    json: Path | None = None,
) -> None:
    """Images/s of one worker, speed-up with two workers, and peak memory of a worker.

    The figures include all work that grows with the number of images: the check of each header, reading, decoding,
    the map, the box, and writing with checksums and fsync. Rows of one worker exclude the start of the process; rows
    of complete builds include it and need enough rounds to make it small. A ratio compares two figures of the same
    repeat; column `to` names the reference. `loop` only reads, decodes and writes each file. The control is a loop of
    additions in one process and in two: the best speed-up that the machine allows at that moment.

    Args:
        data: folder that holds cub50-fullsize.
        detectors: detectors to measure, one build each.
        rounds: copies of each image in one repeat, each with an id of its own.
        repeats: number of measurements; the table shows their minimum, median and maximum.
        scaling: detector of the complete builds with one and two workers.
        scaling_rounds: copies of each image in those builds; memory is also measured with a quarter of them.
        against: a commit. Measure one worker, and complete builds with one and two, with this tree and with that commit
            instead, alternately; a ratio is that of two figures of the same repeat, this tree's to the commit's.
        json: file to write the figures to.
    """
    if rounds < 1 or repeats < 1 or scaling_rounds < 4:
        raise InputError("--rounds and --repeats must be at least 1, --scaling-rounds at least 4.")
    root = data / "cub50-fullsize"
    if against is not None:
        figures = compare(root.resolve(), detectors, rounds, repeats, against)
        return report("build", figures + compare_whole(root.resolve(), scaling, scaling_rounds, repeats, against), json)
    with single_threaded(1) as pool:
        steady = [pool.submit(one_worker, root, detectors, rounds).result() for _ in range(repeats + 1)][1:]
    loop = [row["loop"] for row in steady]
    images = 200 * rounds
    figures = [_row("decode and rewrite", images, 1, loop)]
    figures += [_row(name, images, 1, [row[name] for row in steady], "loop", loop) for name in detectors]
    whole: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for workers, rates in whole.items():
            rates.append(_fresh(root, scaling, scaling_rounds, workers)[0])
    images = 200 * scaling_rounds
    figures.append(_row(f"{scaling}, whole build", images, 1, whole[1]))
    figures.append(_row(f"{scaling}, whole build", images, 2, whole[2], "1 worker", whole[1]))
    with single_threaded(2) as pool:
        list(pool.map(arithmetic, [STEPS, STEPS]))
        alone, both = [], []
        for _ in range(repeats):
            alone.append(pool.submit(arithmetic, STEPS).result())
            both.append(sum(pool.map(arithmetic, [STEPS, STEPS])))
    figures.append(_row("control: arithmetic only", STEPS, 1, alone))
    figures.append(_row("control: arithmetic only", STEPS, 2, both, "1 worker", alone))
    for share in (scaling_rounds // 4, scaling_rounds):
        rate, peak = _fresh(root, scaling, share, 1)
        figures.append(_row(f"{scaling}, memory", 200 * share, 1, [rate]) | {"peak_mb": peak})
    report("build", figures, json)


def compare(root: Path, detectors: tuple[str, ...], rounds: int, repeats: int, commit: str) -> list[dict[str, Any]]:
    """`one_worker` of this tree and of a commit -> a row for the loop, which both share, and for each detector."""
    with commit_folder(commit) as other:
        arguments = [str(root), list(detectors), rounds]
        new, old = alternate("bench_build", "one_worker", arguments, (ROOT, other), repeats)
    rows = []
    for name in ("loop", *detectors):
        row = ratio_row("per_s", [one[name] for one in new], [one[name] for one in old])
        rows.append({"build": name, **row, "images": 200 * rounds, "workers": 1, "against": name_of(commit)})
    return rows


def compare_whole(root: Path, detector: str, rounds: int, repeats: int, commit: str) -> list[dict[str, Any]]:
    """`whole_builds` of this tree and of a commit -> rows for one worker, for two, and for the ratio of these two."""
    with commit_folder(commit) as other:
        new, old = alternate("bench_build", "whole_builds", [str(root), detector, rounds], (ROOT, other), repeats)
    images, title = 200 * rounds, name_of(commit)
    rows = []
    for workers in (1, 2):
        row = ratio_row("per_s", [one[workers - 1] for one in new], [one[workers - 1] for one in old])
        rows.append(
            {"build": f"{detector}, whole build", **row, "images": images, "workers": workers, "against": title}
        )
    both = ratio_row("per_s", *([two / one for one, two in tree] for tree in (new, old)))
    name = f"{detector}, whole build, 2 workers to 1"
    return [*rows, {"build": name, **both, "images": images, "workers": 2, "against": title}]


def one_worker(root: Path | str, detectors: Sequence[str], rounds: int) -> dict[str, float]:
    """Images/s of the loop and of a build by each detector, one after the other in this process."""
    birds = repeated(root, rounds)
    rates = {}
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        with (Path(folder) / "copy").open("wb") as file:
            for record in birds.records:
                content, _ = birds.load(record)
                decode(content, record.file)
                file.write(content)
        rates["loop"] = len(birds.records) / (time.perf_counter() - start)
    for name in detectors:
        with TemporaryDirectory() as folder:
            recipe = sample.Recipe(birds.load, (name,), Objective(), None, 90, "stop")
            (Path(folder) / BUILDING).mkdir()
            start = time.perf_counter()
            for record in birds.records:
                sample.find_fault(record, birds.load)
            for job in make_jobs(birds, Path(folder), recipe, SHARD_SAMPLES):
                build_shard(job)
            rates[name] = len(birds.records) / (time.perf_counter() - start)
    return rates


def whole_build(root: Path | str, detector: str, rounds: int, workers: int) -> tuple[float, float]:
    """Images/s of a complete build, and the peak resident MB of its largest worker process."""
    birds = repeated(root, rounds)
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_set(birds, Path(folder) / "set", saliency=(detector,), shard_samples=100, workers=workers)
        rate = len(birds.records) / (time.perf_counter() - start)
    return rate, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def whole_builds(root: Path | str, detector: str, rounds: int) -> list[float]:
    """Images/s of a complete build with one worker, and of one with two."""
    return [whole_build(root, detector, rounds, workers)[0] for workers in (1, 2)]


def arithmetic(steps: int) -> float:
    """Steps/s of a loop without memory accesses: the best speed-up that more cores allow at this moment."""
    start, total = time.perf_counter(), 0
    for i in range(steps):
        total += i * i
    return steps / (time.perf_counter() - start)


def repeated(root: Path | str, rounds: int) -> Dataset:
    """The dataset with `rounds` copies of every record, each with an id of its own."""
    birds = read("cub", root)
    many = [replace(record, id=f"{record.id}-{turn}") for turn in range(rounds) for record in birds.records]
    return replace(birds, records=tuple(many))


def _fresh(root: Path, detector: str, rounds: int, workers: int) -> tuple[float, float]:
    """whole_build in a new process, so that its child processes are the workers of that build only."""
    with single_threaded(1) as pool:
        return pool.submit(whole_build, root, detector, rounds, workers).result()


def _row(
    what: str, images: int, workers: int, rates: list[float], to: str = "", base: list[float] | None = None
) -> dict[str, Any]:
    ratios = [rate / of for rate, of in zip(rates, base)] if base else []
    least, middle, most = (f(ratios) if ratios else None for f in (min, median, max))
    return {
        "build": what,
        "images": images,
        "workers": workers,
        "per_s": median(rates),
        "per_s_min": min(rates),
        "per_s_max": max(rates),
        "to": to or None,
        "ratio": middle,
        "ratio_min": least,
        "ratio_max": most,
        "peak_mb": None,
        "n": len(rates),
    }
