"""tools/bench.py storage: samples/s of the loader on storage with a simulated latency, and the time to the first batch.

The latency is a wait before each read of a tar or an index, in this file; the loader itself has no such code. The
bandwidth is that of the local disk, or of memory after the first round.
"""

import random
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench_against import ROOT, commit_folder, in_turn, measuring
from bench_report import report, spread

from fgdata.errors import InputError

NOW, BEFORE = "now", "before"


def storage(
    data: Path = Path("../shared/data"),
    ms: tuple[float, ...] = (0, 1, 5, 20),
    jitter: float = 0.5,
    backends: tuple[str, ...] = ("threads", "dali"),
    sides: tuple[int, ...] = (0, 256),
    size: int = 224,
    batch: int = 64,
    threads: int | None = None,
    readers: int | None = None,
    ahead: int | None = None,
    rounds: int = 5,
    seconds: float = 2.0,
    large: bool = False,
    against: str | None = None,
    json: Path | None = None,
) -> None:
    """Samples/s of two random resized crops per image, for several latencies of a read, and the first batch's seconds.

    Every latency, backend and commit is measured once per round, one at a time, and rounds alternate the order; ratios
    compare figures of the same round: `to_0_ms` to the same code without latency, `to_before` to the other commit.

    Args:
        data: folder that holds cub50-fullsize.
        ms: mean latencies of a read in milliseconds. Start with 0, to which the others are compared.
        jitter: share of the latency that is random: 0 for a constant, 1 for an exponential distribution.
        backends: threads, dali.
        sides: long sides of the stored images in pixels; 0 for the original bytes, 500 x 375.
        size: side of a view in pixels.
        batch: samples per batch.
        threads: threads that make views; the loader's default if not set.
        readers: reader threads; the loader's default if not set.
        ahead: batches read ahead; the loader's default if not set.
        rounds: number of measurements; the table shows their median, minimum and maximum.
        seconds: shortest duration of a measurement.
        large: as with more than 200,000 samples, whose indexes stay on disk in the commits from 052ae60 to 815c907.
        against: also measure this commit, in a temporary worktree of this repository.
        json: file to write the figures to.
    """
    if rounds < 1 or seconds <= 0 or batch < 2 or not 0 <= jitter <= 1 or any(not 0 <= x <= 1000 for x in ms):
        raise InputError(
            "--rounds must be at least 1, --batch at least 2, --seconds above 0, --jitter 0 to 1, --ms 0 to 1000 each."
        )
    options = {"size": size, "batch": batch, "threads": threads, "jitter": jitter, "seconds": seconds, "large": large}
    more = {name: value for name, value in (("readers", readers), ("ahead", ahead)) if value is not None}
    found: dict[tuple, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        sets = {side: built(data / "cub50-fullsize", folder / f"set-{side}", side, 4 * batch) for side in sides}
        codes = {NOW: stack.enter_context(measuring(ROOT, "bench_storage"))}
        if against:
            before = stack.enter_context(commit_folder(against))
            codes[BEFORE] = stack.enter_context(measuring(before, "bench_storage"))
        cases = [(side, backend, x, code) for side in sides for backend in backends for x in ms for code in codes]
        for turn in range(-1, rounds):  # the first round imports and compiles, and is not counted
            for side, backend, x, code in in_turn(cases, turn + 1):
                asked = options | {"path": str(sets[side]), "backend": backend, "ms": x}
                result = codes[code]("measure", **asked, more=more if code == NOW else {})
                if turn >= 0:
                    found.setdefault((side, backend, x, code), []).append(result)
                print(f"round {turn + 1}/{rounds}: {side} {backend} {x:g} ms {code}: {result}", file=sys.stderr)
    figures = [row(found, case, ms[0]) for case in cases]
    setting = f"batch {batch}, jitter {jitter:g}, {'default' if readers is None else readers} readers"
    report(f"storage, {setting}", figures, json, ("torch", *(("nvidia-dali-cuda130",) if "dali" in backends else ())))


def row(found: dict[tuple, list[dict[str, float]]], case: tuple, least: float) -> dict[str, Any]:
    """The figures of one case: rates, first batch, and ratios within each round."""
    side, backend, ms, code = case
    rates = [result["per_s"] for result in found[case]]
    first = [result["first_s"] for result in found[case]]
    figures = {"images": side or "500 x 375", "backend": backend, "ms": ms, "code": code}
    figures |= spread("per_s", rates) | spread("first_s", first)
    for name, other in (("to_0_ms", (side, backend, least, code)), ("to_before", (side, backend, ms, BEFORE))):
        others = [result["per_s"] for result in found.get(other, [])] if other != case else []
        figures |= spread(name, [a / b for a, b in zip(rates, others)])
    return figures | {"n": len(rates)}


def built(root: Path, folder: Path, side: int, least: int) -> Path:
    """A shard set of the birds with at least `least` training samples, in tars of 50."""
    from bench_views import shard_sets

    own, _ = shard_sets(root, folder, side or None, least)
    return Path(str(own.path))


def measure(
    path: str,
    backend: Any,
    ms: float,
    jitter: float,
    size: int,
    batch: int,
    threads: int | None,
    seconds: float,
    large: bool,
    more: dict[str, Any],
) -> dict[str, float]:
    """Samples/s in mid-stream, and the seconds from opening the loader to its first batch."""
    from fgdata.shards.reader import ShardSet
    from fgdata.views import ViewSpec, load

    if large:
        leave_indexes_on_disk()
    shards = ShardSet.open(path)
    slow_down(shards, delays(ms / 1000, jitter))
    start = time.perf_counter()
    with load(shards, views=ViewSpec(size), batch_size=batch, backend=backend, threads=threads, **more) as loader:
        arrivals = (len(one["index"]) for _ in range(1 << 30) for one in loader)
        next(arrivals)
        first = time.perf_counter() - start
        for _ in range(len(loader)):  # queues fill, and what is read is now in memory
            next(arrivals)
        start, samples = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            samples += next(arrivals)
        return {"per_s": samples / (time.perf_counter() - start), "first_s": first}


def delays(seconds: float, jitter: float) -> Callable[[], float]:
    """A function that draws the latency of one read: a constant part and an exponential one."""
    if not seconds:
        return lambda: 0.0
    draw = random.Random(0)
    return lambda: seconds * (1 - jitter + jitter * draw.expovariate(1))


def leave_indexes_on_disk() -> None:
    """For commits that leave large indexes on disk: each is large."""
    try:
        from fgdata.shards import index
    except ImportError:  # an earlier commit
        return
    index.MOST_IN_MEMORY = 0  # pyright: ignore[reportAttributeAccessIssue]


def slow_down(shards: Any, delay: Callable[[], float]) -> None:
    """Makes every read of an open set wait first: of its store, or of its readers in commits without stores."""

    def slowed(read: Callable[..., bytes]) -> Callable[..., bytes]:
        def wait_and_read(*span: Any) -> bytes:
            if waits := delay():
                time.sleep(waits)
            return read(*span)

        return wait_and_read

    if hasattr(shards, "store"):
        shards.store.read = slowed(shards.store.read)
        return
    for name in shards.splits:
        reader = shards.split(name)
        reader._read_span = slowed(reader._read_span)
