"""RESULTS.md, the README's figure and a table in docs/training.md, from the results of studies that are kept in
docs/studies, and from what is written by hand on a study in its notes.md there.

    python tools/results.py add studies/real-birds [--name NAME]    # keeps a study's results, then makes all
    python tools/results.py add studies/drawn-birds --pictures      # and what fgtrain study --pictures has drawn
    python tools/results.py                                         # makes all

A study that is not finished can be added, and added again. Results of other seeds, rows or machines are merged; of two
results of one row, seed and evaluation, the one that is added later counts. A row has results of one shard set only.
Folders of this machine are left out.
"""

import argparse
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from results_figure import figure
from results_page import caption, page, short

from fgdata.errors import InputError
from fgtrain.runs.files import write_bytes
from fgtrain.studies import declaration, record
from fgtrain.studies.record import Record

ROOT = Path(__file__).parents[1]
FIRST = ("real-birds-tuned", "real-birds", "drawn-birds")
"""Folders in this order first; the first one that is there makes the README's figure."""
ALIKE = ("drawn-birds", "drawn-foreground")
"""Studies of the same set and settings, whose rows docs/training.md has as one table."""
WIDEST = 1400
"""Pixels of a kept picture: a page shows it no larger."""
BLOCK = re.compile(r"(<!-- tools/results\.py -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    adding = commands.add_parser("add", help="keep a study's results in docs/studies")
    adding.add_argument("study", type=Path, help="the study's folder, with study.json and results.jsonl")
    adding.add_argument("--name", help="name in docs/studies (default: the study's)")
    words = "keep its pictures too; they show images of its first set, whose licence must allow it"
    adding.add_argument("--pictures", action="store_true", help=words)
    flags = parser.parse_args()
    try:
        if flags.command == "add":
            print(f"{add(flags.study, ROOT, flags.name, flags.pictures)}: added")
        for path, content in generate(ROOT).items():
            write_bytes(path, content)
            print(path.relative_to(ROOT))
    except InputError as error:
        sys.exit(f"error: {error}")


def add(study: Path, root: Path, name: str | None = None, pictures: bool = False) -> Path:
    """Merges the results in a study's folder into docs/studies -> their folder there. InputError if they do not fit.

    pictures: replace the kept pictures by those of this folder, scaled down and as JPEG. InputError if it has none.
    """
    new = cleaned(record.read(study))
    drawn = sorted((study / "pictures").glob("*.png"))
    if pictures and not drawn:
        raise InputError(f"{study} has no pictures. Draw them: rerun its command with --pictures")
    if not new.results:
        raise InputError(f"{study} has no results. Write what is measured so far: the study's command with --tables")
    name = name or new.study.name
    if not re.fullmatch(r"[\w+.-]*\w", name):
        raise InputError(f"{name!r} cannot be the name of a folder; allowed: letters, digits, and + . - _. Use --name")
    folder = root / "docs" / "studies" / name
    if folder.is_dir():
        new = merge(record.read(folder), new, folder)
    check_digests(new, folder)
    record.write(new, folder)
    if pictures:
        shutil.rmtree(folder / "pictures", ignore_errors=True)
        (folder / "pictures").mkdir()
        for file in drawn:
            picture = Image.open(file).convert("RGB")
            picture.thumbnail((WIDEST, picture.height))
            picture.save(folder / "pictures" / f"{file.stem}.jpg", quality=80)
    return folder


def merge(old: Record, new: Record, folder: Path) -> Record:
    """Results of one study from two folders -> all. InputError if rows or columns of one name are not the same."""
    advice = "Keep these results apart with --name NAME."
    for name in ("base", "settings", "columns", "stages"):
        if getattr(old.study, name) != getattr(new.study, name):
            raise InputError(f"{folder} has other {name} than the study that is added. {advice}")
    if old.changed != new.changed:
        raise InputError(
            f"{folder} has results with other settings ({'; '.join(old.changed) or 'the declared ones'}) than the "
            f"study that is added ({'; '.join(new.changed) or 'the declared ones'}). {advice}"
        )
    rows = {row.name: row for row in new.study.rows}
    for row in old.study.rows:
        if replace(rows.setdefault(row.name, row), missing="") != replace(row, missing=""):
            raise InputError(f"{folder} has a row {row.name!r} with other settings. {advice}")
    if new.study.name in declaration.names():
        order = [row.name for row in declaration.load(new.study.name).rows if row.name in rows]
    else:
        order = [row.name for row in max(old.study.rows, new.study.rows, key=len)]
    seeds = tuple(sorted({*old.study.seeds, *new.study.seeds}))
    same = (old.study.seeds, old.scope) == (new.study.seeds, new.scope)
    lines = {record.key_of(line): line for line in (*old.results, *new.results)}
    return Record(
        replace(new.study, seeds=seeds, rows=tuple(rows[name] for name in dict.fromkeys([*order, *rows]))),
        tuple(dict.fromkeys([*old.commands, *new.commands])),
        new.changed,
        new.scope if same else (),
        tuple(dict.fromkeys([*old.notes, *new.notes])),
        tuple(lines[key] for key in sorted(lines)),
    )


def check_digests(of: Record, folder: Path) -> None:
    """InputError if the seeds of a row were measured on different shard sets that have one name."""
    found: dict[tuple[str, str], dict[str, set[int]]] = {}
    for line in of.results:
        if "settings" in line and line.get("digest"):  # measured on the set; costs state the one of the training
            digests = found.setdefault((line["row"], line["set"]), {})
            digests.setdefault(line["digest"], set()).add(line["seed"])
    for (row, name), digests in found.items():
        if len(digests) > 1:
            each = "; ".join(f"digest {d[:12]}, seeds {' '.join(map(str, sorted(s)))}" for d, s in digests.items())
            raise InputError(
                f"{folder}: the results of row {row!r} would be of different shard sets named {name} ({each}). Measure "
                "all its seeds on one of them, or keep these results apart with --name NAME."
            )


def cleaned(of: Record) -> Record:
    """The same results in a fixed order, with only the last part of every absolute path."""
    lines = {record.key_of(line): line for line in without_folders(of.results)}
    clean = record.from_json(without_folders(record.to_json(of)), of.study.name)
    return replace(clean, results=tuple(lines[key] for key in sorted(lines)))


def without_folders(value: Any) -> Any:
    """A value of JSON; absolute paths in its texts are replaced by their last parts."""
    if isinstance(value, dict):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(each) for each in value]
    return re.sub(r"(?<![\w.:/-])(?:/[^/\s'\",;]+)+/([^/\s'\",;]+)", r"\1", value) if isinstance(value, str) else value


