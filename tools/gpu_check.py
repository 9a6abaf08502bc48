"""make gpu-check: runs what training does only on a GPU, and compares each result with the CPU's. Meant to take ten
minutes.

    python tools/gpu_check.py                  # on a machine with a GPU; paste the table into an issue
    python tools/gpu_check.py --device cpu     # the same comparisons without a GPU, small: tests this program

Exit codes: 0 if every row passed; 1 if one failed; 2 if none failed but one could not run, such as without a GPU.
"""

import argparse
import contextlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from gpu_paths import DRY, MAPPED, ON_GPU, PATHS, Found, Missing, Scale

from fgdata.building.build import build
from fgdata.cores import machine
from fgdata.datasets import read
from fgdata.errors import InputError
from fgtrain.place import pick_device
from fgtrain.runs.provenance import commit, versions

IMAGES, SIDE = 2048, 320
"""Of the drawn set that the paths read; SIDE in pixels."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    status: str
    """passed, FAILED or missing."""
    found: Found | None = None
    note: str = ""

    def cells(self) -> list[str]:
        found = self.found
        if found is None:
            return [self.name, self.status, "", "", "", "", self.note]
        rate = "" if found.samples is None else f"{found.samples:,.0f}"
        wait = "" if found.wait is None else f"{found.wait:.1%}"
        return [self.name, self.status, f"{found.difference:.3g}", f"{found.allowed:g}", rate, wait, found.note]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a dry run (default: cuda)")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows whose names contain one of these")
    flags = parser.parse_args(words)
    chosen = {name: path for name, path in PATHS.items() if not flags.only or any(w in name for w in flags.only)}
    if not chosen:
        print(f"--only {' '.join(flags.only)} matches no row; allowed: {', '.join(PATHS)}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    try:
        place, reason = pick_device(flags.device), ""
    except InputError as fault:
        place, reason = torch.device("cpu"), str(fault)
    rows = [Row(name, "missing", note=reason) for name in chosen] if reason else list(measure(chosen, place))
    print(table(rows, place, time.perf_counter() - start))
    return code(rows)


def measure(chosen: dict[str, Callable[..., Found]], place: torch.device) -> Iterator[Row]:
    """Runs the paths one after the other on a drawn set in a temporary folder; progress goes to stderr."""
    gpu = place.type == "cuda"
    torch.backends.cudnn.benchmark = gpu  # as in a training
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        count, side = (IMAGES // 8, SIDE) if gpu else (8, 80)
        print(f"drawing {8 * count:,} birds", file=sys.stderr)
        build(
            read("drawn", classes=8, images_per_class=count, size=side), shards, saliency=("gt", MAPPED), keep_maps=True
        )
        for name, path in chosen.items():
            print(f"{name} ...", file=sys.stderr, flush=True)
            yield check(name, path, place, ON_GPU if gpu else DRY, shards)


def check(name: str, path: Callable[..., Found], place: torch.device, scale: Scale, shards: Path) -> Row:
    """Runs one path. An error of any kind is a row that failed, so the others still run."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a training prints its progress; stdout is for the table
            found = path(place, scale, shards)
    except Missing as reason:
        return Row(name, "missing", note=str(reason))
    except Exception as error:
        lines = str(error).strip().splitlines()
        return Row(name, "FAILED", note=f"{type(error).__name__}: {lines[0] if lines else ''}"[:200])
    return Row(name, "passed" if found.difference <= found.allowed else "FAILED", found)


def table(rows: list[Row], place: torch.device, seconds: float) -> str:
    """Markdown: what it ran on, and a line per path."""
    about, gpu = machine(), place.type == "cuda"
    cuda = torch.version.cuda  # pyright: ignore[reportAttributeAccessIssue]
    where = torch.cuda.get_device_name(place) if gpu else "no GPU"
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    heads = ["path", "result", "difference", "allowed", "samples/s", "data wait", "note"]
    lines = [
        f"gpu-check: {where}, {about['cores']} cores of {about['cpu']}, {platform.platform()}, CUDA {cuda}",
        f"commit {commit()}; {packages}; {seconds / 60:.1f} minutes",
        "",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in [heads, ["---"] * 7]),
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row.cells())} |" for row in rows),
    ]
    return "\n".join(lines)


def code(rows: list[Row]) -> int:
    """The exit code."""
    statuses = {row.status for row in rows}
    return 1 if "FAILED" in statuses else 2 if "missing" in statuses else 0


if __name__ == "__main__":
    sys.exit(main())
