"""Parts of a contact sheet: pixels, outlines, captions, rows and columns."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fgdata.shards.reader import ShardSet, label, meta
from fgdata.views import ViewSpec

from ..settings.common import need

PAPER, INK, FAINT, MARK = (255, 255, 255), (34, 38, 43), (120, 126, 134), (255, 122, 0)
MARGIN, GAP, GROUP_GAP, HEADER, LINE = 28, 10, 34, 58, 18  # pixels
MOST_ROWS = 100


def check_rows(rows: int, shards: ShardSet, split: str, most: int = MOST_ROWS) -> None:
    """InputError when the set has no such split, or unless 1 to `most` rows of its images can be drawn."""
    images = len(shards.split(split))
    need(1 <= rows <= min(most, images), "rows", rows, f"1 to {min(most, images):,} of the {images:,} {split} images")


def caption(shards: ShardSet, sample: dict[str, bytes]) -> str:
    """The class of a sample in words, or its id when the set has no such class."""
    number = label(sample)
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


def wrapped(text: str, font: Any, width: int) -> str:
    """Breaks text between words into at most three lines of `width` pixels; a longer word is not broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:3])


def layout(cells: list[list[Image.Image]], captions: list[str], heads: list[tuple[str, int]], size: int) -> Image.Image:
    """Rows of cells -> the sheet: a heading above each group of columns, a caption below the first cell of each row.

    `heads` are (heading, columns of the group) from left to right; `size` is the side of a cell in pixels.
    """
    large, small = ImageFont.load_default(20), ImageFont.load_default(15)
    captions = [wrapped(caption, small, size) for caption in captions]
    overhangs = [LINE * (c.count("\n") + 1) - (size - row[0].height) // 2 for c, row in zip(captions, cells)]
    row_height = size + 2 * GAP + max(0, *overhangs)
    lefts, x = [], MARGIN
    for _, columns in heads:
        lefts += [x + i * (size + GAP) for i in range(columns)]
        x = lefts[-1] + size + GROUP_GAP
    height = MARGIN + HEADER + len(cells) * row_height + MARGIN
    sheet = Image.new("RGB", (lefts[-1] + size + MARGIN, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    column = 0
    for text, columns in heads:
        left, right = lefts[column], lefts[column + columns - 1] + size
        draw.text((left, MARGIN), text, INK, large)
        draw.line((left, MARGIN + 34, right, MARGIN + 34), FAINT, 1)
        column += columns
    for i, row in enumerate(cells):
        top = MARGIN + HEADER + i * row_height
        for left, cell in zip(lefts, row):
            sheet.paste(cell, (left + (size - cell.width) // 2, top + (size - cell.height) // 2))
        bottom = top + (size + row[0].height) // 2
        draw.multiline_text((lefts[0] + size / 2, bottom + 5), captions[i], FAINT, small, anchor="ma", align="center")
    return sheet
