"""tools/bench.py views: speed of two views per image, by our backends and by other libraries, on the same images.

torch is imported by the functions that need it, because the workers of tools/bench.py build load this file.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench_against import ROOT, commit_folder, in_turn, measuring, name_of, ratio_row
from bench_report import report

from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, SplitReader
from fgdata.views import Loader, ViewSpec, load

if TYPE_CHECKING:
    import torch

Stream = Generator[int, None, None]
OURS = ("threads", "dali", "decode alone")
SKIPPED = 2  # batches before timing starts, while processes start and queues fill


def views(
    data: Path = Path("../shared/data"),
    size: int = 224,
    batch: int = 64,
    workers: int = 2,
    rounds: int = 5,
    seconds: float = 2.0,
    device: str = "cpu",
    only: tuple[str, ...] = (),
    against: str | None = None,
    json: Path | None = None,
) -> None:
    """Samples/s with two views per sample, timed between the arrival of two batches in mid-stream.

    Inputs are 500 x 375 JPEGs (cub50-fullsize, original bytes) and the same images with a long side of 256: as files
    for other libraries, as shard sets for ours. Every contender runs once per round, alone, and rounds alternate the
    order; a ratio compares two figures of one round. `paste` pastes patches onto images of a second set of the same
    sizes, so it decodes three images per sample. `ram` keeps the decoded images; timing starts when it has all.
    `uint8` yields 8-bit batches: what the threads do where a GPU finishes the views. On a GPU use `--device cuda
    --batch 256 --workers 16`; the peers are then torchvision and kornia.

    Args:
        data: folder that holds cub50-fullsize.
        size: side of a view in pixels.
        batch: samples per batch.
        workers: worker processes or threads of each contender.
        rounds: number of measurements; the table shows their minimum, median and maximum.
        seconds: shortest duration of a measurement.
        device: cpu, or cuda for the GPU contenders.
        only: names of the contenders to run; all by default.
        against: a commit. Measure our own contenders with this tree and with that commit instead, alternately.
        json: file to write the figures to.
    """
    if rounds < 1 or seconds <= 0 or workers < 1 or batch < 2:
        raise InputError("--rounds and --workers must be at least 1, --batch at least 2, --seconds above 0.")
    import torch

    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch finds no CUDA device; allowed: cpu.")
    figures = []
    with TemporaryDirectory() as folder:
        for label, side in (("500 x 375", None), ("long side 256", 256)):
            own, lent = shard_sets(data / "cub50-fullsize", Path(folder) / label, side, 2 * batch)
            files = as_files(own, Path(folder) / f"{label} files")
            found = contenders(own, lent, files, size, batch, workers, place)
            if only and not set(only) <= found.keys():
                raise InputError(f"--only {' '.join(only)}: allowed are {', '.join(found)}.")
            chosen = {name: start for name, start in found.items() if not only or name in only}
            if against is None:
                figures += measure(chosen, rounds, seconds, label, place)
            else:
                names = [name for name in chosen if name.startswith(OURS)]
                options = {"size": size, "batch": batch, "workers": workers, "device": device, "seconds": seconds}
                options |= {"own": str(own.path), "lent": str(lent.path)}
                figures += [{"images": label} | row for row in compare(names, options, rounds, against)]
    names = ("torch", "torchvision", "pillow", "lightly", "kornia", "nvidia-dali-cuda130")
    packages = tuple(name for name in names if _installed(name))
    report(f"views, {workers} workers or threads, {device}", figures, json, packages)


def contenders(
    own: ShardSet, lent: ShardSet, files: list[Path], size: int, batch: int, workers: int, device: "torch.device"
) -> dict[str, Callable[[], Stream]]:
    """Name -> function that opens an endless stream of batch sizes."""
    import bench_views_peers as peers

    rrc, swap = ViewSpec(size), ViewSpec(size, crop="saliency-swap", masks=True)

    def ours(spec: ViewSpec, backend: Any, threads: int = workers, **options: Any) -> Callable[[], Stream]:
        return lambda: endless(own, spec, batch, backend=backend, threads=threads, device=device, **options)

    found: dict[str, Callable[[], Stream]]
    if device.type == "cuda":
        found = {
            "torchvision v2": lambda: peers.torchvision_cuda(files, size, batch, device),
            "kornia": lambda: peers.kornia_cuda(files, size, batch, device),
        }
    else:
        found = {
            "lightly": lambda: peers.lightly(files, size, batch, workers),
            "torchvision v2 PIL": lambda: peers.torchvision_pil(files, size, batch, workers),
            "torchvision v2 tensor": lambda: peers.torchvision_tensor(files, size, batch, workers),
            "decode alone": lambda: decoded(own.split("train"), workers),
        }
    for backend in ("threads", "dali"):
        found[f"{backend} rrc"] = ours(rrc, backend)
        found[f"{backend} swap"] = ours(swap, backend)
        found[f"{backend} paste"] = ours(swap, backend, backgrounds=lent)
    for name, spec in (("threads rrc", rrc), ("threads swap", swap)):
        found[f"{name}, 1 thread"] = ours(spec, "threads", 1)
        found[f"{name}, ram"] = ours(spec, "threads", cache="ram")
        found[f"{name}, uint8"] = ours(spec, "threads", output="uint8")
        found[f"{name}, uint8 ram"] = ours(spec, "threads", output="uint8", cache="ram")
    return found


def measure(
    found: dict[str, Callable[[], Stream]], rounds: int, seconds: float, label: str, device: "torch.device"
) -> list[dict[str, Any]]:
    """One row per contender that runs on this machine."""
    rates: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds):
        for name in in_turn(list(rates), turn):
            try:
                with closing(found[name]()) as stream:
                    rates[name].append(rate(stream, seconds, device))
            except (ModuleNotFoundError, InputError, RuntimeError) as fault:
                if isinstance(fault, RuntimeError) and name.startswith(OURS):
                    raise  # a bug of ours; a peer may fail because of its build, as torchvision without nvJPEG
                print(f"{name} is skipped: {fault}")
                del rates[name]
    return [_row(name, label, rates) for name in rates]


def compare(names: list[str], options: dict[str, Any], rounds: int, commit: str) -> list[dict[str, Any]]:
    """A row for each contender: samples/s of this tree and of a commit, and the ratios of the rounds."""
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    with commit_folder(commit) as other, ExitStack() as stack:
        asks = [stack.enter_context(measuring(folder, "bench_views")) for folder in (ROOT, other)]
        for turn in range(rounds):
            for name in in_turn(list(rates), turn):
                for which in in_turn((0, 1), turn):
                    found = asks[which]("rate_of", name, **options)
                    if name in rates and found is None:
                        print(f"{name} is skipped: it is not in {(ROOT.name, commit)[which]}", file=sys.stderr)
                        del rates[name]
                    elif name in rates:
                        rates[name][which].append(found)
    title = name_of(commit)
    return [{"contender": name} | ratio_row("per_s", *both) | {"against": title} for name, both in rates.items()]


def rate_of(
    name: str, own: str, lent: str, size: int, batch: int, workers: int, device: str, seconds: float
) -> float | None:
    """Samples/s of one of our contenders with the fgdata of this process; None if that does not have it."""
    import torch

    place = torch.device(device)
    found = contenders(ShardSet.open(own), ShardSet.open(lent), [], size, batch, workers, place)
    try:
        with closing(found[name]()) as stream:
            return rate(stream, seconds, place)
    except TypeError as fault:  # an argument of the loader, such as cache
        print(f"{name}: {fault}", file=sys.stderr)
        return None


def rate(stream: Stream, seconds: float, device: "torch.device") -> float:
    """Samples/s between the arrival of two batches, an even number apart because two workers deliver in pairs."""
    for _ in range(SKIPPED):
        next(stream)
    _wait(device)
    start, samples = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        samples += next(stream) + next(stream)
    _wait(device)
    return samples / (time.perf_counter() - start)


def endless(own: ShardSet, spec: ViewSpec, batch: int, **options: Any) -> Stream:
    with load(own, views=spec, batch_size=batch, **options) as loader:
        if options.get("cache"):
            for _ in range(4):  # an epoch leaves out the rest of its last batch, so one does not fill the cache
                deque(loader, maxlen=0)
        yield from (len(batch_["index"]) for batch_ in endless_batches(loader))


def endless_batches(loader: Loader) -> Generator[dict[str, "torch.Tensor"], None, None]:
    """The batches of one epoch after another."""
    while True:
        yield from loader


def decoded(reader: SplitReader, threads: int) -> Stream:
    """Reading and decoding alone: an upper bound for views from these files."""
    from fgdata.images import decode

    ahead = 64

    def one(number: int) -> int:
        decode(reader.read(number)["jpg"], "")
        return 1

    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        number = 0
        while True:
            while len(waiting) < 2 * ahead:
                waiting.append(pool.submit(one, number % len(reader)))
                number += 1
            yield sum(future.result() for future in waiting[:ahead])
            del waiting[:ahead]


def shard_sets(root: Path, folder: Path, side: int | None, least: int) -> tuple[ShardSet, ShardSet]:
    """All birds as one train split, repeated to at least `least` samples; and a second such set for backgrounds."""
    birds = read("cub", root)
    turns = range(-(-least // len(birds.records)))
    sets = []
    for name in ("own", "lent"):
        many = [replace(bird, split="train", id=f"{name}-{bird.id}-{turn}") for turn in turns for bird in birds.records]
        named = replace(birds, records=tuple(many))
        build(named, folder / name, saliency=("gt",), shard_samples=100, max_side=side, workers=1)
        sets.append(ShardSet.open(folder / name))
    return sets[0], sets[1]


def as_files(own: ShardSet, folder: Path) -> list[Path]:
    """Write the JPEGs of the train split to files."""
    folder.mkdir()
    reader, files = own.split("train"), []
    for i in range(len(reader)):
        files.append(folder / f"{i:06}.jpg")
        files[-1].write_bytes(reader.read(i)["jpg"])
    return files


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _wait(device: "torch.device") -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _row(name: str, label: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    def to(other: str) -> list[float]:
        return [a / b for a, b in zip(rates[name], rates[other])] if other in rates and other != name else []

    lightly, ceiling, alone = to("lightly"), to("decode alone"), to(f"{name}, 1 thread")
    own, _, variant = name.partition(", ")
    plain = to(own) if variant in ("ram", "uint8", "uint8 ram") else []
    return {
        "images": label,
        "contender": name,
        "per_s": median(rates[name]),
        "per_s_min": min(rates[name]),
        "per_s_max": max(rates[name]),
        "to_lightly": median(lightly) if lightly else None,
        "to_lightly_min": min(lightly) if lightly else None,
        "to_lightly_max": max(lightly) if lightly else None,
        "of_decoding": median(ceiling) if ceiling and name.startswith(("threads", "dali")) else None,
        "to_1_thread": median(alone) if alone else None,
        "to_plain": median(plain) if plain else None,
        "to_plain_min": min(plain) if plain else None,
        "to_plain_max": max(plain) if plain else None,
        "n": len(rates[name]),
    }
