"""The table of a study as text: for the terminal, as Markdown and as CSV. page.py writes it as HTML."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable

from ..printing import new_table
from .declaration import Column
from .figures import Cell, Line


@dataclass(frozen=True)
class Table:
    """What the table shows: head and foot are sentences."""

    title: str
    head: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    foot: tuple[str, ...]

    def has_paper(self, number: int) -> bool:
        """Whether the paper's figure of a column is known for any row."""
        return any(line.cells[number].paper is not None for line in self.lines)

    def has_base(self, number: int) -> bool:
        """Whether any row is compared with another in a column."""
        return any(line.cells[number].difference or line.cells[number].printed is not None for line in self.lines)


def number(value: float, column: Column, sign: str = "", digits: int = 1) -> str:
    """A figure in the unit of its column: 0.643 -> "64.3"; hours and parameters as they are."""
    return f"{100 * value if column.percent else value:{sign}.{digits}f}"


def ours(cell: Cell, column: Column) -> str:
    """ "64.3 ± 1.2", "64.3" of one seed, "" of none."""
    return _spread(cell.mean, column)


def difference(cell: Cell, column: Column) -> str:
    """ "+2.0 ± 1.1 *" over the seeds of both rows; the star says that the interval excludes zero."""
    return _spread(cell.difference, column, "+") + (" *" if cell.shows else "")


def paper(cell: Cell) -> str:
    """The printed figure; "" for none."""
    return "" if cell.paper is None else f"{cell.paper:.2f}".rstrip("0").rstrip(".")


def paper_difference(cell: Cell) -> str:
    """The printed figure minus that of the base row."""
    return "" if cell.printed is None else f"{cell.printed:+.2f}"


def _spread(spread: tuple[float, float | None] | None, column: Column, sign: str = "") -> str:
    if spread is None:
        return ""
    mean, half = spread
    return number(mean, column, sign) + (f" ± {number(half, column)}" if half is not None else "")


def terminal(table: Table) -> RichTable:
    """A row per row; a cell holds ours, the paper's, and the differences to the base row, one below the other."""
    shown = new_table(table.title, "row", *(column.name for column in table.columns))
    for line in table.lines:
        cells = []
        for column, cell in zip(table.columns, line.cells):
            gap = "; ".join(filter(None, [difference(cell, column), tagged("paper", paper_difference(cell))]))
            cells.append("\n".join(filter(None, [ours(cell, column), tagged("paper", paper(cell)), gap])))
        shown.add_row(line.name + (" (not run)" if line.missing else ""), *cells)
    return shown


def markdown(table: Table) -> str:
    """The whole page: title, head, one table, foot."""
    head = [f"# {table.title}", "", *(f"{escape(sentence)}\n" for sentence in table.head)]
    return "\n".join([*head, grid(table), "", *(f"* {escape(sentence)}" for sentence in table.foot), ""])


def grid(table: Table) -> str:
    """The table alone, in Markdown."""
    heads = ["row"]
    for i, column in enumerate(table.columns):
        heads.append(column.name)
        heads += ["paper"] * table.has_paper(i)
        heads += ["to base"] * table.has_base(i)
        heads += ["paper, to base"] * (table.has_paper(i) and table.has_base(i))
    rows = []
    for line in table.lines:
        words = [line.name]
        for i, (column, cell) in enumerate(zip(table.columns, line.cells)):
            words.append(ours(cell, column))
            words += [paper(cell)] * table.has_paper(i)
            words += [difference(cell, column)] * table.has_base(i)
            words += [paper_difference(cell)] * (table.has_paper(i) and table.has_base(i))
        rows.append(words)
    return in_markdown(heads, rows)


def in_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text in Markdown; all columns but the first are aligned to the right."""
    return "\n".join([_row(heads), "|" + "---|" + "---:|" * (len(heads) - 1), *map(_row, rows)])


def escape(text: str) -> str:
    """Text whose signs Markdown prints as they are."""
    return re.sub(r"([\\|*_`<\[])", r"\\\1", text).replace("\n", " ")


def as_csv(table: Table) -> str:
    """One line per row and column: mean, half its interval, n, the paper's, the difference to the base, each seed.

    n: the number of seeds; 1 for a value that does not depend on them.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = ["row", "column", "set", "evaluation", "figure", "n", "mean", "half interval", "paper", "base"]
    writer.writerow([*heads, "difference", "half interval of difference", "paper's difference", "values", "not run"])
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells):
            figures = [*(cell.mean or (None, None))]
            gap = [*(cell.difference or (None, None))]
            exact = ["" if v is None else number(v, column, digits=4) for v in (*figures, *gap)]
            values = " ".join(f"{seed}:{number(value, column, digits=4)}" for seed, value in cell.values.items())
            n = min(len(cell.values), 1) if cell.fixed else len(cell.values)
            known = [line.name, column.name, column.set, column.evaluation, column.figure, n]
            printed = ["" if v is None else f"{v:g}" for v in (cell.paper, cell.printed)]
            writer.writerow([*known, *exact[:2], printed[0], line.base, *exact[2:], printed[1], values, line.missing])
    return stream.getvalue()


def _row(words: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape, words)) + " |"


def tagged(tag: str, text: str) -> str:
    """A word before a text: paper 64.3; "" without a text."""
    return f"{tag} {text}" if text else ""
