"""`fgdata score` and `fgdata check --duplicates` on standard output."""

import csv
import io
import json
import shlex
import sys
from pathlib import Path

from rich.table import Column, Table

from ..commandline.console import PlainConsole
from ..errors import counted
from ..stores.place import Url
from .agreement import Agreement
from .duplicates import LEAST_CORRELATION, MOST_BITS, Duplicates
from .score import THRESHOLDS

_SHOWN = 20  # pairs of near-duplicates in a table


def print_scores(shards: Path | Url, scores: dict) -> None:
    """Prints what `score` returned, as a table."""
    truth = "the ground truth" if scores["against"] is None else f"those of {scores['against']}"
    table = Table("box", "mean IoU", "CorLoc", "IoU >= 0.7", "IoU >= 0.9", "n", "s/image", "trained on")
    table.title = f"Boxes of {shards} against {truth}"
    titles = {"whole": "whole image", "centred": "centred 70 % box"}
    for group in ("detectors", "baselines"):
        for name, row in scores[group].items():
            shares = (f"{row[key]:.3f}" for key in ("mean_iou", *THRESHOLDS))
            seconds = f"{row['seconds']:.3g}" if row.get("seconds") else ""
            table.add_row(titles.get(name, name), *shares, f"{row['n']:,}", seconds, row.get("trained_on", ""))
        table.add_section()
    _console().print(table)


def print_agreement(shards: Path | Url, agreement: Agreement, about: dict[str, dict]) -> None:
    """Prints the agreement of a set's detectors, their warnings, and the next command. about: `describe_detectors`."""
    folder, names = shlex.quote(str(shards)), list(agreement.whole)
    pairs = Table("box", *(Column(name, overflow="fold") for name in names[1:]))
    pairs.title = f"Boxes of {shards}: mean IoU per detector pair"
    each = Table("box", "whole image", "flat map", "s/image", "trained on", title=f"Boxes of {shards}: every detector")
    for name, share in agreement.whole.items():
        values = (agreement.pairs.get((name, other)) for other in names[1:])
        pairs.add_row(name, *("" if value is None else f"{value:.3f}" for value in values))
        seconds = f"{value:.3g}" if (value := about[name]["seconds"]) else ""
        each.add_row(name, f"{share:.1%}", f"{agreement.flat[name]:.1%}", seconds, about[name]["trained_on"])
    for table in (pairs, each) if len(names) > 1 else (each,):
        _console().print(table)
    print(f"{shards} has no ground-truth boxes: agreement shows where detectors differ, not which one is right.")
    for line in agreement.warnings:
        print(line)
    if len(names) < 2:
        other = "rbd-centred" if "rbd-centred" not in names else "rbd"
        print(f"Agreement needs two detectors. Add another: fgdata add {folder} --saliency {other}")
    print(f"See the boxes: fgdata show {folder}")


def print_duplicates(shards: Path | Url, found: Duplicates) -> None:
    """Prints the first pairs of near-duplicates in different splits as a table, and how many there are."""
    if found.across:
        table = Table(Column("split, class, file", overflow="fold"), "bits", "correlation", "mirrored")
        for pair in found.across[:_SHOWN]:
            images = "\n".join(f"{i.split}, {i.class_name}, {i.file}" for i in (pair.first, pair.second))
            table.add_row(images, str(pair.bits), f"{pair.correlation:.3f}", "yes" if pair.mirrored else "")
        _console().print(table)
        more = len(found.across) - _SHOWN
        every = f"and {counted(more, 'pair')} more" if more > 0 else "as a file"
        print(f"{every}: fgdata check {shlex.quote(str(shards))} --duplicates --format csv")
    for split, count in found.repeated.items():
        others = " or ".join(other for other in found.images if other != split)
        if others:
            print(f"{split}: {count:,} of {counted(found.images[split], 'image')} with a near-duplicate in {others}")
    pairs = ", ".join(f"{count:,} in {split}" for split, count in found.within.items())
    print(f"Pairs within a split: {pairs}")
    print(f"Near-duplicates: hashes differ in at most {MOST_BITS} of 64 bits; correlation at least {LEAST_CORRELATION}")


def print_duplicates_csv(shards: Path | Url, found: Duplicates) -> None:
    """Prints every pair of near-duplicates in different splits as a row of CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = ("split", "id", "file", "class_name")
    writer.writerow([f"{column}_{n}" for n in (1, 2) for column in columns] + ["bits", "correlation", "mirrored"])
    for pair in found.across:
        images = [getattr(image, column) for image in (pair.first, pair.second) for column in columns]
        writer.writerow([*images, pair.bits, f"{pair.correlation:.4f}", int(pair.mirrored)])
    PlainConsole().print(stream.getvalue().rstrip("\n"), soft_wrap=True)


def print_duplicates_json(shards: Path | Url, found: Duplicates) -> None:
    """Prints all figures and pairs as JSON."""
    print(json.dumps(found.as_json(), indent=1))


DUPLICATES = {"table": print_duplicates, "csv": print_duplicates_csv, "json": print_duplicates_json}
"""How `fgdata check --duplicates` prints, by --format."""


def _console() -> PlainConsole:
    return PlainConsole(width=None if sys.stdout.isatty() else 160)  # a pipe has no width, and rich would wrap at 80
