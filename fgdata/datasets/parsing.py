"""What the readers share: list, CSV and JSON files whose every fault is named with its line, and checks of the whole.

A parser given to these functions raises ValueError with a reason; the file, the line and the text are added here.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError
from . import PixelBoxes, Record

SHOWN = 5  # how many of a long list of faults a message names
SUFFIXES = frozenset(".jpg .jpeg .png .ppm .pgm .bmp .gif .tif .tiff .webp".split())
Value = TypeVar("Value")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Files:
    """Record -> its file's bytes and its boxes."""

    name: str
    folder: Path

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        try:
            return (self.folder / record.file).read_bytes(), record.boxes or ()
        except OSError as fault:
            raise InputError(f"{self.name}: image {record.id}, {self.folder / record.file}: {fault.strerror}") from None


# -- files of lines ---------------------------------------------------------------------------------------------------


def text(name: str, path: Path) -> str:
    """A file as UTF-8, or an InputError that says what it is instead."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{name}: {path} cannot be read as text: {fault}") from None


def table(name: str, path: Path, form: str, parse: Callable[[str], Value], whole_keys: bool = True) -> dict[str, Value]:
    """`KEY REST` per line -> {KEY: parse(REST)}, in the file's order. Each key once; whole numbers unless said."""
    found: dict[str, Value] = {}
    for number, line in enumerate(text(name, path).splitlines(), 1):
        if not line.strip():
            continue
        key, rest = (*line.split(maxsplit=1), "")[:2]
        try:
            if not rest or (whole_keys and not key.isdecimal()):
                raise ValueError(f"expected `{form}`{', the first a whole number' if whole_keys else ''}")
            if key in found:
                raise ValueError(f"{form.split()[0].lower()} {key} is there for the second time")
            found[key] = parse(rest.strip())
        except ValueError as fault:
            raise InputError(f"{name}: {path}, line {number}: {line[:120]!r}: {fault}") from None
    if not found:
        raise InputError(f"{name}: {path} lists nothing; expected lines of `{form}`.")
    return found


def rows(
    name: str, path: Path, columns: Iterable[str], parse: Callable[[dict[str, str]], Value], delimiter: str = ","
) -> list[Value]:
    """A CSV file with a header that has these columns -> parse({column: text}) of every line behind it."""
    reader = csv.reader(text(name, path).splitlines(), delimiter=delimiter)
    header = [word.strip() for word in next(reader, [])]
    if lacks := [column for column in columns if column not in header]:
        raise InputError(
            f"{name}: {path}, line 1: no column {', '.join(lacks)}; found {', '.join(header) or 'nothing'} "
            f"(separator {delimiter!r})."
        )
    found = []
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(f"{len(row)} fields; the header has {len(header)}")
            found.append(parse({key: value.strip() for key, value in zip(header, row)}))
    except (ValueError, csv.Error) as fault:
        line = delimiter.join(row)[:120] if not isinstance(fault, csv.Error) else ""
        raise InputError(f"{name}: {path}, line {reader.line_num}: {line!r}: {fault}") from None
    if not found:
        raise InputError(f"{name}: {path} lists nothing behind its header.")
    return found


def json_lists(
    name: str, path: Path, keys: Collection[str], drop: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """A COCO-style JSON object -> its lists of objects under these keys; `drop` is forgotten wherever it occurs."""

    def without(entry: dict) -> dict:
        entry.pop(drop, None)
        return entry

    try:
        found = json.loads(text(name, path), object_hook=without if drop else None)
    except json.JSONDecodeError as fault:
        raise InputError(f"{name}: {path}, line {fault.lineno}, column {fault.colno}: {fault.msg}") from None
    if not isinstance(found, dict):
        raise InputError(
            f"{name}: {path} holds a JSON {type(found).__name__}; an object with {', '.join(keys)} is meant"
        )
    for key in keys:
        if not isinstance(found.get(key), list) or not all(isinstance(entry, dict) for entry in found[key]):
            there = ", ".join(list(found)[:SHOWN]) or "nothing"
            raise InputError(f"{name}: {path} has no list of objects {key!r}; it has {there}.")
    return {key: found[key] for key in keys}


def categories(name: str, path: Path, entries: list[dict[str, Any]]) -> dict[int, str]:
    """The categories of a COCO-style file -> {id: name}."""
    names: dict[int, str] = {}
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry.get("id"), int) or "name" not in entry or entry["id"] in names:
            raise InputError(f"{name}: {path}, category {number}: {entry}: an id of its own and a name are needed.")
        names[entry["id"]] = str(entry["name"])
    return names


