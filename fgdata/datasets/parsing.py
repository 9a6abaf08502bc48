"""Parsing shared by the dataset readers: list, CSV and JSON files, the fields in them, and checks of the whole dataset.

A `parse` function given to these readers raises ValueError with a reason; the reader adds the file, the line number and
the line's text, and raises InputError.
"""

import csv
import io
import json
import os
import posixpath
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from reprlib import repr as excerpt
from typing import Any, TypeVar

from ..errors import SHOWN, BadImage, InputError, abbreviate, describe, is_failing_storage
from ..files.regular import NotRegular, open_regular
from ..images.jpeg import read_ends
from . import PixelBoxes, Record

__all__ = ["Files", "check_box", "check_files_exist", "check_relative_path", "read_csv", "read_table", "read_text"]

MOST_BYTES = 2 << 30  # of a file that is not text: the pixels of the largest image that is read have half as many
MOST_DIGITS = 18  # of a whole number that is an id
Value = TypeVar("Value")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Files:
    """Loads a Record: `files(record)` -> (the bytes of its file, its boxes in pixels)."""

    name: str
    """The dataset's name, for messages."""
    folder: Path
    """The folder that `Record.file` is relative to."""
    only_ends: bool = False
    """Of a JPEG, read only the header and the end (`jpeg.read_ends`): enough to check its size and boxes."""

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        name, path = f"{self.name}: image {record.id}", self.folder / record.file
        try:
            return read_bytes(name, path, only_ends=self.only_ends), record.boxes or ()
        except InputError as fault:
            raise BadImage(str(fault)) from None


# -- files ------------------------------------------------------------------------------------------------------------


def read_bytes(name: str, path: Path, is_text: bool = False, only_ends: bool = False) -> bytes:
    """The content of a regular file. `name` starts the message of the InputError if it cannot be read.

    is_text: a zero byte is an InputError as soon as it is read: a file may have gigabytes of them and take no space.
    only_ends: of a JPEG, only what `jpeg.read_ends` reads, if that suffices.
    A failing disk or network drive is an OSError: the file may be good.
    """
    try:
        with open_regular(path) as file:
            if not is_text:
                if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                    raise ValueError(f"it has {size:,} bytes; at most {MOST_BYTES:,} are allowed")
                if only_ends and (ends := read_ends(file, size)) is not None:
                    return ends
                file.seek(0)
                return file.read()
            content = bytearray()
            while chunk := file.read(1 << 24):
                if (zero := chunk.find(0)) >= 0:
                    raise ValueError(f"its byte {len(content) + zero + 1:,} is zero. It is damaged, or not a text file")
                content += chunk
            return bytes(content)
    except NotRegular as fault:
        raise InputError(f"{name}: {fault.fault}") from None
    except (OSError, ValueError) as fault:
        if is_failing_storage(fault):
            raise
        reason = describe(fault) if isinstance(fault, OSError) else fault
        if isinstance(fault, FileNotFoundError) and path.is_symlink():
            reason = f"it is a link to nowhere ({os.readlink(path)} does not exist)"
        raise InputError(f"{name}: {path} cannot be read: {reason}") from None


def read_text(name: str, path: Path) -> str:
    """The content of a UTF-8 file, without its byte order mark. InputError if it cannot be read or is not UTF-8."""
    try:
        return read_bytes(name, path, is_text=True).decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise InputError(f"{name}: {path} cannot be read as text: {fault}") from None


def read_json(name: str, path: Path, remove: str | None = None) -> Any:
    """The content of a JSON file. `remove` names a key to drop from every object while parsing, to save memory.

    InputError if the file is not valid JSON, is nested too deeply, or has a number of too many digits.
    """

    def remove_key(entry: dict) -> dict:
        entry.pop(remove, None)
        return entry

    try:
        return json.loads(read_text(name, path), object_hook=remove_key if remove else None)
    except json.JSONDecodeError as fault:
        reason = f", line {fault.lineno}, column {fault.colno}: {fault.msg}"
    except RecursionError:
        reason = ": its lists and objects are nested too deeply"
    except ValueError:  # the only other one is Python's limit on digits
        reason = f": a number has more than {sys.get_int_max_str_digits():,} digits"
    raise InputError(f"{name}: {path}{reason}. The file must be valid JSON; unpack or export it again.")


