"""Rows and columns of a contact sheet, written as PNG, or as PDF or SVG with text that stays text."""

from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fgdata.errors import InputError, printable

PAPER, INK, FAINT = (255, 255, 255), (34, 38, 43), (120, 126, 134)
MARGIN, GAP, GROUP_GAP, LINE = 28, 10, 34, 18  # pixels
HEADINGS, CAPTION = (20, 18, 16, 14, 12), 15
"""Sizes of a font in pixels: of a heading, the largest that fits; of a caption."""
MOST_LINES = 3
"""Of a heading or caption."""


@dataclass(frozen=True)
class Text:
    """A line of text: its left or middle top corner, size and colour."""

    x: float
    y: float
    text: str
    size: int
    colour: tuple[int, int, int]
    centred: bool = False


@dataclass
class Sheet:
    """Everything on a sheet, in pixels from its upper left corner."""

    width: int
    height: int
    images: list[tuple[int, int, Image.Image]] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    rules: list[tuple[int, int, int]] = field(default_factory=list)
    """Horizontal lines: left, right, y."""

    def save(self, path: Path, suffix: str) -> None:
        """Writes the sheet as .png, .pdf or .svg. InputError when matplotlib, which writes the last two, is missing."""
        if suffix == ".png":
            self.raster().save(path, "PNG", optimize=True)
            return
        figure = _figure(self.width / 100, self.height / 100)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for left, top, image in self.images:
            place = (left, left + image.width, top + image.height, top)
            axes.imshow(np.asarray(image), extent=place, interpolation="none")
        for left, right, y in self.rules:
            axes.plot((left, right), (y, y), color=_hex(FAINT), linewidth=0.7)
        for text in self.texts:
            align = "center" if text.centred else "left"
            size = 0.62 * text.size  # 0.72 points a pixel, and less because matplotlib's font is wider
            axes.text(text.x, text.y, printable(text.text), color=_hex(text.colour), fontsize=size, ha=align, va="top")
            axes.texts[-1].set_parse_math(False)
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, 0)
        axes.set_aspect("auto")
        save_figure(figure, path, suffix)

    def raster(self) -> Image.Image:
        """The sheet as pixels."""
        sheet = Image.new("RGB", (self.width, self.height), PAPER)
        draw = ImageDraw.Draw(sheet)
        for left, top, image in self.images:
            sheet.paste(image, (left, top))
        for left, right, y in self.rules:
            draw.line((left, y, right, y), FAINT, 1)
        for text in self.texts:
            font = ImageFont.load_default(text.size)
            draw.text((text.x, text.y), text.text, text.colour, font, anchor="ma" if text.centred else "la")
        return sheet


def save_figure(figure: Any, path: Path, suffix: str) -> None:
    """Writes a matplotlib Figure as .png, .pdf or .svg: the same bytes each time, text as text."""
    import matplotlib

    options = {".png": {"dpi": 150}, ".pdf": {"metadata": {"CreationDate": None}}, ".svg": {"metadata": {"Date": None}}}
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "fgtrain"}):
        figure.savefig(path, format=suffix[1:], **options[suffix])


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError(
            "PDF and SVG need matplotlib, which is not installed: pip install matplotlib, or name a .png"
        ) from None
    return Figure(figsize=(width, height), dpi=100)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


JOINTS = "_-/"


def wrapped(text: str, size: int, width: float) -> list[str]:
    """Breaks text into lines of at most `width` pixels; all characters are kept.

    A break is between words where possible, else behind an underscore, hyphen or slash, else anywhere.
    """
    font = ImageFont.load_default(size)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        rest = word
        while font.getlength(rest) > width and len(rest) > 1:
            fits = bisect_right(range(1, len(rest)), width, key=lambda n: font.getlength(rest[:n]))
            joint = max(rest.rfind(mark, 0, fits) for mark in JOINTS)
            cut = joint + 1 if joint > 0 else max(1, fits)
            lines.append(rest[:cut])
            rest = rest[cut:]
        lines.append(rest)
    return lines


def shortened(text: str, size: int, width: float, most: int = MOST_LINES) -> list[str]:
    """As `wrapped`, with at most `most` lines: the middle of a longer text is replaced by "..."."""

    def cut(kept: int) -> list[str]:
        return wrapped(f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}", size, width)

    lines = wrapped(text, size, width)
    if len(lines) <= most:
        return lines
    kept = bisect_right(range(2, len(text)), most, key=lambda n: len(cut(n))) + 1
    return cut(max(2, kept))


def heading(text: str, width: float) -> tuple[int, list[str]]:
    """-> the largest size of HEADINGS at which the text takes two lines or fewer, no word broken, and its lines."""
    for size in HEADINGS:
        font, lines = ImageFont.load_default(size), wrapped(text, size, width)
        if len(lines) <= 2 and all(font.getlength(word) <= width for word in text.split()):
            return size, lines
    return HEADINGS[-1], shortened(text, HEADINGS[-1], width)


def layout(cells: list[list[Image.Image]], captions: list[str], heads: list[tuple[str, int]], size: int) -> Sheet:
    """Rows of cells -> the sheet: a heading above each group of columns, a caption below the first cell of each row.

    `heads` are (heading, columns of the group) from left to right; `size` is the side of a cell in pixels. A heading is
    no wider than its columns, so that headings never overlap.
    """
    below = [shortened(caption, CAPTION, size) for caption in captions]
    overhangs = [LINE * len(lines) - (size - row[0].height) // 2 for lines, row in zip(below, cells)]
    row_height = size + 2 * GAP + max(0, *overhangs)
    lefts, x = [], MARGIN
    for _, columns in heads:
        lefts += [x + i * (size + GAP) for i in range(columns)]
        x = lefts[-1] + size + GROUP_GAP
    titles = [heading(text, columns * size + (columns - 1) * GAP) for text, columns in heads]
    header = max(int(1.25 * font * len(lines)) for font, lines in titles) + 14
    top = MARGIN + header + GAP
    sheet = Sheet(lefts[-1] + size + MARGIN, top + len(cells) * row_height + MARGIN)
    column = 0
    for (font, lines), (_, columns) in zip(titles, heads):
        left, right = lefts[column], lefts[column + columns - 1] + size
        first = MARGIN + header - 10 - int(1.25 * font * len(lines))
        sheet.texts += [Text(left, first + int(1.25 * font * i), line, font, INK) for i, line in enumerate(lines)]
        sheet.rules.append((left, right, MARGIN + header - 4))
        column += columns
    for i, row in enumerate(cells):
        start = top + i * row_height
        for left, cell in zip(lefts, row):
            sheet.images.append((left + (size - cell.width) // 2, start + (size - cell.height) // 2, cell))
        bottom = start + (size + row[0].height) // 2 + 5
        middle = lefts[0] + size / 2
        sheet.texts += [Text(middle, bottom + LINE * n, line, CAPTION, FAINT, True) for n, line in enumerate(below[i])]
    return sheet
