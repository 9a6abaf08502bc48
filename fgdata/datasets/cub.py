"""The CUB-200-2011 layout, whole or any subset of it.

images.txt `ID PATH`, image_class_labels.txt `ID CLASS`, train_test_split.txt `ID 1-if-train`, bounding_boxes.txt
`ID L T W H` in pixels, classes.txt `CLASS NAME`, images/PATH. All five lists and the presence of every file are checked
here, before any image is opened. Labels are 0-based: a class's place among the numbers of classes.txt.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..errors import InputError
from . import Dataset, PixelBoxes, Record

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt")
SHOWN = 5  # how many of a long list of faults a message names
Value = TypeVar("Value")


@dataclass(frozen=True)
class Folder:
    """Record -> its file's bytes and its boxes."""

    images: Path

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        try:
            return (self.images / record.file).read_bytes(), record.boxes or ()
        except OSError as fault:
            raise InputError(f"cub: image {record.id}, {self.images / record.file}: {fault.strerror}") from None


def read(root: Path) -> Dataset:
    """The dataset in `root`, or in CUB_200_2011/ inside it. InputError at the first fault of the lists."""
    folder = _folder(root)
    paths = _table(folder / "images.txt", "ID PATH", _path)
    classes = _table(folder / "classes.txt", "CLASS NAME", lambda name: name)
    labels = _table(folder / "image_class_labels.txt", "ID CLASS", _class_of(classes))
    splits = _table(folder / "train_test_split.txt", "ID 0-OR-1", _split)
    boxes = _table(folder / "bounding_boxes.txt", "ID L T W H", _box)
    for name, table in (("image_class_labels", labels), ("train_test_split", splits), ("bounding_boxes", boxes)):
        _same_ids(folder, paths, f"{name}.txt", table)
    _files_present(folder, paths)

    rank = {number: label for label, number in enumerate(sorted(classes, key=int))}
    records = tuple(
        Record(id_, path, rank[labels[id_]], classes[labels[id_]], splits[id_], (boxes[id_],))
        for id_, path in paths.items()
    )
    return Dataset("cub", tuple(classes[number] for number in rank), records, Folder(folder / "images"))


def _folder(root: Path) -> Path:
    inner = root / "CUB_200_2011"
    folder = inner if inner.is_dir() and not (root / "images.txt").exists() else root
    if missing := [name for name in LISTS if not (folder / name).is_file()]:
        there = sorted(entry.name for entry in folder.iterdir())[:8]
        raise InputError(
            f"cub: {folder} lacks {', '.join(missing)} (it holds {', '.join(there) or 'nothing'}). Expected there: "
            f"{', '.join(LISTS)} and images/. Give the folder of CUB_200_2011.tgz that holds them: --root FOLDER"
        )
    if not (folder / "images").is_dir():
        raise InputError(f"cub: {folder} has its lists but no folder images/. Unpack CUB_200_2011.tgz there again.")
    return folder


def _table(path: Path, form: str, parse: Callable[[str], Value]) -> dict[str, Value]:
    """`KEY REST` per line -> {KEY: parse(REST)}, in the file's order. Keys are whole numbers, each once."""
    table: dict[str, Value] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"cub: {path} cannot be read as text: {fault}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, rest = (*line.split(maxsplit=1), "")[:2]
        try:
            if not key.isdecimal() or not rest:
                raise ValueError(f"expected `{form}`, the first a whole number")
            if key in table:
                raise ValueError(f"{form.split()[0].lower()} {key} is there for the second time")
            table[key] = parse(rest.strip())
        except ValueError as fault:
            raise InputError(f"cub: {path}, line {number}: {line[:120]!r}: {fault}") from None
    if not table:
        raise InputError(f"cub: {path} lists nothing; expected lines of `{form}`.")
    return table


def _path(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text:
        raise ValueError("the path must lie inside images/, with forward slashes and no ..")
    return text


def _class_of(classes: Collection[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in classes:
            raise ValueError(f"class {text!r} is not in classes.txt, which has {len(classes)}: {_some(classes)}")
        return text

    return parse


def _split(text: str) -> str:
    if text not in ("0", "1"):
        raise ValueError(f"found {text!r}; 1 is train and 0 is test")
    return "train" if text == "1" else "test"


def _box(text: str) -> tuple[float, float, float, float]:
    fields = text.split()
    if len(fields) != 4:
        raise ValueError(f"found {len(fields)} numbers after the id; four are expected: left, top, width, height")
    left, top, width, height = (float(field) for field in fields)
    if not all(map(isfinite, (left, top, width, height))):
        raise ValueError("a box has finite numbers")
    if width <= 0 or height <= 0:
        raise ValueError(f"the box is {width:g} wide and {height:g} high; both must be above 0 pixels")
    return left, top, width, height


def _same_ids(folder: Path, paths: dict[str, str], name: str, table: Collection[str]) -> None:
    for have, lack, ids in (
        ("images.txt", name, [key for key in paths if key not in table]),
        (name, "images.txt", [key for key in table if key not in paths]),
    ):
        if ids:
            raise InputError(
                f"cub: {len(ids):,} image ids are in {have} and not in {lack}: {_some(ids)} (in {folder}). "
                f"A subset must leave an image out of all lists."
            )


def _files_present(folder: Path, paths: dict[str, str]) -> None:
    """Every listed file is there, once. One directory listing per class, not one look per image."""
    listed: dict[str, str] = {}
    here: dict[str, set[str]] = {}
    absent = []
    for id_, path in paths.items():
        if path in listed:
            raise InputError(f"cub: {folder / 'images.txt'} gives {path} to image {listed[path]} and to image {id_}.")
        listed[path] = id_
        parent, _, name = path.rpartition("/")
        if parent not in here:
            inside = folder / "images" / parent
            here[parent] = {entry.name for entry in os.scandir(inside)} if inside.is_dir() else set()
        if name not in here[parent]:
            absent.append(path)
    if absent:
        raise InputError(
            f"cub: {len(absent):,} of {len(paths):,} files listed in images.txt are not in {folder / 'images'}: "
            f"{_some(absent)}. Unpack them again, or leave them out of all five lists."
        )


def _some(items: Collection[str]) -> str:
    first = list(items)[:SHOWN]
    return ", ".join(first) + (f" and {len(items) - len(first):,} more" if len(items) > len(first) else "")
