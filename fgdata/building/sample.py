"""Record -> the components and the json of one sample (FORMAT.md)."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from .. import images
from ..boxes.geometry import clip_boxes
from ..boxes.objective import Objective, solve
from ..datasets import Record
from ..datasets.parsing import Files
from ..errors import BadImage, InputError, NotEnoughMemory, printable
from ..images.jpeg import clear_orientation
from ..images.orientation import read_orientation, turn_upright
from ..saliency import component, least_side, saliency_map, suit, uses_superpixels
from ..shards.maps import shrink_map
from ..shards.writer import box_bytes
from .log import Log

if TYPE_CHECKING:
    from ..saliency.superpixels import Superpixels


@dataclass(frozen=True)
class Recipe:
    """The settings for turning a record into a sample."""

    load: Callable
    saliency: tuple[str, ...]
    objective: Objective
    max_side: int | None
    quality: int
    on_bad_image: str
    keep_maps: bool = False
    chroma: str = "420"


class Decoded:
    """The pixels and superpixels of one image, computed on first use."""

    def __init__(self, data: bytes, file: str, log: Log, orientation: int = 1):
        self.data, self.file, self.log, self.orientation = data, file, log, orientation
        self._pixels: dict[int | None, np.ndarray] = {}
        self._graph: Superpixels | None = None

    def pixels(self, least_side: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8; `least_side` as in `images.decode`."""
        if least_side not in self._pixels:
            with self.log.stage("decode"):
                rgb = images.decode(self.data, self.file, least_side)
                self._pixels[least_side] = turn_upright(rgb, self.orientation)
        return self._pixels[least_side]

    def superpixels(self) -> "Superpixels":
        """The superpixels that rbd and gs share."""
        if self._graph is None:
            from ..saliency.superpixels import segment

            rgb = self.pixels()
            with self.log.stage("superpixels"):
                self._graph = segment(rgb)
        return self._graph


@dataclass(frozen=True)
class Box:
    """The result of a detector on an image."""

    box: np.ndarray
    """(4,)"""
    fallback: str | None
    """Why the box is the whole image; None if it comes from the map."""
    stored_map: tuple[np.ndarray, np.ndarray] | None
    """The map as maps.h5 stores it (`shrink_map`); None if maps are not kept."""


def find_box(name: str, image: Decoded, objective: Objective, keep_map: bool, log: Log) -> Box:
    """Runs a detector on an image and solves its box. keep_map: also return the map as maps.h5 stores it.

    Raises InputError if the image cannot be decoded.
    """
    rgb, stored = image.pixels(least_side(name)), None
    graph = image.superpixels() if uses_superpixels(name) else None
    with log.stage(component(name)):
        saliency = saliency_map(name, rgb, image.file, graph)
        box, fallback = solve(saliency, suit(objective, name))
    if keep_map:
        with log.stage("maps"):
            stored = shrink_map(saliency)
    return Box(box, fallback, stored)


