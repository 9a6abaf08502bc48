"""`fgtrain watch`: the curves of several runs while they train, in the terminal or as one self-contained page."""

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fgdata.commandline.console import PlainConsole
from fgdata.errors import InputError, printable

from ..printing import say
from ..runs.files import write_bytes
from ..runs.rundir import RunDir, check_is_run
from ..settings.common import need
from ..settings.pictures import Watch
from .curves import COLOURS, THROUGHPUT, Series, curves, names

BARS = " ▁▂▃▄▅▆▇█"
COLUMNS = 48
"""Characters of a curve in the terminal."""
WIDTH, HEIGHT, LEFT, FOOT = 420, 200, 58, 22
"""Of a chart on the page in pixels: the whole, and the space for the axes."""


@dataclass(frozen=True)
class Watched:
    """A run as it is now."""

    name: str
    status: str
    series: Series

    @property
    def epoch(self) -> float:
        """The last epoch in its metrics; 0 if there are none."""
        return max((epochs[-1] for epochs, _ in self.series.values()), default=0.0)


def run_watch(flags: Watch) -> None:
    """Runs `fgtrain watch`: shows the runs until none of them is training any more, or Ctrl-C; once, when the output is
    no terminal. With --out it writes the page each time instead.

    InputError when a folder is no run, or when --figures names a metric that no run has.
    """
    if not flags.runs:
        raise InputError("No run is named. Name run directories: fgtrain watch runs/cvsa")
    need(len(flags.runs) <= len(COLOURS), "runs", f"{len(flags.runs)} folders", f"at most {len(COLOURS)}")
    runs = read_runs(flags.runs)
    recorded = {figure for run in runs for figure in run.series}
    for figure in flags.figures if recorded else ():
        need(figure in recorded, "figures", figure, ", ".join(sorted(recorded)))
    console = PlainConsole()
    if flags.out is not None:
        write_bytes(flags.out, page(runs, flags.figures, flags.every).encode())
        say(f"Wrote {flags.out}. Open it in a browser; it needs no other file.")
        while not flags.once and training(runs):
            time.sleep(flags.every)
            runs = read_runs(flags.runs)
            write_bytes(flags.out, page(runs, flags.figures, flags.every).encode())
        return
    if flags.once or not console.is_terminal:
        console.print(panel(runs, flags.figures))
        return
    with Live(panel(runs, flags.figures), console=console, auto_refresh=False) as live:
        while training(runs):
            time.sleep(flags.every)
            runs = read_runs(flags.runs)
            live.update(panel(runs, flags.figures), refresh=True)


def training(runs: Sequence[Watched]) -> bool:
    """Whether any run is still training."""
    return any(run.status == "running" for run in runs)


def read_runs(paths: Sequence[Path]) -> list[Watched]:
    """Run directories -> their metrics so far. InputError for a folder that is no run."""
    watched = []
    for path, name in zip(paths, names(paths)):
        check_is_run(path)
        started = (path / "metrics.jsonl").is_file() and (path / "metrics.jsonl").stat().st_size > 0
        watched.append(Watched(name, RunDir(path).status or "unknown", curves(path) if started else {}))
    return watched


def chosen(runs: Sequence[Watched], figures: Sequence[str]) -> list[str]:
    """The metrics to show: the named ones, else all but throughput, in the order of the runs."""
    recorded = list(dict.fromkeys(figure for run in runs for figure in run.series))
    return list(figures) or [figure for figure in recorded if figure not in THROUGHPUT]


def limits(runs: Sequence[Watched], figure: str) -> tuple[float, float, float]:
    """Least and largest value of a metric over all runs, and the last epoch."""
    values = [value for run in runs if figure in run.series for value in run.series[figure][1]]
    return min(values, default=0.0), max(values, default=0.0), max((run.epoch for run in runs), default=0.0)


