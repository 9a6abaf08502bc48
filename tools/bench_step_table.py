"""The table of docs/training.md that tools/bench.py step writes."""

import re
from pathlib import Path
from typing import Any

from fgdata.errors import InputError

BLOCK = re.compile(r"(<!-- tools/bench\.py step -->\n).*?(<!-- end -->)", re.DOTALL)
HEADER = """| a step of | seconds | relative to | ratio | arithmetic | counted | ratio / counted |
|---|---|---|---|---|---|---|
"""


def table(figures: list[dict[str, Any]]) -> str:
    """The figures of a JSON file of `step` as Markdown."""
    return HEADER + "".join(map(row, figures))


def row(figure: dict[str, Any]) -> str:
    """Median (minimum to maximum) of times and ratios; what does not apply is empty."""
    ranges = [span(*(figure[key + end] for end in ("", "_min", "_max"))) for key in ("s", "ratio")]
    name, base = (f"`{figure[key]}`" if figure[key] else "" for key in ("step", "to"))
    rest = (f"{value:.2f}" if value else "" for value in map(figure.get, ("gflop_ratio", "counted", "of_counted")))
    return f"| {' | '.join([name, ranges[0], base, ranges[1], *rest])} |\n"


def span(middle: float | None, least: float, most: float) -> str:
    return "" if middle is None else f"{middle:.2f} ({least:.2f} to {most:.2f})"


def write_table(page: Path, figures: list[dict[str, Any]]) -> None:
    """Replaces the table of a page. InputError if the page has no place for it."""
    text = page.read_text()
    if not BLOCK.search(text):
        raise InputError(f"{page} has no lines <!-- tools/bench.py step --> and <!-- end --> around a table.")
    page.write_text(BLOCK.sub(lambda found: f"{found[1]}\n{table(figures)}\n{found[2]}", text))