# -- fields -----------------------------------------------------------------------------------------------------------


def inside(path: str, folder: str = "its folder") -> str:
    """A path that stays in its folder, unchanged."""
    if not path or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ValueError(f"{path!r}: the path must lie inside {folder}, with forward slashes and no ..")
    return path


def box(left: float, top: float, width: float, height: float) -> Box:
    """The same four numbers, when they are a box."""
    if not (isfinite(left) and isfinite(top) and isfinite(width) and isfinite(height)):
        raise ValueError("a box has finite numbers")
    if width <= 0 or height <= 0:
        raise ValueError(f"the box is {width:g} wide and {height:g} high; both must be above 0 pixels")
    return left, top, width, height


def corners(x1: float, y1: float, x2: float, y2: float, first: int) -> Box:
    """Corner pixels, both inside the box, of a grid that counts from `first` -> (l, t, w, h)."""
    return box(x1 - first, y1 - first, x2 - x1 + 1, y2 - y1 + 1)


# -- the whole --------------------------------------------------------------------------------------------------------


def some(items: Collection[str]) -> str:
    first = [str(item) for item in list(items)[:SHOWN]]
    return ", ".join(first) + (f" and {len(items) - len(first):,} more" if len(items) > len(first) else "")


def holder(name: str, root: Path, inner: Iterable[str], needed: Collection[str], archive: str) -> Path:
    """The folder that holds all `needed` entries: root, or the first of `inner` in it that has any of them."""
    folders = [root, *(root / word for word in inner)]
    folder = next((path for path in folders if any((path / entry).exists() for entry in needed)), root)
    if missing := [entry for entry in needed if not (folder / entry).exists()]:
        there = sorted(entry.name for entry in folder.iterdir())[:8]
        raise InputError(
            f"{name}: {folder} lacks {', '.join(missing)} (it holds {', '.join(there) or 'nothing'}). Expected there: "
            f"{', '.join(needed)}. Give the folder of {archive} that holds them: --root FOLDER"
        )
    return folder


def same_ids(name: str, folder: Path, one: str, ids: Collection[str], other: str, others: Collection[str]) -> None:
    """Two lists, given with their ids, are about the same images."""
    for have, lack, odd in (
        (one, other, [key for key in ids if key not in others]),
        (other, one, [key for key in others if key not in ids]),
    ):
        if odd:
            raise InputError(
                f"{name}: {len(odd):,} image ids are in {have} and not in {lack}: {some(odd)} (in {folder}). "
                f"A subset must leave an image out of all lists."
            )


def files_present(name: str, said: Path | str, folder: Path, paths: Mapping[str, str]) -> None:
    """Every file {id: path} that `said` lists is there, once. One listing per folder, not one look per image."""
    listed: dict[str, str] = {}
    here: dict[str, set[str]] = {}
    absent = []
    for id_, path in paths.items():
        if listed.setdefault(path, id_) != id_:
            raise InputError(f"{name}: {said} gives {path} to image {listed[path]} and to image {id_}.")
        parent, _, last = path.rpartition("/")
        if parent not in here:
            below = folder / parent
            here[parent] = {entry.name for entry in os.scandir(below)} if below.is_dir() else set()
        if last not in here[parent]:
            absent.append(path)
    if absent:
        listing = said.name if isinstance(said, Path) else said
        raise InputError(
            f"{name}: {len(absent):,} of {len(paths):,} files listed in {listing} are not in {folder}: "
            f"{some(absent)}. Unpack them again, or leave them out of every list."
        )


def census(name: str, classes: Collection[str], records: Iterable[Record], published: Mapping[str, int]) -> str:
    """Counts against the published ones {classes, train, test}: "" when equal, else what the subset has.

    InputError when there is more of anything than was published.
    """
    counts = Counter(record.split for record in records)
    found = {"classes": len(classes), "train": counts["train"], "test": counts["test"]}
    said = [f"{found[key]:,} of {total:,} {key}" for key, total in published.items()]
    if more := [f"{found[key]:,} {key}" for key, total in published.items() if found[key] > total]:
        raise InputError(
            f"{name}: found {', '.join(more)}, more than the published dataset has ({', '.join(said)}). Something else "
            "is mixed in; restore the folder, or read it with --dataset folder."
        )
    return "" if all(found[key] == total for key, total in published.items()) else f"a subset: {', '.join(said)}"
