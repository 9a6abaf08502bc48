"""`fgtrain compare`: one row per group of runs, one column per figure, as a table, Markdown, LaTeX, CSV or JSON."""

import csv
import io
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from fgdata.errors import InputError, counted

from ..printing import new_table, say
from ..runs.rundir import RunDir
from ..settings import evaluations
from ..settings.common import need
from ..settings.file import as_flags
from . import compare
from .compare import Column, Group
from .intervals import mean_interval

MOST_SETTINGS = 6
"""Settings of a row that a note lists; rows of several methods differ in dozens."""
FLAGS = {"knn": evaluations.Knn, "linear": evaluations.Linear, "finetune": evaluations.Finetune}


@dataclass(frozen=True)
class Cell:
    """The figures of one row in one column: fractions of one, one per seed."""

    values: Sequence[float] = ()
    runs: int = 0
    """Runs that could have a figure; fewer values than runs are marked."""

    def text(self, plus_minus: str = " ± ") -> str:
        """ "64.3 ± 1.2", "64.3" of one value, "" without; "(1 of 2)" when a run lacks its figure."""
        if not self.values:
            return ""
        mean, half = mean_interval(self.values)
        interval = f"{plus_minus}{100 * half:.1f}" if half is not None else ""
        lacking = f" ({len(self.values)} of {self.runs})" if len(self.values) < self.runs else ""
        return f"{100 * mean:.1f}{interval}{lacking}"


@dataclass(frozen=True)
class Row:
    """A row of the table. `kind`: group, seed (of the group above it), untrained or chance."""

    name: str
    cells: list[Cell]
    kind: str = "group"


def run_compare(flags: evaluations.Compare) -> None:
    """Prints the runs in the format of `flags`. Runs that cannot be read are left out, and then named by an InputError.

    In CSV and JSON only the document is on standard output; notes are part of the JSON, and on standard error for CSV.
    """
    groups, faults = compare.compare(flags.runs)
    if groups:
        names = _named(groups, flags.labels)
        columns = compare.columns_of(groups)
        if not columns:
            raise InputError("\n".join([*faults, *_missing(groups, columns)]))
        rows, notes = rows_of(groups, names, columns, flags.seeds), notes_of(groups, names, columns)
        if flags.format == "json":
            say(json.dumps(document(groups, names, columns, notes), indent=2))
        else:
            FORMATS[flags.format](titles(columns), rows, notes)
    if faults:
        raise InputError("\n".join(faults))


def _named(groups: Sequence[Group], labels: Sequence[str]) -> list[str]:
    names = compare.names_of(groups)
    need(
        len(labels) in (0, len(groups)),
        "labels",
        f"given {counted(len(labels), 'name')}",
        f"one for each of these {len(groups)} rows, in this order: {'; '.join(names)}",
    )
    return list(labels) or names


def titles(columns: Sequence[Column]) -> list[str]:
    """A title per column; settings are named where two columns have the same figure."""
    out = []
    for column in columns:
        namesakes = [c for c in columns if (c.evaluation, c.figure) == (column.evaluation, column.figure)]
        changed = [one for one in column.settings if any(one not in other.settings for other in namesakes)]
        parts = [_setting(name, value) for name, value in changed if value is not None]
        if len({other.digest for other in namesakes}) > 1:
            parts.append(f"set {column.digest[:7]}")
        out.append(", ".join([column.title, *parts]))
    return out


def rows_of(groups: Sequence[Group], names: Sequence[str], columns: Sequence[Column], seeds: bool) -> list[Row]:
    """The rows of the table: groups, with `seeds` also each of their runs, then untrained networks and chance."""
    rows = []
    for group, name in zip(groups, names):
        rows.append(Row(name, [Cell(group.values(column), len(group.runs)) for column in columns]))
        for run in group.runs if seeds else ():
            single = Group(group.settings, [run])
            rows.append(Row(f"seed {run.seed}", [Cell(single.values(column)) for column in columns], "seed"))
    for network, values in compare.untrained(groups).items():
        name = f"untrained ({network})" if network else "untrained"
        rows.append(Row(name, [Cell(values.get(column, ())) for column in columns], "untrained"))
    guess = compare.chance(groups)
    if guess:
        cells = [Cell([guess[column]] if column in guess else ()) for column in columns]
        rows.append(Row("chance", cells, "chance"))
    return rows