def read_table(
    name: str, path: Path, form: str, parse: Callable[[str], Value], whole_keys: bool = True
) -> dict[str, Value]:
    """Lines of `KEY REST` -> {KEY: parse(REST)}, in the file's order. Blank lines are ignored.

    Args:
        name: The dataset's name, for messages.
        path: The file.
        form: What a line looks like, for messages: "ID PATH".
        parse: Text after the key -> value; raises ValueError with a reason.
        whole_keys: Keys must be whole numbers. Default: True.

    Raises InputError for a line of another form, a duplicate key, or a file without lines.
    """
    values: dict[str, Value] = {}
    for number, line in enumerate(read_text(name, path).splitlines(), 1):
        if not line.strip():
            continue
        key, rest = (*line.split(maxsplit=1), "")[:2]
        try:
            if not rest or (whole_keys and not (key.isdecimal() and len(key) <= MOST_DIGITS)):
                raise ValueError(f"expected `{form}`{', starting with a whole number' if whole_keys else ''}")
            if key in values:
                raise ValueError(f"{form.split()[0].lower()} {key} appears twice")
            values[key] = parse(rest.strip())
        except ValueError as fault:
            raise InputError(f"{name}: {path}, line {number}: {line[:120]!r}: {fault}") from None
    if not values:
        raise InputError(f"{name}: {path} is empty; expected lines of `{form}`.")
    return values


def read_header(name: str, path: Path) -> list[str]:
    """The columns of a CSV file; [] if it is empty, or not CSV, which `read_csv` reports. InputError as `read_text`."""
    try:
        return _columns(_rows(read_text(name, path), ","))
    except csv.Error:
        return []


def _rows(content: str, delimiter: str) -> Any:
    return csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)


def _columns(rows: Iterator[list[str]]) -> list[str]:
    return [word.strip() for word in next(rows, [])]


def read_csv(
    name: str,
    path: Path,
    columns: Iterable[str],
    parse: Callable[[dict[str, str]], Value],
    delimiter: str = ",",
    has_header: bool = True,
) -> list[Value]:
    """A CSV file -> parse({column: text}) of each row. Empty rows are ignored. Without a header, `columns` are all.

    Raises InputError if the header lacks one of `columns` or has a column twice, a row has another number of fields,
    `parse` raises ValueError, or there are no rows.
    """
    reader = _rows(read_text(name, path), delimiter)
    values, row = [], []
    try:
        header = _columns(reader) if has_header else list(columns)
        if twice := [column for column, count in Counter(header).items() if column and count > 1]:
            raise ValueError(f"the column {', '.join(twice)} appears twice. Remove or rename one")
        if missing := [column for column in columns if column not in header]:
            raise ValueError(f"no column {', '.join(missing)}; found {', '.join(header) or 'nothing'}")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                expected = f"the header has {len(header)}" if has_header else f"expected {', '.join(header)}"
                raise ValueError(f"{len(row)} fields; {expected}")
            values.append(parse({key: value.strip() for key, value in zip(header, row)}))
    except (ValueError, OverflowError, csv.Error) as fault:
        line = f"{delimiter.join(row)[:120]!r}: " if row and not isinstance(fault, csv.Error) else ""
        raise InputError(
            f"{name}: {path}, line {max(1, reader.line_num)}: {line}{str(fault)[:500]} (separator {delimiter!r})."
        ) from None
    if not values:
        raise InputError(f"{name}: {path} has no rows after the header.")
    return values


