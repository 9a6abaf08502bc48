"""`table`: images listed in a CSV file with the columns path, label, x, y, w, h, split. All but path are optional.

One row per image, or one row per box: rows of one path must agree in label and split. x and y are the left and top edge
of the box in pixels, w and h its size; all four are empty for an image without a box. split is train or test (also
testing, val, valid, validation: of several, the first in this order is the test split, the others are left out). Paths
are relative to the root, with forward slashes.

An image without a box is turned upright by its EXIF orientation. One with a box and an orientation is a bad image: the
file does not show whether the box was drawn on the stored or on the upright image.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .. import images
from ..errors import InputError, counted
from ..images.orientation import read_orientation
from . import Dataset, PixelBoxes, Record, parsing
from .folder import TESTS
from .scan import normalize
from .split import split_off

NAME, BOX = "table", ("x", "y", "w", "h")
UNLABELLED = "unlabelled"
OPTIONAL = ("label", *BOX, "split")


@dataclass(frozen=True)
class Row:
    """One line of the file."""

    path: str
    label: str
    split: str
    """train, or one of TESTS."""
    box: parsing.Box | None


@dataclass(frozen=True)
class StoredBoxes(parsing.Files):
    """Loads a Record: `files(record)` -> (the bytes of its file, its boxes in pixels of the stored image)."""

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        data, boxes = super().__call__(record)
        orientation = read_orientation(data) if boxes else 1
        if orientation != 1:
            header = images.header(data, record.file)
            raise parsing.unknown_grid(self.name, record, (header.width, header.height), orientation)
        return data, boxes


def read(
    root: Path, table: Path | str | None = None, test_fraction: float | None = None, split_seed: int = 0
) -> Dataset:
    """Reads the list and checks that its files exist. The note lists the columns.

    Args:
        root: The folder that paths are relative to.
        table: The CSV file. Default: labels.csv in the root.
        test_fraction: See `split_off`.
        split_seed: See `split_off`.

    Raises:
        InputError: at the first row that cannot be used, or if files are missing.
    """
    path = Path(table) if table else root / "labels.csv"
    if not path.is_file():
        raise InputError(
            f"table: there is no CSV file at {path}. Name it: --table FILE (columns path, label, x, y, w, h, split)"
        )
    header = parsing.read_header(NAME, path)
    boxed = [column for column in BOX if column in header]
    if boxed and len(boxed) < len(BOX):
        raise InputError(
            f"table: {path} has only the columns {', '.join(boxed)} of a box; it needs all of x, y, w and h, or none."
        )
    rows = parsing.read_csv(NAME, path, ("path",), _row)
    tests = [word for word in TESTS if word in {row.split for row in rows}]
    first: dict[str, Row] = {}
    boxes: dict[str, list[parsing.Box]] = {}
    for row in rows:
        known = first.setdefault(row.path, row)
        if (known.label, known.split) != (row.label, row.split):
            raise InputError(
                f"table: {path} lists {row.path} as {known.label}, {known.split} and as {row.label}, {row.split}. "
                "Correct one of the rows."
            )
        boxes.setdefault(row.path, []).extend([row.box] if row.box else [])
    left_out = Counter(row.split for row in first.values() if row.split in tests[1:])
    first = {file: row for file, row in first.items() if row.split not in left_out}
    parsing.check_files_exist(NAME, path, root, {name: name for name in first})
    classes = tuple(sorted({row.label for row in first.values()}))
    number = {name: i for i, name in enumerate(classes)}
    records = tuple(
        Record(file, file, number[row.label], row.label, _half(row), tuple(boxes[file]), upright=not boxes[file])
        for file, row in first.items()
    )
    absent = [column for column in OPTIONAL if column not in header]
    ignored = [column for column in header if column and column not in ("path", *OPTIONAL)]
    note = f"{path.name} has the columns {', '.join(c for c in header if c in ('path', *OPTIONAL))}"
    note += f"; without {', '.join(absent)}" if absent else ""
    note += f"; ignored: {', '.join(ignored)}" if ignored else ""
    for word, count in left_out.items():
        note += f"\n{counted(count, 'image')} of the split {word} left out: {tests[0]} is the test split"
    mixed = boxed and any(record.upright for record in records)
    settings = {"upright": "without a box"} if mixed else {}  # a build begun by a version that turned none is refused
    found = Dataset(NAME, classes, records, StoredBoxes(NAME, root), note=note, settings=settings)
    return split_off(found, test_fraction, split_seed)


def _row(row: dict[str, str]) -> Row:
    split = row.get("split", "train").lower()
    if split not in ("train", *TESTS):
        raise ValueError(f"split is {split!r}; allowed: train, {', '.join(TESTS)}")
    given = [row.get(column, "") for column in BOX]
    if any(given) and not all(given):
        raise ValueError("a box needs x, y, w and h; leave all four empty for an image without a box")
    box = parsing.check_box(*map(float, given)) if all(given) else None
    if not (label := normalize(row.get("label", UNLABELLED))):
        raise ValueError("the label is empty")
    return Row(parsing.check_relative_path(row["path"]), label, split, box)


def _half(row: Row) -> str:
    return "train" if row.split == "train" else "test"