def notes_of(groups: Sequence[Group], names: Sequence[str], columns: Sequence[Column]) -> list[str]:
    """What was compared, and what is missing: the lines below the table."""
    notes = [_legend(name, group, groups) for name, group in zip(names, groups)]
    for kind, settings in dict.fromkeys((column.evaluation, column.settings) for column in columns):
        given = ", ".join(_setting(name, value) for name, value in settings if value is not None)
        notes.append(f"{kind}: {given}")
    digests = sorted({column.digest for column in columns})
    if len(digests) == 1:
        notes.append(f"All results were measured on one shard set (digest {digests[0][:12]}).")
    else:
        notes.append(f"Measured on {len(digests)} different shard sets: digests {', '.join(d[:12] for d in digests)}.")
    if duplicated := [name for name, group in zip(names, groups) if len(set(group.seeds)) < len(group.seeds)]:
        notes.append(f"Duplicate seed ({', '.join(duplicated)}): runs of one seed are not independent trials.")
    counts = {len(group.values(column)) for group in groups for column in columns}
    if max(counts) > 1:
        notes.append("%, mean over seeds ± half its 95 % interval (Student's t).")
    if 2 in counts:
        notes.append(
            "An interval over two seeds is of little use: t is 12.7, against 4.3 for three seeds. Train a third seed, "
            "or print the raw values: --seeds"
        )
    for run in (run for group in groups for run in group.runs if run.unchecked):
        where = f"{counted(run.unchecked, 'result')} in {run.path / 'results.jsonl'}"
        notes.append(f"An earlier version wrote {where}, without a checksum to detect damage.")
    return [*notes, *_missing(groups, columns)]


def _missing(groups: Sequence[Group], columns: Sequence[Column]) -> list[str]:
    """A line per evaluation that some runs lack, with the command that measures it."""
    runs = [run for group in groups for run in group.runs]
    lines = []
    if bare := [str(run.path) for run in runs if not run.results]:
        have = "has no results" if len(bare) == 1 else "have no results"
        lines.append(f"{', '.join(bare)} {have} yet. Measure: fgtrain eval all {shlex.join(bare)}")
    for kind, settings, digest in dict.fromkeys((c.evaluation, c.settings, c.digest) for c in columns):
        column = next(c for c in columns if (c.evaluation, c.settings, c.digest) == (kind, settings, digest))
        for group in groups:
            lacking = [str(run.path) for run in group.runs if run.results and column not in run.results]
            if lacking:
                command = f"fgtrain eval {kind} {shlex.join(lacking)} {_flags(column, group, runs)}".strip()
                have = "has" if len(lacking) == 1 else "have"
                lines.append(f"{', '.join(lacking)} {have} no such {kind} result. Measure: {command}")
    return lines


def _flags(column: Column, group: Group, runs: Sequence[compare.Run]) -> str:
    """The flags of `fgtrain eval` that fill this column for a run of the group, without those at their defaults."""
    kind, given = FLAGS.get(column.evaluation), dict(column.settings)
    defaults = {f.name: f.default for f in fields(kind)} if kind else {}
    if "fraction" in given:
        given["fractions"] = (given.pop("fraction"),)
    if given.get("labels"):
        given["labels"] = given["labels"].rpartition(" (")[0]  # without the sha256 of the file
    size = given.pop("size", None)
    chosen: dict[str, Any] = {name: value for name, value in given.items() if defaults.get(name) != value}
    chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    if size != group.settings["views.size"]:
        chosen["size"] = size
    if group.settings["data.shards"] != column.digest[:12]:
        chosen["shards"] = next(run.results[column].values.get("shards") for run in runs if column in run.results)
    return as_flags(chosen)


def _legend(name: str, group: Group, groups: Sequence[Group]) -> str:
    settings = {key: group.settings[key] for key in compare.different(groups)}
    own = [compare.describe(key, value) for key, value in settings.items() if (key, value) != ("method", group.kind)]
    own = [one for one in own if one not in name.split(", ")]
    if len(own) > MOST_SETTINGS:
        own[MOST_SETTINGS:] = [f"and {len(own) - MOST_SETTINGS} more settings that differ: --format json"]
    listed = "; ".join(own)
    seeds = "seeds" if len(group.runs) > 1 else "seed"
    steps = sorted({line.values["step"] for run in group.runs for line in run.results.values()})
    remarks = {step: sorted({RunDir(run.path).progress(step) for run in group.runs if run.has(step)}) for step in steps}
    each = [f"{step:,}{remark}" for step, every in remarks.items() for remark in every]
    trained = f"; step{'s' * (len(each) > 1)} {', '.join(each)}" if each else ""
    runs = ", ".join(str(run.path) for run in group.runs)
    return f"{name}: {runs} ({seeds} {_join(group.seeds)}{trained}{'; ' * bool(listed)}{listed})"


