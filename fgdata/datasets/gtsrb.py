"""GTSRB in its official layout, torchvision's and Kaggle's. All give a sign's box by two corners, counted from 0.

The upper left corner is inside the box, the lower right one is not: with any other reading some signs would lack the
border that the readme promises, a tenth of the sign and at least 5 pixels.

Official: GTSRB/Final_Training/Images/00000/GT-00000.csv ... (`;`, files beside each), GTSRB/Final_Test/Images/ and
GT-final_test.csv, the one WITH classes, in that folder or in the root. torchvision: GTSRB/Training/, the 26,640 images
of the benchmark's first stage, instead of Final_Training/Images/; all of it may be in gtsrb/. Kaggle: Train.csv and
Test.csv (`,`, a column Path). A class's name is the number of its sign, in five digits as in the official folders. Only
signs that occur are classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import images
from ..errors import InputError
from . import Dataset, PixelBoxes, Record, parsing, scan

NAME = "gtsrb"
ROI = ("Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2")
PUBLISHED = {"classes": 43, "train": 39209, "test": 12630}
Sign = tuple[str, int, parsing.Box, tuple[int, int] | None]
"""Path, class, box, and the stated width and height."""


@dataclass(frozen=True)
class Sized(parsing.Files):
    """Loads a Record; InputError if the file is not as large as its csv states."""

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        data, boxes = super().__call__(record)
        if record.size:
            header = images.header(data, record.file)
            parsing.check_size(self.name, record, (header.width, header.height))
        return data, boxes


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`. InputError at the first fault of its CSV files."""
    root = root / "gtsrb" if (root / "gtsrb" / "GTSRB").is_dir() else root
    halves = _kaggle(root) if (root / parsing.find_entry(root, "Train.csv")).is_file() else _official(root)
    for half in halves.values():
        parsing.check_files_exist(NAME, "its csv", root, [sign[0] for sign in half])
    rank = {
        number: label for label, number in enumerate(sorted({sign[1] for half in halves.values() for sign in half}))
    }
    classes = tuple(f"{number:05d}" for number in rank)
    records = tuple(
        Record(path.rsplit(".", 1)[0], path, rank[number], f"{number:05d}", split, (box,), size=size)
        for split, half in halves.items()
        for path, number, box, size in half
    )
    note = parsing.check_counts(NAME, classes, records, PUBLISHED)
    return Dataset(NAME, classes, records, Sized(NAME, root), note=note)


def _kaggle(root: Path) -> dict[str, list[Sign]]:
    """Kaggle's layout, also with folders and files in lower case."""
    files = {"train": parsing.find_entry(root, "Train.csv"), "test": parsing.find_entry(root, "Test.csv")}
    parsing.find_root(NAME, root, [], tuple(files.values()), "the Kaggle archive")
    columns = (*ROI, "ClassId", "Path")
    folders = {name: parsing.find_entry(root, name) for name in ("Train", "Test")}

    def parse(row: dict[str, str]) -> Sign:
        first, slash, rest = row["Path"].partition("/")
        return _sign("Path", "")(row | {"Path": folders.get(first, first) + slash + rest})

    return {split: parsing.read_csv(NAME, root / file, columns, parse) for split, file in files.items()}


def _official(root: Path) -> dict[str, list[Sign]]:
    top = f"{top}/" if (root / (top := parsing.find_entry(root, "GTSRB"))).is_dir() else ""
    tests = [f"{top}Final_Test/Images/GT-final_test.csv", "GT-final_test.csv", f"{top}GT-final_test.csv"]
    test = next((path for path in tests if (root / path).is_file()), "GT-final_test.csv")
    trains = [f"{top}Final_Training/Images", f"{top}Training"]
    train = next((path for path in trains if (root / path).is_dir()), trains[0])
    parsing.find_root(
        NAME, root, [], (train, f"{top}Final_Test/Images", test), "the official archives, or the one with Train.csv,"
    )
    columns = (*ROI, "ClassId", "Filename")
    signs = []
    for folder in scan.list_folders(root / train):
        csv = root / train / folder / f"GT-{folder}.csv"
        signs += parsing.read_csv(NAME, csv, columns, _sign("Filename", f"{train}/{folder}/"), ";")
    if not signs:
        raise InputError(f"{NAME}: {root / train} has no class folders; expected 00000/ to 00042/.")
    return {
        "train": signs,
        "test": parsing.read_csv(NAME, root / test, columns, _sign("Filename", f"{top}Final_Test/Images/"), ";"),
    }


def _sign(column: str, folder: str) -> Callable[[dict[str, str]], Sign]:
    def parse(row: dict[str, str]) -> Sign:
        number = parsing.whole_number(row, "ClassId")
        if number >= PUBLISHED["classes"]:
            raise ValueError(f"ClassId is {number}; allowed: 0 to {PUBLISHED['classes'] - 1}")
        x1, y1, x2, y2 = (float(row[edge]) for edge in ROI)
        size = None
        if "Width" in row and "Height" in row:
            size = parsing.whole_number(row, "Width"), parsing.whole_number(row, "Height")
        box = parsing.check_box(x1, y1, x2 - x1, y2 - y1)
        return parsing.check_relative_path(folder + row[column]), number, box, size

    return parse
