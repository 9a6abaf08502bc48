"""tools/bench.py duplicates: which copies of photographs `fgdata check --duplicates` finds, and how fast it is."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from bench_report import report
from rich.progress import track

from fgdata.datasets.scan import SUFFIXES
from fgdata.errors import InputError
from fgdata.images import decode, encode_jpeg
from fgdata.report.duplicates import MOST_BITS, compare, grey_pixels


def duplicates(roots: tuple[Path, ...], hashes: int = 50_000, json: Path | None = None) -> None:
    """Pairs among the photographs, their copies found, and seconds to compare random hashes.

    A pair among the photographs is a false one, unless they show the same scene: the table names the first ten.

    Args:
        roots: folders of photographs; folders in them are read too.
        hashes: number of random images whose hashes are compared with each other.
        json: file to write the figures to.
    """
    paths = sorted(path for root in roots for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"--roots {' '.join(map(str, roots))}: no images.")
    original, found = [], dict.fromkeys(COPIES, 0)
    for path in track(paths, "Copying"):
        data = path.read_bytes()
        rgb = decode(data, path.name)
        original.append(grey_pixels(data, path.name))
        for name, copy in COPIES.items():
            found[name] += any(compare(np.stack([original[-1], grey_pixels(copy(rgb), path.name)])))
    start = time.perf_counter()
    pairs = list(compare(np.stack(original)))
    seconds = time.perf_counter() - start
    about = {"images": len(paths), "most_bits": MOST_BITS}
    figures: list[dict[str, Any]] = [{"case": "photographs", "found": len(pairs), "seconds": seconds} | about]
    figures += [{"case": name, "found": count / len(paths), "seconds": None} | about for name, count in found.items()]
    for i, j, bits, correlation, mirrored in pairs[:10]:
        words = f"{paths[i].name} {paths[j].name}, {bits} bits, {correlation:.3f}{', mirrored' if mirrored else ''}"
        figures.append({"case": words, "found": None, "seconds": None} | about)
    noise = np.random.default_rng(0).integers(0, 256, (hashes, 32, 32), np.uint8)
    start = time.perf_counter()
    count = sum(1 for _ in compare(noise))
    figures.append({"case": "random pixels", "found": count, "seconds": time.perf_counter() - start} | about)
    figures[-1]["images"] = hashes
    report("duplicates", figures, json)


def scaled(by: float, quality: int = 90) -> Callable[[np.ndarray], bytes]:
    def copy(rgb: np.ndarray) -> bytes:
        return encode_jpeg(cv2.resize(rgb, None, fx=by, fy=by, interpolation=cv2.INTER_AREA), quality)

    return copy


def cropped(by: float) -> Callable[[np.ndarray], bytes]:
    """Removes half of the share `by` at each edge."""

    def copy(rgb: np.ndarray) -> bytes:
        top, left = (round(side * by / 2) for side in rgb.shape[:2])
        return encode_jpeg(np.ascontiguousarray(rgb[top : len(rgb) - top, left : rgb.shape[1] - left]))

    return copy


COPIES: dict[str, Callable[[np.ndarray], bytes]] = {
    "JPEG quality 20": scaled(1.0, 20),
    "a half": scaled(0.5),
    "a third, quality 50": scaled(1 / 3, 50),
    "mirrored, a half, quality 50": lambda rgb: scaled(0.5, 50)(np.ascontiguousarray(rgb[:, ::-1])),
    "grey": lambda rgb: encode_jpeg(cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)),
    "contrast 1.15, brightness + 10": lambda rgb: encode_jpeg(cv2.convertScaleAbs(rgb, alpha=1.15, beta=10)),
    "sides cropped by 4 %": cropped(0.04),
    "sides cropped by 10 %": cropped(0.1),
}
