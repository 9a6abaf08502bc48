"""The README's figure as SVG: differences to a study's base row with 95 % intervals.

It has a white ground of its own, so that it reads the same on light and dark pages.
"""

from html import escape

from fgtrain.studies.declaration import Column
from fgtrain.studies.figures import Cell, Line, usual_base
from fgtrain.studies.page import axis
from fgtrain.studies.tables import Table, difference

WIDTH, LABEL, GAP, STEP, TOP, BOTTOM = 900, 250, 48, 22, 62, 34
MOST = 3
"""Panels at most: the first column of each evaluation."""
BETTER, WORSE, NOISE, TEXT, GRID = "#0f766e", "#c2410c", "#94a3b8", "#0f172a", "#cbd5e1"


def figure(table: Table) -> str | None:
    """The figure of the rows that are compared with the most common base row; None without an interval."""
    columns: dict[str, int] = {}
    for i, column in enumerate(table.columns):
        if column.percent and any(line.cells[i].shows is not None for line in table.lines):
            columns.setdefault(column.evaluation, i)
    chosen = list(columns.values())[:MOST]
    lines = [line for line in table.lines if any(line.cells[i].difference for i in chosen)]
    if not lines:
        return None
    base = usual_base(lines)
    lines = [line for line in lines if line.base == base]
    height = TOP + STEP * len(lines) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title" '
        'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13">',
        f'<title id="title">{escape(f"{table.title} Differences to {base}")}</title>',
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
        text(16, 26, table.title, size=15, weight=600),
    ]
    parts += [text(LABEL - 10, middle(i) + 4, short(line.name), "end") for i, line in enumerate(lines)]
    width = (WIDTH - LABEL - GAP * len(chosen)) / len(chosen)
    for place, i in enumerate(chosen):
        left = LABEL + place * (width + GAP)
        parts += panel(table.columns[i], [(line, line.cells[i]) for line in lines], left, width, height, base)
    return "\n".join([*parts, "</svg>", ""])


def panel(
    column: Column, rows: list[tuple[Line, Cell]], left: float, width: float, height: float, base: str
) -> list[str]:
    """One column: a dot per row at its difference in points, and its interval."""
    spans = [(cell.difference[0], cell.difference[1] or 0.0) for _, cell in rows if cell.difference]
    ends = [100 * (mean + sign * half) for mean, half in spans for sign in (-1, 1)]
    low, high = axis(min(0.0, *ends), max(0.0, *ends))

    def x(points: float) -> float:
        return left + (points - low) / (high - low) * width

    zero, bottom = x(0), height - BOTTOM
    parts = [text(left + width / 2, 48, f"{column.name}, points", "middle", weight=600)]
    parts.append(f'<path d="M{zero:.1f} {TOP - 4}V{bottom}" stroke="{GRID}" stroke-width="2"/>')
    parts.append(text(zero, height - 14, base, "middle", size=12))
    for end in (low, high):
        if abs(x(end) - zero) > 60:  # else the labels would touch
            parts.append(text(x(end), height - 14, f"{end:+g}", "middle", size=12))
    for i, (_, cell) in enumerate(rows):
        if cell.difference is None:
            continue
        mean, half = cell.difference
        colour = NOISE if not cell.shows else BETTER if mean > 0 else WORSE
        y = middle(i)
        if half is not None:
            ends = f"M{x(100 * (mean - half)):.1f} {y:g}H{x(100 * (mean + half)):.1f}"
            parts.append(f'<path d="{ends}" stroke="{colour}" stroke-width="2.5"/>')
        style = f'r="4" fill="{"#ffffff" if half is None else colour}" stroke="{colour}" stroke-width="1.5"'
        label = f"<title>{escape(difference(cell, column))}</title>"
        parts.append(f'<circle cx="{x(100 * mean):.1f}" cy="{y:g}" {style}>{label}</circle>')
    return parts


def middle(row: int) -> float:
    return TOP + STEP * row + STEP / 2


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 13, weight: int = 400) -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{TEXT}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def short(name: str) -> str:
    return name if len(name) <= 36 else f"{name[:35]}…"