def document(groups: Sequence[Group], names: Sequence[str], columns: Sequence[Column], notes: list[str]) -> Any:
    """The comparison as JSON values; figures are fractions of one."""

    def results(values: dict[Column, list[float]]) -> list[dict[str, Any]]:
        out = []
        for column, each in values.items():
            mean, half = mean_interval(each)
            result = {"evaluation": column.evaluation, "figure": column.figure, **dict(column.settings)}
            out.append(result | {"digest": column.digest, "mean": mean, "interval_half": half, "values": each})
        return out

    rows = []
    for group, name in zip(groups, names):
        values = {column: group.values(column) for column in columns}
        about = {key: group.settings[key] for key in ("method", *compare.different(groups))}
        steps = sorted({line.values["step"] for run in group.runs for line in run.results.values()})
        row = {
            "name": name,
            "recipe": group.kind,
            "runs": [str(run.path) for run in group.runs],
            "seeds": group.seeds,
            "steps": steps,
        }
        rows.append(row | {"settings": about, "results": results({c: v for c, v in values.items() if v})})
    untrained = [{"network": name, "results": results(values)} for name, values in compare.untrained(groups).items()]
    guess = results({column: [value] for column, value in compare.chance(groups).items()})
    return {"groups": rows, "untrained": untrained, "chance": guess, "notes": notes}


def print_table(heads: Sequence[str], rows: Sequence[Row], notes: Sequence[str]) -> None:
    """A table for the terminal, and the notes below it."""
    table = new_table("%", "runs", *heads)
    before = "group"
    for row in rows:
        if row.kind in ("untrained", "chance") and before in ("group", "seed"):
            table.add_section()
        table.add_row(f"  {row.name}" if row.kind == "seed" else row.name, *(cell.text() for cell in row.cells))
        before = row.kind
    say(table, *notes)


def print_markdown(heads: Sequence[str], rows: Sequence[Row], notes: Sequence[str]) -> None:
    """A table of Markdown, and the notes as a list."""

    def line(*words: str) -> str:
        return "| " + " | ".join(re.sub(r"([\\|*_`<\[])", r"\\\1", word) for word in words) + " |"

    say(line("runs (%)", *heads), "|" + "---|" + "---:|" * len(heads))
    for row in rows:
        say(line(row.name, *(cell.text() for cell in row.cells)))
    say("", *(re.sub(r"([\\*_`<\[])", r"\\\1", f"- {note}") for note in notes))


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {char: f"\\{char}" for char in "&%$#_{}"}


def print_latex(heads: Sequence[str], rows: Sequence[Row], notes: Sequence[str]) -> None:
    """A tabular of LaTeX (package booktabs), and the notes as comments above it."""

    def escaped(text: str) -> str:
        return "".join(LATEX.get(char, char) for char in text)

    say(*(f"% {note}".replace("\n", " ") for note in notes))
    say(rf"\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule")
    say(" & ".join(["", *map(escaped, heads)]) + r" \\", r"\midrule")
    before = "group"
    for row in rows:
        if row.kind in ("untrained", "chance") and before in ("group", "seed"):
            say(r"\midrule")
        cells = [cell.text(r" \pm ").partition(" (") for cell in row.cells]
        figures = [f"${figure}${space}{lacking}" if figure else "" for figure, space, lacking in cells]
        indent = r"\quad " if row.kind == "seed" else ""
        say(" & ".join([indent + escaped(row.name), *figures]) + r" \\")
        before = row.kind
    say(r"\bottomrule", r"\end{tabular}")


def print_csv(heads: Sequence[str], rows: Sequence[Row], notes: Sequence[str]) -> None:
    """CSV in percent: per figure its mean, half its 95 % interval, and the number of seeds. Notes: standard error."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "kind", *(name for head in heads for name in (head, f"{head} ±", f"{head} n"))])
    for row in rows:
        words: list[Any] = [row.name, row.kind]
        for cell in row.cells:
            mean, half = mean_interval(cell.values) if cell.values else (None, None)
            words += ["" if v is None else f"{100 * v:.4f}" for v in (mean, half)] + [len(cell.values) or ""]
        writer.writerow(words)
    say(stream.getvalue().rstrip("\n"))
    print("\n".join(notes), file=sys.stderr)


FORMATS = {"table": print_table, "markdown": print_markdown, "latex": print_latex, "csv": print_csv}


def _setting(name: str, value: Any) -> str:
    if name == "cache":
        return "cached" if value else "not cached"
    if name == "labels" and value is None:
        return "all labels"
    return f"{value:.0%} of labels" if name == "fraction" else compare.describe(name, value)


def _join(values: Sequence[int]) -> str:
    return ", ".join(f"{value:,}" for value in values)