def read_json_lists(
    name: str, path: Path, keys: Collection[str], remove: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """A COCO-style JSON file -> {key: list of objects} for each of `keys`.

    `remove` names a key to drop from every object while parsing, to save memory. InputError if the file is not valid
    JSON or has no such lists.
    """
    content = read_json(name, path, remove)
    if not isinstance(content, dict):
        raise InputError(
            f"{name}: {path} holds a JSON {type(content).__name__}; expected an object with {', '.join(keys)}."
        )
    for key in keys:
        if not isinstance(content.get(key), list) or not all(isinstance(entry, dict) for entry in content[key]):
            present = ", ".join(list(content)[:SHOWN]) or "nothing"
            raise InputError(f"{name}: {path} has no list of objects under the key {key!r}; it has {present}.")
    return {key: content[key] for key in keys}


def read_categories(name: str, path: Path, entries: list[dict[str, Any]]) -> dict[int, str]:
    """The `categories` of a COCO-style file -> {id: name}. InputError if an id is missing or appears twice."""
    names: dict[int, str] = {}
    for number, entry in enumerate(entries, 1):
        valid = isinstance(entry.get("id"), int) and isinstance(entry.get("name"), str | int)
        if not valid or entry["id"] in names:
            raise InputError(
                f"{name}: {path}, category {number}: {excerpt(entry)}: needs a unique whole-number id and a name."
            )
        names[entry["id"]] = str(entry["name"])
    return names


# -- fields -----------------------------------------------------------------------------------------------------------


def check_relative_path(path: str, folder: str = "its folder") -> str:
    """Returns the one spelling of `path`, without `.` and empty parts. ValueError unless it is relative, uses forward
    slashes and has no `..`."""
    spelling = posixpath.normpath(path)
    if spelling == "." or path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
        raise ValueError(
            f"{path[:120]!r}: the path must lie inside {folder}, with forward slashes and no .. Correct it."
        )
    return spelling


def check_box(left: float, top: float, width: float, height: float) -> Box:
    """Returns the four numbers as a box. ValueError unless all are finite and width and height are above 0."""
    if not (isfinite(left) and isfinite(top) and isfinite(width) and isfinite(height)):
        raise ValueError("box coordinates must be finite numbers")
    if width <= 0 or height <= 0:
        raise ValueError(f"the box is {width:g} wide and {height:g} high; both must be above 0 pixels")
    return left, top, width, height


def box_from_corners(x1: float, y1: float, x2: float, y2: float, first: int) -> Box:
    """Corner pixels, both inside the box, of a grid that counts from `first` -> (l, t, w, h)."""
    return check_box(x1 - first, y1 - first, x2 - x1 + 1, y2 - y1 + 1)


def check_size(name: str, record: Record, stored: tuple[int, int]) -> None:
    """BadImage unless a file has the size that the annotations state, if they do: boxes belong to that size.

    stored: (width, height) of the file in pixels.
    """
    if record.size not in (None, stored):
        size = f"{record.size[0]:,} x {record.size[1]:,}"
        raise BadImage(
            f"{name}: image {record.id}, {record.file}: the file has {stored[0]:,} x {stored[1]:,} pixels, but "
            f"its annotation states {size}, so its boxes were drawn on another image",
            "Restore the file, or scale the boxes and correct the stated size",
        )


def unknown_grid(name: str, record: Record, stored: tuple[int, int], orientation: int, stated: str = "") -> BadImage:
    """The error of an image that EXIF turns, if its annotations do not show the pixel grid that its boxes belong to.

    stored: (width, height) of the file in pixels. stated: what the annotations state of the size, after a semicolon.
    """
    return BadImage(
        f"{name}: image {record.id}, {record.file}: stored as {stored[0]} x {stored[1]} pixels with EXIF orientation "
        f"{orientation}{stated}. This does not show whether its boxes were drawn on the stored or on the upright image",
        "If on the stored one, set the orientation to 1 (exiftool -Orientation=1 -n FILE). If on the upright one, "
        "rotate the file (mogrify -auto-orient FILE)",
    )


def whole_number(row: Mapping[str, str], column: str) -> int:
    """The value of a column. ValueError, which names it, unless it is a whole number from 0."""
    if not (row[column].isdecimal() and len(row[column]) <= MOST_DIGITS):
        raise ValueError(f"{column} is {row[column][:40]!r}; it must be a whole number")
    return int(row[column])


# -- the whole dataset ------------------------------------------------------------------------------------------------


def find_entry(folder: Path, name: str) -> str:
    """`name`, or the only entry of the folder that differs from it in letter case alone: "train" for "Train"."""
    if (folder / name).exists() or not folder.is_dir():
        return name
    others = [entry.name for entry in os.scandir(folder) if entry.name.lower() == name.lower()]
    return others[0] if len(others) == 1 else name


def find_root(name: str, root: Path, subfolders: Iterable[str], needed: Collection[str], archive: str) -> Path:
    """The folder with all `needed` entries: `root`, or the first of its `subfolders` that has any of them.

    InputError if that folder lacks an entry; it names `archive` as the source of the files.
    """
    folders = [root, *(root / word for word in subfolders)]
    folder = next((path for path in folders if any((path / entry).exists() for entry in needed)), root)
    if missing := [entry for entry in needed if not (folder / entry).exists()]:
        present = sorted(entry.name for entry in folder.iterdir())[:8]
        raise InputError(
            f"{name}: {folder} lacks {', '.join(missing)} (it contains {', '.join(present) or 'nothing'}). Expected: "
            f"{', '.join(needed)}. Name the folder of {archive} that contains them: --root FOLDER"
        )
    return folder


def check_same_ids(
    name: str, folder: Path, one: str, ids: Collection[str], other: str, others: Collection[str]
) -> None:
    """InputError unless two lists have the same image ids. `one` and `other` are the lists' file names."""
    for present, absent, odd in (
        (one, other, [key for key in ids if key not in others]),
        (other, one, [key for key in others if key not in ids]),
    ):
        if odd:
            raise InputError(
                f"{name}: {len(odd):,} image ids are in {present} but not in {absent}: {abbreviate(odd)} "
                f"(in {folder}). To make a subset, remove an image from all lists."
            )


def check_files_exist(name: str, listing: Path | str, folder: Path, paths: Mapping[str, str] | Sequence[str]) -> None:
    """InputError unless every file exists in `folder` and is listed once. `listing` names the list, `paths` are its
    files, {id: path} where ids name them better than their places in the list. A mapping cannot have an id twice.

    Each folder is listed once, which is much faster than one stat per image on a network drive.
    """
    ids: dict[str, str | int] = {}
    names: dict[str, set[str]] = {}
    absent = []
    for id_, path in paths.items() if isinstance(paths, Mapping) else enumerate(paths):
        file = posixpath.normpath(path)
        if ids.setdefault(file, id_) != id_:
            raise InputError(f"{name}: {listing} assigns {file} to both image {ids[file]} and image {id_}.")
        parent, _, last = path.rpartition("/")
        if parent not in names:
            names[parent] = _list_names(os.path.join(folder, parent))
        if last not in names[parent]:
            absent.append(path)
    if absent:
        raise InputError(
            f"{name}: {len(absent):,} of {len(paths):,} files listed in "
            f"{listing.name if isinstance(listing, Path) else listing} are not in {folder}: "
            f"{abbreviate(absent)}. Unpack the archive again, or remove them from every list."
        )


def _list_names(folder: str) -> set[str]:
    """The names in a folder; none if it does not exist. A failing disk is an OSError: its files are not missing."""
    try:
        return {entry.name for entry in os.scandir(folder)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def check_counts(name: str, classes: Collection[str], records: Iterable[Record], published: Mapping[str, int]) -> str:
    """Compares the numbers of classes and images with the published ones {classes, train, test}.

    Returns "" if they are equal, else a note on the size of the subset. InputError if there are more than published.
    """
    splits = Counter(record.split for record in records)
    counts = {"classes": len(classes), "train": splits["train"], "test": splits["test"]}
    ratios = [f"{counts[key]:,} of {total:,} {key}" for key, total in published.items()]
    if excess := [f"{counts[key]:,} {key}" for key, total in published.items() if counts[key] > total]:
        raise InputError(
            f"{name}: found {', '.join(excess)}, more than the published dataset has ({', '.join(ratios)}). The folder "
            "contains other files; restore it, or read it with --dataset folder."
        )
    return "" if all(counts[key] == total for key, total in published.items()) else f"a subset: {', '.join(ratios)}"
