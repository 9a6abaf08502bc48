"""Training curves: each metric of metrics.jsonl over the epochs, one panel per metric, one line per run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fgdata.errors import InputError

from ..evaluate.subject import read_lines
from ..runs.files import whole
from ..settings.common import need
from ..settings.pictures import Curves

AXIS = ("step", "epoch")
THROUGHPUT = ("images_per_second", "data_wait")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Distinguishable with colour blindness (Okabe and Ito)."""
COLUMNS, WIDTH, HEIGHT = 3, 4.2, 2.7  # panels per row; size of a panel in inches


def draw_curves(flags: Curves) -> Path:
    """Writes the picture and returns its path. InputError for a run without metrics, or a metric that no run has."""
    paths, figures = flags.runs, flags.figures
    need(1 <= len(paths) <= len(COLOURS), "RUN", f"given {len(paths)} times", f"1 to {len(COLOURS)} runs")
    runs = {name: curves(path) for name, path in zip(names(paths), paths)}
    recorded = list(dict.fromkeys(figure for lines in runs.values() for figure in lines))
    for figure in figures:
        need(figure in recorded, "figures", figure, ", ".join(recorded))
    wanted = list(figures) or [figure for figure in recorded if figure not in THROUGHPUT]
    out = flags.out or paths[0] / "curves.png"
    with whole(out) as part:
        draw(runs, wanted).savefig(part, format="png", dpi=150)
    Console(highlight=False, soft_wrap=True).print(f"{out}: {', '.join(wanted)} of {', '.join(runs)}")
    return out


def curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Run directory -> metric -> epochs and values; a line without the metric, or with NaN, adds no point.

    InputError when the run has no metrics yet.
    """
    lines = read_lines(path / "metrics.jsonl")
    if not lines:
        raise InputError(f"{path} has no metrics.jsonl, or an empty one. Name run directories, such as runs/cvsa.")
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in AXIS and isinstance(value, (int, float)) and math.isfinite(value):
                epochs, values = series.setdefault(name, ([], []))
                epochs.append(line["epoch"])
                values.append(value)
    return series


def names(paths: Sequence[Path]) -> list[str]:
    """The names of the folders, or the whole paths when two folders have the same name."""
    own = [path.resolve().name for path in paths]
    return own if len(set(own)) == len(own) else [str(path) for path in paths]


def draw(runs: dict[str, dict[str, tuple[list[float], list[float]]]], figures: Sequence[str]) -> Any:
    """Run -> metric -> epochs and values: draws a matplotlib Figure with one panel per metric.

    InputError when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise InputError("show curves needs matplotlib, which is not installed: pip install 'fgdata[plot]'") from None
    columns = min(COLUMNS, len(figures))
    rows = -(-len(figures) // columns)
    across = min(2 * columns, len(runs))  # names per line of the legend
    top = 0.25 + 0.25 * -(-len(runs) // across)  # height of the legend in inches
    height = HEIGHT * rows + top
    places = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - top / height), w_pad=0.12, h_pad=0.1)
    picture = Figure(figsize=(WIDTH * columns, height), layout=places)
    panels = picture.subplots(rows, columns, squeeze=False).flat
    handles = {}
    for panel, figure in zip(panels, figures):
        for colour, (run, lines) in zip(COLOURS, runs.items()):
            if figure in lines:
                epochs, values = lines[figure]
                mark = "o" if len(epochs) < 40 else None
                (handles[run],) = panel.plot(epochs, values, color=colour, linewidth=1.6, marker=mark, markersize=3)
        panel.set_title(figure.replace("_", " "), loc="left", fontsize=11)
        panel.set_xlabel("epoch", fontsize=9, color="#555555")
        panel.tick_params(labelsize=9, colors="#555555")
        panel.grid(color="#e6e6e6", linewidth=0.8)
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            panel.spines[side].set_color("#bbbbbb")
    for panel in list(picture.axes)[len(figures) :]:
        panel.remove()
    picture.legend(handles.values(), handles, loc="upper left", ncols=across, fontsize=10, frameon=False)
    return picture
