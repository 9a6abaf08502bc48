"""Training curves: each metric of metrics.jsonl over the epochs, one panel per metric, one line per run."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgdata.errors import InputError, counted, printable, warn_once

from ..evaluate.compare import Group, names_of
from ..evaluate.records import Line, is_finite, read_records
from ..printing import say
from ..runs.checkpoint import checked_config
from ..runs.files import whole
from ..runs.rundir import MOST_LOG_BYTES, RunDir, check_is_run
from ..settings.common import need
from ..settings.file import relevant
from ..settings.pictures import Curves
from .layout import save_figure

AXIS = ("step", "epoch")
THROUGHPUT = ("images_per_second", "data_wait")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Distinguishable with colour blindness (Okabe and Ito)."""
COLUMNS, WIDTH, HEIGHT = 3, 4.2, 2.7  # panels per row; size of a panel in inches
MOST = 60  # panels in a picture
Series = dict[str, tuple[list[float], list[float]]]
"""Metric -> epochs and values."""
Band = tuple[list[float], list[float], list[float]]
"""Epochs, least and largest values."""


def draw_curves(flags: Curves) -> Path:
    """Writes the picture and returns its path. InputError for a run without metrics, or a metric that no run has."""
    paths, figures = flags.runs, flags.figures
    if not paths:
        raise InputError("No run is named. Name run directories: fgtrain show curves runs/cvsa")
    groups = grouped(paths, flags.labels)
    if len(groups) > len(COLOURS):
        raise InputError(f"{len(groups)} groups of runs are named; allowed: at most {len(COLOURS)} in one picture.")
    seeds = {name: [curves(path) for path in group] for name, group in groups.items()}
    runs = {name: {figure: mean for figure, (mean, _) in average(each).items()} for name, each in seeds.items()}
    bands = {name: {figure: band for figure, (_, band) in average(each).items()} for name, each in seeds.items()}
    recorded = list(dict.fromkeys(figure for lines in runs.values() for figure in lines))
    for figure in figures:
        need(figure in recorded, "figures", figure, ", ".join(recorded))
    wanted = list(figures) or [figure for figure in recorded if figure not in THROUGHPUT] or recorded
    need(len(wanted) <= MOST, "figures", f"{len(wanted):,} metrics", f"1 to {MOST}, by name")
    out = flags.out or paths[0] / "curves.png"
    picture = draw(runs, wanted, bands)
    with whole(out) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # of a name in another script
        save_figure(picture, part, out.suffix)
    say(f"{out}: {', '.join(wanted)} of {', '.join(runs)}")
    return out


def curves(path: Path) -> Series:
    """Run directory -> metric -> epochs and values; a line without the metric adds no point.

    A value that is not a finite number adds none either: a warning names the first line. InputError when the run has
    no metrics yet, or a line without a number as its epoch.
    """
    lines = read_records(path / "metrics.jsonl", most=MOST_LOG_BYTES)
    if not any(name not in AXIS and is_finite(value) for line in lines for name, value in line.values.items()):
        check_is_run(path)
        raise InputError(f"{path} has no metrics.jsonl with a metric in it. Name run directories, such as runs/cvsa.")
    series: Series = {}
    bad: dict[str, list[Line]] = {}
    for line in lines:
        for name, value in line.values.items():
            if name not in AXIS and not is_finite(value):
                bad.setdefault(name, []).append(line)
            elif name not in AXIS:
                epochs, values = series.setdefault(name, ([], []))
                epochs.append(line.figure("epoch"))
                values.append(value)
    for name, (first, *others) in bad.items():
        found = f"{first.path}, line {first.number} has {printable(name)} = {ascii(first.values[name])[:40]}"
        more = f", and so have {counted(len(others), 'other line')}" if others else ""
        warn_once(f"fgtrain: {found}, which is not a finite number{more}: no point is drawn.", f"{first.path} {name}")
    return series


def grouped(paths: Sequence[Path], labels: Sequence[str]) -> dict[str, list[Path]]:
    """Run directories -> name -> runs that differ only in the seed, in the order given.

    A group is named by `labels`; else by its folder where every group is one run, else as `fgtrain compare` names it.
    A folder without config.json is a group of one. InputError when settings cannot be read, or have changed since the
    last checkpoint.
    """
    kinds: dict[str, list[Path]] = {}
    settings = []
    for path in dict.fromkeys(paths):
        run, own = RunDir(path), {"method": str(path)}
        if run.config_path.is_file():
            config = checked_config(run)
            own = {"method": config.method, "data.shards": str(config.data.shards)} | relevant(config)
            own.pop("seed")
        if (key := json.dumps(own, sort_keys=True)) not in kinds:
            settings.append(Group(own, recipe=run.recipe(own["method"])))
        kinds.setdefault(key, []).append(path)
    groups = list(kinds.values())
    default = names([group[0] for group in groups])
    if len(groups) < len(paths):
        default = names_of(settings)
    allowed = f"one for each of {len(groups)}, in this order: {'; '.join(default)}"
    need(
        len({*labels}) == len(labels) in (0, len(groups)), "labels", f"given {len({*labels})} different names", allowed
    )
    return dict(zip(labels or default, groups))


def average(seeds: Sequence[Series]) -> dict[str, tuple[tuple[list[float], list[float]], Band | None]]:
    """Series of runs of one kind -> metric -> (epochs, means), and (epochs, least, largest) of two runs or more.

    Only epochs that all runs with the metric have.
    """
    out = {}
    for figure in dict.fromkeys(name for series in seeds for name in series):
        each = [dict(zip(*series[figure])) for series in seeds if figure in series]
        epochs = [epoch for epoch in each[0] if all(epoch in other for other in each)]
        values = [[other[epoch] for other in each] for epoch in epochs]
        band = (epochs, [min(v) for v in values], [max(v) for v in values]) if len(each) > 1 else None
        out[figure] = ((epochs, [sum(v) / len(v) for v in values]), band)
    return out


def names(paths: Sequence[Path]) -> list[str]:
    """The names of the folders, or the whole paths when two folders have the same name."""
    own = [path.resolve().name for path in paths]
    return own if len(set(own)) == len(own) else [str(path) for path in paths]


def draw(runs: dict[str, Series], figures: Sequence[str], bands: dict[str, dict[str, Band | None]]) -> Any:
    """Run -> metric -> epochs and values: draws a matplotlib Figure with one panel per metric, and bands behind lines.

    InputError when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError:
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
                if band := bands.get(run, {}).get(figure):
                    panel.fill_between(*band, color=colour, alpha=0.2, linewidth=0)
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
