"""tools/bench.py sizes: what an image costs in bytes and in decoding, by the size and quality it is stored at."""

import time
from pathlib import Path
from statistics import median

import cv2
from bench_report import report

from fgdata import images
from fgdata.datasets import read
from fgdata.errors import InputError

SETTINGS = ((None, None), (384, 95), (384, 90), (320, 90), (256, 95), (256, 90))
"""(--max-side, --quality); (None, None) keeps the original bytes."""


def sizes(data: Path = Path("../shared/data"), rounds: int = 5, json: Path | None = None) -> None:
    """kB and milliseconds of one core to decode an image of cub50-fullsize (500 x 375), stored as build-shards does.

    Every round decodes all images of each setting; a ratio compares two figures of one round.

    Args:
        data: folder that holds cub50-fullsize.
        rounds: number of measurements; the table shows their minimum, median and maximum.
        json: file to write the figures to.
    """
    if rounds < 1:
        raise InputError("--rounds must be at least 1.")
    cv2.setNumThreads(1)
    birds = read("cub", data / "cub50-fullsize")
    originals = [birds.load(record)[0] for record in birds.records]
    stored = {setting: [_stored(jpeg, *setting) for jpeg in originals] for setting in SETTINGS}
    times: dict[tuple, list[float]] = {setting: [] for setting in SETTINGS}
    for _ in range(rounds):
        for setting, jpegs in stored.items():
            start = time.perf_counter()
            for jpeg in jpegs:
                images.decode(jpeg, "")
            times[setting].append(1000 * (time.perf_counter() - start) / len(jpegs))
    original = times[None, None]
    figures = []
    for (side, quality), taken in times.items():
        size = sum(map(len, stored[side, quality])) / len(originals) / 1000
        faster = [whole / own for whole, own in zip(original, taken)]
        figures.append(
            {
                "max_side": side,
                "quality": quality,
                "kB": size,
                "of_original": size * 1000 * len(originals) / sum(map(len, originals)),
                "decode_ms": median(taken),
                "decode_ms_min": min(taken),
                "decode_ms_max": max(taken),
                "times_faster": median(faster),
                "times_faster_min": min(faster),
                "times_faster_max": max(faster),
                "n": rounds,
            }
        )
    report(f"sizes, {len(originals)} images", figures, json)


def _stored(jpeg: bytes, side: int | None, quality: int | None) -> bytes:
    if side is None or quality is None or max((rgb := images.decode(jpeg, "")).shape) <= side:
        return jpeg
    return images.encode_jpeg(images.shrink(rgb, side), quality)