def panel(runs: Sequence[Watched], figures: Sequence[str]) -> Group:
    """One table per metric, one row per run: the curve, its last value, and the limits of the scale."""
    parts: list[Table | Text] = [
        Text("  ".join(printable(f"{run.name}: {run.status}, epoch {run.epoch:g}") for run in runs), overflow="fold")
    ]
    for figure in chosen(runs, figures):
        low, high, last = limits(runs, figure)
        title = printable(f"{figure}: {low:.4g} to {high:.4g}")
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 1))
        for run in (run for run in runs if figure in run.series):
            epochs, values = run.series[figure]
            bars = Text(sparkline(epochs, values, low, high, last), no_wrap=True)
            table.add_row(Text(printable(run.name), overflow="fold"), bars, f"{values[-1]:.4g}")
        parts.append(table)
    if len(parts) == 1:
        parts.append(Text("no metrics yet"))
    return Group(*parts)


def sparkline(
    epochs: Sequence[float], values: Sequence[float], low: float, high: float, last: float, columns: int = COLUMNS
) -> str:
    """Values over the epochs 0 to `last` -> a character per column: the mean of its values between `low` and `high`.
    A column without a value is blank."""
    sums, counts = [0.0] * columns, [0] * columns
    for epoch, value in zip(epochs, values):
        column = min(columns - 1, int(columns * epoch / last)) if last > 0 else 0
        sums[column] += value
        counts[column] += 1
    scale = (len(BARS) - 2) / (high - low) if high > low else 0.0
    return "".join(BARS[1 + round((s / n - low) * scale)] if n else " " for s, n in zip(sums, counts))


def page(runs: Sequence[Watched], figures: Sequence[str], every: float) -> str:
    """The page: a legend, and a chart per metric. While a run is training, the browser loads it again."""
    refresh = f'<meta http-equiv="refresh" content="{max(1, round(every))}">' if training(runs) else ""
    legend = "".join(
        f'<li><b style="color:{colour}">&#9644;</b> {html.escape(printable(run.name))} '
        f"<small>{html.escape(printable(run.status))}, epoch {run.epoch:g}</small></li>"
        for colour, run in zip(COLOURS, runs)
    )
    charts = "".join(chart(runs, figure) for figure in chosen(runs, figures)) or "<p>no metrics yet</p>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{refresh}<title>fgtrain watch</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style><ul>{legend}</ul><main>{charts}</main></html>\n"
    )


STYLE = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:1.5rem;color:#22262b;background:#fff}"
    "ul{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.5rem}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:1rem}"
    "figure{margin:0}figcaption{font-weight:600}svg{width:100%;height:auto}"
    "svg text{font-size:11px;fill:#78808a}svg path{fill:none;stroke-width:1.6}svg rect{fill:none;stroke:#c5cad0}"
    "@media(prefers-color-scheme:dark){body{color:#e8eaed;background:#16181b}svg rect{stroke:#454b52}}"
)


def chart(runs: Sequence[Watched], figure: str) -> str:
    """An SVG of one metric: a line per run over the epochs, and the last values."""
    low, high, last = limits(runs, figure)
    across, up = (WIDTH - LEFT - 8) / (last or 1), (HEIGHT - FOOT - 8) / ((high - low) or 1)
    lines, ends = [], []
    for colour, run in zip(COLOURS, runs):
        if figure not in run.series:
            continue
        points = [
            f"{LEFT + epoch * across:.1f},{HEIGHT - FOOT - (value - low) * up:.1f}"
            for epoch, value in zip(*run.series[figure])
        ]
        start = "" if len(points) > 1 else f"M{points[0]}h3"
        lines.append(f'<path stroke="{colour}" d="{start or "M" + "L".join(points)}"/>')
        ends.append(f"{run.series[figure][1][-1]:.4g}")
    name = html.escape(printable(figure))
    return (
        f"<figure><figcaption>{name} <small>{', '.join(ends)}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f'<rect x="{LEFT}" y="8" width="{WIDTH - LEFT - 8}" height="{HEIGHT - FOOT - 8}"/>{"".join(lines)}'
        f'<text x="{LEFT - 4}" y="16" text-anchor="end">{high:.4g}</text>'
        f'<text x="{LEFT - 4}" y="{HEIGHT - FOOT}" text-anchor="end">{low:.4g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">0</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">epoch {last:g}</text></svg></figure>'
    )