def generate(root: Path) -> dict[Path, bytes]:
    """Every generated file -> its content; no figure without a difference to show."""
    records, readme = kept(root), root / "README.md"
    notes = {name: root / "docs" / "studies" / name / "notes.md" for name in records}
    texts = {name: file.read_text("utf-8") for name, file in notes.items() if file.is_file()}
    pictures = {name: sorted((root / "docs" / "studies" / name / "pictures").glob("*.jpg")) for name in records}
    shown = {name: [file.relative_to(root).as_posix() for file in files] for name, files in pictures.items()}
    files, block = {root / "RESULTS.md": page(records, texts, shown)}, ""
    for of in records.values():
        if drawn := figure(record.table(of)):
            files[root / "docs" / "results.svg"], block = drawn, caption(of)
            break
    alike = [records[name] for name in ALIKE if name in records]
    for file, content in {readme: block, root / "docs" / "training.md": short(alike) if alike else ""}.items():
        if file.is_file():
            files[file] = BLOCK.sub(lambda found, new=content: f"{found[1]}{new}{found[2]}", file.read_text("utf-8"))
    return {path: text.encode() for path, text in files.items()}


def kept(root: Path) -> dict[str, Record]:
    """Name of the folder in docs/studies -> its results: FIRST, the papers' tables in their order, others by name.

    Results of one study in several folders (--name) follow each other.
    """
    found = {file.parent.name: record.read(file.parent) for file in (root / "docs" / "studies").glob("*/study.json")}
    order = [*FIRST, *declaration.names()]

    def place(name: str) -> tuple[int, str, str]:
        study = found[name].study.name
        known = name if name in order else study
        return order.index(known) if known in order else len(order), study, name

    return {name: found[name] for name in sorted(found, key=place)}


if __name__ == "__main__":
    main()