@cache
def warm_up(names: tuple[str, ...]) -> None:
    """Opens detectors and runs the compiled loops once, on a small image, in this process.

    Compiling them takes up to 20 s on a new machine, which must not count as the time of the first image and of the
    first detector.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    image = Decoded(images.encode_jpeg(pixels), "a random image", Log())
    solve(pixels[..., 0] / np.float32(255), Objective(tau=1.0))
    for name in names:
        if name != "gt" and uses_superpixels(name):
            find_box(name, image, Objective(), False, Log())


def make(record: Record, recipe: Recipe, log: Log) -> tuple[dict[str, bytes], dict, dict]:
    """-> (components by extension, without the json; the json's content; the maps to keep, by detector, as
    `shrink_map` stores them).

    The stored JPEG is the original file unless that is not a JPEG of 1 or 3 channels or is larger than max_side.
    Pixels are decoded only if needed. Raises InputError if the image cannot be read.
    """
    start = time.perf_counter()
    _refuse_name(record)
    with log.stage("read"):
        data, pixel_boxes = recipe.load(record)
    size_read = len(data)
    header = images.header(data, record.file)
    if damage := images.find_scan_damage(data, record.file):
        raise damage
    width, height = header.width, header.height
    truth, clipped = _truth(pixel_boxes, header, record.file)
    shrinks = recipe.max_side is not None and max(width, height) > recipe.max_side
    orientation = read_orientation(data) if record.upright else 1
    keeps = header.plain and orientation == 1 and not shrinks
    image = Decoded(data, record.file, log, orientation)
    boxes: dict[str, Box] = {}
    for name in recipe.saliency:
        if name == "gt":
            boxes[name] = Box(largest_box(truth, record.file), None, None)
        else:
            boxes[component(name)] = find_box(name, image, recipe.objective, recipe.keep_maps, log)
    if keeps:
        data = clear_orientation(data)  # else a reader that applies EXIF rotates the image without its boxes
    else:
        rgb = image.pixels()
        with log.stage("encode"):
            rgb = images.shrink(rgb, recipe.max_side) if recipe.max_side else rgb
            data = images.encode_jpeg(rgb, recipe.quality, recipe.chroma)
        height, width = rgb.shape[:2]
    meta = {
        "id": record.id,
        "file": record.file,
        "width": width,
        "height": height,
        "class": record.class_name,
        "split": record.split,
        "boxes": [[round(float(value), 7) for value in box] for box in truth],
        "detectors": {name: {"fallback": box.fallback or ""} for name, box in boxes.items()},
    }
    if clipped:
        meta["boxes_clipped"] = True
    if not keeps:
        meta["source"] = {"format": header.format, "width": header.width, "height": header.height}
    components = {"jpg": data, "cls": b"%d" % record.label}
    log.image_bytes = [log.image_bytes[0] + size_read, log.image_bytes[1] + len(data)]
    log.finish(record.id, time.perf_counter() - start)
    maps = {name: box.stored_map for name, box in boxes.items() if box.stored_map is not None}
    return components | {f"{name}.npy": box_bytes(box.box) for name, box in boxes.items()}, meta, maps


def find_fault(record: Record, load: Callable) -> InputError | None:
    """-> what is wrong with the name, image or boxes of a record, or None. Raises NotEnoughMemory.

    Of a JPEG in a file of its own only the header and the end are read. `make` finds damage between them.
    """
    ends = replace(load, only_ends=True) if isinstance(load, Files) else load
    try:
        _refuse_name(record)
        with images.name_image(record.file):
            data, pixel_boxes = ends(record)
            header = images.header(data, record.file)
            if not header.plain:
                images.decode(load(record)[0] if header.format == "jpeg" else data, record.file)
            _truth(pixel_boxes, header, record.file)
    except NotEnoughMemory:
        raise
    except InputError as error:
        return error
    return None


def _refuse_name(record: Record) -> None:
    """Raises InputError if a name is not UTF-8: the json of the sample, which holds it, must be."""
    name = printable(record.file)
    if name == record.file and printable(record.id) == record.id:
        return
    encoding = sys.getfilesystemencoding()
    if encoding.lower() != "utf-8":
        raise InputError(
            f"{name}: Python decodes file names as {encoding} here. Set PYTHONUTF8=1 and rerun the command"
        )
    raise BadImage(f"{name}: the file's name is not UTF-8 text", "Rename the file")


def _truth(pixel_boxes, header: images.Header, file: str) -> tuple[np.ndarray, bool]:
    """`clip_boxes`, with the file named in its error."""
    try:
        return clip_boxes(pixel_boxes, header.width, header.height)
    except BadImage as fault:
        raise BadImage(f"{file}: {fault.fault}", fault.remedy) from None


def largest_box(truth: np.ndarray, file: str) -> np.ndarray:
    """(n, 4) ground-truth boxes -> (4,) the largest, which `gt` stores. Raises InputError if there is none."""
    if not len(truth):
        raise InputError(f"{file} has no ground-truth box inside the image. Use a detector: --saliency rbd")
    return truth[np.argmax(truth[:, 2] * truth[:, 3])]
