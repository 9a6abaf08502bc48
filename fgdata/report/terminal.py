"""`fgdata score` on standard output."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .agreement import Agreement


def print_scores(shards: Path, scores: dict) -> None:
    """Prints what `score` returned, as a table."""
    table = Table("box", "mean IoU", "CorLoc", "n", title=f"Boxes of {shards} against the ground truth")
    for name, row in scores["detectors"].items():
        table.add_row(name, f"{row['mean_iou']:.3f}", f"{row['corloc']:.3f}", f"{row['n']:,}")
    table.add_section()
    for name, row in scores["baselines"].items():
        title = {"whole": "whole image", "centred": "centred 70 % box"}[name]
        table.add_row(title, f"{row['mean_iou']:.3f}", f"{row['corloc']:.3f}", f"{row['n']:,}")
    Console(markup=False, emoji=False).print(table)


def print_agreement(shards: Path, agreement: Agreement) -> None:
    """Prints the agreement of a set's detectors as a table, its warnings, and what to type next."""
    folder, names = shlex.quote(str(shards)), list(agreement.whole)
    table = Table("box", *names[1:], "whole image", "flat map", title=f"Boxes of {shards}: mean IoU of two detectors")
    for name, share in agreement.whole.items():
        values = (agreement.pairs.get((name, other)) for other in names[1:])
        cells = ("" if value is None else f"{value:.3f}" for value in values)
        table.add_row(name, *cells, f"{share:.1%}", f"{agreement.flat[name]:.1%}")
    Console(markup=False, emoji=False).print(table)
    print(f"{shards} has no ground-truth boxes: agreement says where detectors differ, not which one is right.")
    for line in agreement.warnings:
        print(line)
    if len(names) < 2:
        other = "rbd-centred" if "rbd-centred" not in names else "rbd"
        print(f"Agreement needs two detectors. Add another: fgdata add {folder} --saliency {other}")
    print(f"See the boxes: fgdata show {folder}")
