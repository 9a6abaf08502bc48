"""`fgdata score` on standard output."""

import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .agreement import Agreement
from .score import THRESHOLDS


def print_scores(shards: Path, scores: dict) -> None:
    """Prints what `score` returned, as a table."""
    truth = "the ground truth" if scores["against"] is None else f"those of {scores['against']}"
    table = Table("box", "mean IoU", "CorLoc", "IoU >= .7", "IoU >= .9", "n", "s/image", "trained on")
    table.title = f"Boxes of {shards} against {truth}"
    titles = {"whole": "whole image", "centred": "centred 70 % box"}
    for group in ("detectors", "baselines"):
        for name, row in scores[group].items():
            shares = (f"{row[key]:.3f}" for key in ("mean_iou", *THRESHOLDS))
            seconds = f"{row['seconds']:.3g}" if row.get("seconds") else ""
            table.add_row(titles.get(name, name), *shares, f"{row['n']:,}", seconds, row.get("trained_on", ""))
        table.add_section()
    width = None if sys.stdout.isatty() else 160  # a pipe has no width, and rich would wrap at 80
    Console(markup=False, emoji=False, width=width).print(table)


def print_agreement(shards: Path, agreement: Agreement) -> None:
    """Prints the agreement of a set's detectors as a table, its warnings, and the next command."""
    folder, names = shlex.quote(str(shards)), list(agreement.whole)
    table = Table("box", *names[1:], "whole image", "flat map", title=f"Boxes of {shards}: mean IoU per detector pair")
    for name, share in agreement.whole.items():
        values = (agreement.pairs.get((name, other)) for other in names[1:])
        cells = ("" if value is None else f"{value:.3f}" for value in values)
        table.add_row(name, *cells, f"{share:.1%}", f"{agreement.flat[name]:.1%}")
    Console(markup=False, emoji=False).print(table)
    print(f"{shards} has no ground-truth boxes: agreement shows where detectors differ, not which one is right.")
    for line in agreement.warnings:
        print(line)
    if len(names) < 2:
        other = "rbd-centred" if "rbd-centred" not in names else "rbd"
        print(f"Agreement needs two detectors. Add another: fgdata add {folder} --saliency {other}")
    print(f"See the boxes: fgdata show {folder}")
