"""The table of a study as one page of HTML: bars with 95 % intervals and the paper's figures, drawn as inline SVG."""

import math
from html import escape

from . import tables
from .declaration import Column
from .figures import Cell, Line
from .tables import Table

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th:first-child,td:first-child{text-align:left}small{color:#666}.missing{color:#888}
svg{display:block;max-width:100%}svg text{font:13px system-ui,sans-serif;fill:#222}.figures{overflow-x:auto}"""
WIDTH, LABEL, RIGHT, STEP, TOP = 760, 250, 150, 24, 8
BAR, INTERVAL, PAPER = "#7a9cc6", "#1d3557", "#d1495b"


def page(table: Table) -> str:
    """The page; it loads nothing."""
    head = "".join(f"<p>{escape(sentence)}</p>" for sentence in table.head)
    foot = "".join(f"<li>{escape(sentence)}</li>" for sentence in table.foot)
    charts = "".join(
        f"<h2>{escape(column.name)}</h2>{chart(column, [(line, line.cells[i]) for line in table.lines])}"
        for i, column in enumerate(table.columns)
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(table.title)}</title>'
        f"<style>{STYLE}</style><h1>{escape(table.title)}</h1>{head}{_table(table)}{charts}<ul>{foot}</ul></html>\n"
    )


def _table(table: Table) -> str:
    heads = "".join(f"<th>{escape(column.name)}" for column in table.columns)
    rows = []
    for line in table.lines:
        cells = []
        for column, cell in zip(table.columns, line.cells):
            gap = [tables.difference(cell, column), tables.tagged("paper", tables.paper_difference(cell))]
            small = "; ".join(filter(None, [tables.tagged("paper", tables.paper(cell)), *gap]))
            cells.append(f"<td>{escape(tables.ours(cell, column))}<br><small>{escape(small)}</small>")
        missing = f'<br><small class="missing">not run: {escape(line.missing)}</small>' if line.missing else ""
        rows.append(f"<tr><td>{escape(line.name)}{missing}{''.join(cells)}")
    return f'<div class="figures"><table><tr><th>row{heads}{"".join(rows)}</table></div>'


def chart(column: Column, rows: list[tuple[Line, Cell]]) -> str:
    """A bar per row from the axis' start, its 95 % interval, and a mark at the paper's figure."""
    factor = 100 if column.percent else 1
    marks = []
    for _, cell in rows:
        if cell.mean is not None:
            mean, half = cell.mean
            marks += [factor * (mean - (half or 0)), factor * (mean + (half or 0))]
        if cell.paper is not None:
            marks.append(cell.paper)
    if not marks:
        return "<p class=missing>no figure yet</p>"
    low, high = axis(min(marks), max(marks))
    height = TOP + STEP * len(rows) + 24

    def x(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return LABEL + share * (WIDTH - LABEL - RIGHT)

    parts = []
    for i, (line, cell) in enumerate(rows):
        y = TOP + STEP * i + STEP / 2
        parts.append(f'<text x="{LABEL - 8}" y="{y + 4:g}" text-anchor="end">{escape(_short(line.name))}</text>')
        if cell.mean is not None:
            mean, half = cell.mean
            parts.append(_bar(x(low), x(factor * mean), y))
            if half is not None:
                parts.append(_whisker(x(factor * (mean - half)), x(factor * (mean + half)), y))
            text = escape(tables.ours(cell, column))
            parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{y + 4:g}">{text}</text>')
        if cell.paper is not None:
            at = x(cell.paper)
            parts.append(f'<path d="M{at:.1f} {y - 9:g}v18" stroke="{PAPER}" stroke-width="3"/>')
    for value in (low, (low + high) / 2, high):
        parts.append(f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value:g}</text>')
    marked = any(cell.paper is not None for _, cell in rows)
    legend = "<p><small>Red: the paper's figure, of its own scale.</small></p>" if marked else ""
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">{"".join(parts)}</svg>{legend}'


def axis(least: float, most: float) -> tuple[float, float]:
    """Round ends of an axis that holds both figures: 0 if the least is near it, with steps of 1, 2 or 5 x 10^n."""
    span = max(most - min(least, most), abs(most) * 0.05, 1e-9)
    step = next(s * 10.0**n for n in range(-9, 12) for s in (1, 2, 5) if s * 10.0**n >= span / 5)
    low = 0.0 if 0 <= least <= 0.5 * most else math.floor(least / step) * step
    return low, (math.floor(most / step + 1e-9) + 1) * step


def _bar(left: float, right: float, y: float) -> str:
    return f'<rect x="{left:.1f}" y="{y - 7:g}" width="{max(0.0, right - left):.1f}" height="14" fill="{BAR}"/>'


def _whisker(left: float, right: float, y: float) -> str:
    ends = f"M{left:.1f} {y - 5:g}v10M{left:.1f} {y:g}H{right:.1f}M{right:.1f} {y - 5:g}v10"
    return f'<path d="{ends}" stroke="{INTERVAL}" stroke-width="1.5" fill="none"/>'


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33]}…"
