"""Record -> the components and the json of one sample (FORMAT.md)."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from . import images
from .boxes import Objective, clip_boxes, solve
from .datasets import Record
from .errors import InputError, shown
from .saliency import component, least_side, saliency_map
from .shards.maps import shrink_map
from .shards.writer import box_bytes


@dataclass(frozen=True)
class Recipe:
    """The settings that make a sample out of a record."""

    load: Callable
    saliency: tuple[str, ...]
    objective: Objective
    max_side: int | None
    quality: int
    on_bad_image: str
    keep_maps: bool = False


@dataclass
class Log:
    """Seconds per stage and the slowest samples of a shard. Never part of a shard set: times differ, bytes must not."""

    seconds: dict[str, float] = field(default_factory=dict)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    image_bytes: list[int] = field(default_factory=lambda: [0, 0])  # as read, as stored

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def finish(self, record_id: str, seconds: float) -> None:
        self.slowest = sorted([*self.slowest, (seconds, record_id)], reverse=True)[:3]

    def summary(self) -> dict:
        slowest = [{"id": name, "seconds": round(seconds, 4)} for seconds, name in self.slowest]
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return {"seconds": seconds, "slowest": slowest, "image_bytes": self.image_bytes}


def make(record: Record, recipe: Recipe, log: Log) -> tuple[dict[str, bytes], dict, dict]:
    """-> (components by extension, without the json; the json's content; the maps to keep, by detector, as
    `shrink_map` stores them).

    The JPEG bytes are the original ones unless they are no plain JPEG or larger than max_side; pixels are decoded only
    when somebody needs them. InputError when the image cannot be read.
    """
    start = time.perf_counter()
    _refuse_name(record)
    with log.stage("read"):
        data, pixel_boxes = recipe.load(record)
    size_read = len(data)
    header = images.header(data, record.file)
    width, height = header.width, header.height
    truth, clipped = _truth(pixel_boxes, header, record.file)
    shrinks = recipe.max_side is not None and max(width, height) > recipe.max_side
    keeps = header.format == "jpeg" and header.channels in (1, 3) and not shrinks
    decoded: dict[int | None, np.ndarray] = {}  # by the least side asked for; gt asks for none

    def pixels(least_side: int | None = None) -> np.ndarray:
        if least_side not in decoded:
            with log.stage("decode"):
                decoded[least_side] = images.decode(data, record.file, least_side)
        return decoded[least_side]

    boxes, fallbacks, maps = {}, {}, {}
    for asked in recipe.saliency:
        name = component(asked)
        if name == "gt":
            boxes[name], fallbacks[name] = largest(truth, record.file), None
            continue
        rgb = pixels(least_side(asked))
        with log.stage(name):
            found = saliency_map(asked, rgb, record.file)
            boxes[name], fallbacks[name] = solve(found, recipe.objective)
        if recipe.keep_maps:
            with log.stage("maps"):
                maps[name] = shrink_map(found)
    if not keeps:
        rgb = pixels()
        with log.stage("encode"):
            rgb = images.shrink(rgb, recipe.max_side) if recipe.max_side else rgb
            data = images.encode_jpeg(rgb, recipe.quality)
        height, width = rgb.shape[:2]
    meta = {
        "id": record.id,
        "file": record.file,
        "width": width,
        "height": height,
        "class": record.class_name,
        "split": record.split,
        "boxes": [[round(float(value), 7) for value in box] for box in truth],
        "detectors": {name: {"fallback": fallbacks[name]} for name in boxes},
    }
    if clipped:
        meta["boxes_clipped"] = True
    if not keeps:
        meta["source"] = {"format": header.format, "width": header.width, "height": header.height}
    components = {"jpg": data, "cls": b"%d" % record.label}
    log.image_bytes = [log.image_bytes[0] + size_read, log.image_bytes[1] + len(data)]
    log.finish(record.id, time.perf_counter() - start)
    return components | {f"{name}.npy": box_bytes(box) for name, box in boxes.items()}, meta, maps


def fault(record: Record, load: Callable) -> str | None:
    """What is wrong with a record's name, image or boxes, found without decoding a JPEG's pixels; None if nothing."""
    try:
        _refuse_name(record)
        data, pixel_boxes = load(record)
        header = images.header(data, record.file)
        if header.format != "jpeg":
            images.decode(data, record.file)
        _truth(pixel_boxes, header, record.file)
    except InputError as found:
        return str(found)
    return None


def _refuse_name(record: Record) -> None:
    """The json of a sample holds its file's name, and is UTF-8."""
    name = shown(record.file)
    if name == record.file and shown(record.id) == record.id:
        return
    encoding = sys.getfilesystemencoding()
    if encoding.lower() != "utf-8":
        raise InputError(f"{name}: Python takes file names for {encoding} here. Set PYTHONUTF8=1, then this command")
    raise InputError(
        f"{name}: the file's name is not UTF-8 text. Rename the file, or leave such images out: --on-bad-image skip"
    )


def _truth(pixel_boxes, header: images.Header, file: str) -> tuple[np.ndarray, bool]:
    """clip_boxes, its error naming the file."""
    try:
        return clip_boxes(pixel_boxes, header.width, header.height)
    except InputError as fault:
        raise InputError(f"{file}: {fault} Or leave such images out: --on-bad-image skip") from None


def largest(truth: np.ndarray, file: str) -> np.ndarray:
    """The largest of an image's (n, 4) ground-truth boxes: what `gt` stores. InputError when there is none."""
    if not len(truth):
        raise InputError(f"{file} has no ground-truth box inside the image. Ask for a detector: --saliency rbd")
    return truth[np.argmax(truth[:, 2] * truth[:, 3])]
