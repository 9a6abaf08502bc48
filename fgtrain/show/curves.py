"""Training curves: each metric of metrics.jsonl over the epochs, one panel per metric, one line per run."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgdata.errors import InputError, printable

from ..evaluate.records import is_finite, read_records
from ..printing import say
from ..runs.files import whole
from ..settings.common import need
from ..settings.pictures import Curves

AXIS = ("step", "epoch")
THROUGHPUT = ("images_per_second", "data_wait")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Distinguishable with colour blindness (Okabe and Ito)."""
COLUMNS, WIDTH, HEIGHT = 3, 4.2, 2.7  # panels per row; size of a panel in inches
MOST = 60  # panels in a picture


def draw_curves(flags: Curves) -> Path:
    """Writes the picture and returns its path. InputError for a run without metrics, or a metric that no run has."""
    paths, figures = flags.runs, flags.figures
    need(1 <= len(paths) <= len(COLOURS), "RUN", f"given {len(paths)} times", f"1 to {len(COLOURS)} runs")
    runs = {name: curves(path) for name, path in zip(names(paths), paths)}
    recorded = list(dict.fromkeys(figure for lines in runs.values() for figure in lines))
    for figure in figures:
        need(figure in recorded, "figures", figure, ", ".join(recorded))
    wanted = list(figures) or [figure for figure in recorded if figure not in THROUGHPUT] or recorded
    need(len(wanted) <= MOST, "figures", f"{len(wanted):,} metrics", f"1 to {MOST}, by name")
    out = flags.out or paths[0] / "curves.png"
    picture = draw(runs, wanted)
    with whole(out) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # of a name in another script
        picture.savefig(part, format="png", dpi=150)
    say(f"{out}: {', '.join(wanted)} of {', '.join(runs)}")
    return out


def curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Run directory -> metric -> epochs and values; a line without the metric, or with NaN, adds no point.

    InputError when the run has no metrics yet, or a line without a number as its epoch.
    """
    lines = read_records(path / "metrics.jsonl")
    if not any(name not in AXIS and is_finite(value) for line in lines for name, value in line.values.items()):
        raise InputError(f"{path} has no metrics.jsonl with a metric in it. Name run directories, such as runs/cvsa.")
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for name, value in line.values.items():
            if name not in AXIS and is_finite(value):
                epochs, values = series.setdefault(name, ([], []))
                epochs.append(line.figure("epoch"))
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
        raise InputError("show curves needs matplotlib, which is not installed: pip install matplotlib") from None
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
        panel.set_title(printable(figure.replace("_", " ")), loc="left", fontsize=11, parse_math=False)
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
    labels = [printable(run) for run in handles]
    legend = picture.legend(handles.values(), labels, loc="upper left", ncols=across, fontsize=10, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return picture
