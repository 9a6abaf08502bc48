"""What goes into a contact sheet: the choice of images, pixels, outlines, captions."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, label, meta, read_all
from fgdata.shards.sample import Sample
from fgdata.views import ViewSpec

from ..evaluate.finetune import Part
from ..settings.common import need
from .layout import INK, PAPER, wrapped

MARK = (255, 122, 0)
MOST_ROWS = 100


def check_rows(rows: int, shards: ShardSet, split: str, most: int = MOST_ROWS) -> None:
    """InputError when the set has no such split, or unless 1 to `most` rows of its images can be drawn."""
    images = len(shards.split(split))
    need(1 <= rows <= min(most, images), "rows", rows, f"1 to {min(most, images):,} of the {images:,} {split} images")


def default_split(shards: ShardSet, split: str | None) -> str:
    """The split to draw from: the given one, else test, or train for a set without test images."""
    return split or ("test" if shards.splits.get("test") else "train")


def choose(shards: ShardSet, split: str, ids: Sequence[str], rows: int, seed: int) -> np.ndarray:
    """-> numbers of the samples to draw: those of the given ids in their order, else `rows` at random, ascending.

    An id is that of the dataset, its file, or the end of its file's path. InputError when one is not in the split.
    """
    reader = shards.split(split)
    if not ids:
        return np.sort(np.random.default_rng(seed).choice(len(reader), rows, replace=False))
    known = [meta(sample) for sample in read_all(reader, without="jpg")]
    numbers = []
    for wanted in ids:
        exact = [i for i, info in enumerate(known) if wanted in (info["id"], info["file"])]
        found = exact or [i for i, info in enumerate(known) if info["file"].endswith(f"/{wanted}")]
        if len(found) != 1:
            what = f"matches {len(found)} images" if found else "is not an image"
            first = ", ".join(info["id"] for info in known[:3])
            raise InputError(f"--ids: {wanted} {what} of the {split} split of {shards.path}. Ids look like {first}.")
        numbers += found
    return np.array(numbers)


def first_in(shards: ShardSet, split: str, chosen: np.ndarray, most: int, seed: int) -> ShardSet:
    """The set with only the chosen samples in the split, and after them random others of it, up to `most` in all: a
    picture's views and statistics may need a larger batch than the images that it shows."""
    others = np.random.default_rng(seed).permutation(len(shards.split(split)))
    others = others[~np.isin(others, chosen)]
    numbers = np.concatenate([chosen, others[: max(0, most - len(chosen))]])
    return Part(shards, split, torch.from_numpy(numbers))


def caption(shards: ShardSet, sample: Sample) -> str:
    """The class of a sample in words; its file's name in a set of one class, and its id if there is no such class."""
    number = label(sample)
    if len(shards.classes) == 1:
        return str(meta(sample).get("file", "")).rsplit("/", 1)[-1]
    name = shards.classes[number] if 0 <= number < len(shards.classes) else str(meta(sample).get("id", ""))
    return name.split(".", 1)[-1].replace("_", " ")


def pixels(view: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """(3, S, S) normalised by the mean and std of `spec` -> (S, S, 3) uint8."""
    rgb = view.transpose(1, 2, 0) * np.array(spec.std) + np.array(spec.mean)
    return (rgb * 255).round().clip(0, 255).astype(np.uint8)


def extent(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    """(S, S) mask -> left, top, right, bottom of its nonzero pixels, or None when it is empty."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else None


def fitted(rgb: np.ndarray, size: int) -> Image.Image:
    """(H, W, 3) uint8 -> the whole image, its longer side `size` pixels and the other at least 1 pixel."""
    image = Image.fromarray(rgb)
    scale = size / max(image.size)
    sides = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(sides, Image.Resampling.LANCZOS)


def noted(image: Image.Image, text: str) -> Image.Image:
    """The image in pale, with a sentence over its middle."""
    pale = Image.blend(image, Image.new("RGB", image.size, PAPER), 0.6)
    font = ImageFont.load_default(14)
    lines = "\n".join(wrapped(text, 14, max(40, image.width - 12)))
    place = (image.width / 2, image.height / 2)
    ImageDraw.Draw(pale).multiline_text(place, lines, INK, font, anchor="mm", align="center")
    return pale


def framed(image: Image.Image, corners: tuple[float, float, float, float] | None, scale: float) -> Image.Image:
    """Draws an outline at `corners` (left, top, right, bottom, multiplied by `scale`), clipped to the image.

    The image is changed in place and returned; None draws nothing.
    """
    if corners is None:
        return image
    left, top, right, bottom = (round(value * scale) for value in corners)
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, image.width) - 1, min(bottom, image.height) - 1
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=PAPER, width=4)
    draw.rectangle((left + 1, top + 1, max(left + 1, right - 1), max(top + 1, bottom - 1)), outline=MARK, width=2)
    return image
