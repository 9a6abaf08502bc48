"""COCO: annotations/instances_train2017.json and instances_val2017.json (or 2014), train2017/, val2017/. Or any json
files of that form and the folder of their images, as Roboflow, CVAT, Label Studio and others export them.

An image has many boxes, kept in the order of the file. Its class is that of the largest box, which is also the box of
the detector gt. Crowd regions and boxes without area are ignored; an image without any box is left out (about one in a
hundred). The published validation images are the test split.

Some tools draw boxes on the image as EXIF turns it, not as it is stored. The json's width and height show which.
"""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as excerpt

from .. import images
from ..errors import BadImage, InputError, abbreviate
from ..images.orientation import box_to_stored, read_orientation, swaps_sides
from . import Dataset, PixelBoxes, Record, parsing, scan
from .split import split_off

NAME = "coco"
LOOKED_FOR = 100
"""Images of another tool's file that show in which folder they are."""
PUBLISHED = {2017: (118287, 5000), 2014: (82783, 40504)}


@dataclass(frozen=True)
class StoredBoxes(parsing.Files):
    """Loads a Record: `files(record)` -> (the bytes of its file, its boxes in pixels of the stored image)."""

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        data, boxes = super().__call__(record)
        orientation = read_orientation(data)
        header = images.header(data, record.file)
        stored = header.width, header.height
        upright = stored[::-1] if swaps_sides(orientation) else stored
        square = stored[0] == stored[1]
        if orientation == 1 and (square or record.size != stored[::-1]):
            parsing.check_size(self.name, record, stored)
            return data, boxes
        if swaps_sides(orientation) and not square and record.size in (stored, upright):
            if record.size == upright:
                boxes = tuple(box_to_stored(box, orientation, *stored) for box in boxes)
            return data, boxes
        stated = f"{record.size[0]} x {record.size[1]}" if record.size else "no size"
        if orientation != 1:
            raise parsing.unknown_grid(self.name, record, stored, orientation, f"; the json states {stated}")
        raise BadImage(
            f"{self.name}: image {record.id}, {record.file}: stored as {stored[0]} x {stored[1]} pixels with EXIF "
            f"orientation 1; the json states {stated}. Its boxes belong to an image rotated by 90 degrees",
            "Replace the file with the annotated image",
        )


def read(
    root: Path,
    annotations: Sequence[Path | str] = (),
    test_fraction: float | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Reads COCO: the train and val lists, or one of them, of 2017, else of 2014. Or the json files of another tool.

    Args:
        root: The dataset's folder. For other files, the folder that their paths are relative to.
        annotations: Other json files: the first lists the train images, a second one the test images. Images are looked
            for in the root, beside the file, and in images/. Ids are paths.
        test_fraction: See `split_off`.
        split_seed: See `split_off`.

    Raises:
        InputError: there is no list, or at the first fault of one.
    """
    dataset = _read_given(root, [Path(path) for path in annotations]) if annotations else _read_published(root)
    return split_off(dataset, test_fraction, split_seed)


def _read_published(root: Path) -> Dataset:
    folder = root / "annotations"
    year, halves = next(
        ((year, lists) for year in PUBLISHED if (lists := _halves(folder, year))), (2017, dict[str, Path]())
    )
    if not halves:
        raise InputError(
            f"{NAME}: {folder} has neither instances_train2017.json nor instances_val2017.json, nor those of 2014. "
            + _explain_other_files(root)
        )
    classes, records, total = _read_halves(root, halves, _published_folder, "the instances")
    published = {"classes": 80, "train": PUBLISHED[year][0], "test": PUBLISHED[year][1]}
    ratios = [f"{total[key]:,} of {published[key]:,} {key} images" for key in total if total[key] != published[key]]
    parsing.check_counts(NAME, classes, records, published)
    notes = [f"a subset: {', '.join(ratios)}"] if ratios else []
    return _dataset(root, classes, records, total, notes)


def _read_given(root: Path, annotations: list[Path]) -> Dataset:
    if len(annotations) > 2:
        raise InputError(
            f"{NAME}: --annotations names {len(annotations)} files; allowed: one for train, and one for test after it."
        )
    halves: dict[str, Path] = dict(zip(("train", "test"), annotations))
    listing = " and ".join(path.name for path in annotations)
    classes, records, total = _read_halves(root, halves, _given_folder, listing)
    return _dataset(root, classes, [replace(record, id=record.file) for record in records], total, [])


def _read_halves(
    root: Path, halves: dict[str, Path], find_folder: Callable[[Path, Path, list[dict]], str], listing: str
) -> tuple[tuple[str, ...], list[Record], dict[str, int]]:
    """-> classes, the records of images that have a box, and the number of all images by split."""
    names: dict[int, str] = {}
    records: list[Record] = []
    total, listed = {"train": 0, "test": 0}, {}
    for split, path in halves.items():
        lists = parsing.read_json_lists(NAME, path, ("images", "annotations", "categories"), remove="segmentation")
        categories = parsing.read_categories(NAME, path, lists["categories"])
        _refuse_equal_names(path, categories)
        if names and categories != names:
            raise InputError(f"{NAME}: {path} and {halves['train'].name} have different categories.")
        names = categories
        total[split] = len(lists["images"])
        records += _records(path, lists, names, find_folder(root, path, lists["images"]), split, listed)
    parsing.check_files_exist(NAME, listing, root, listed)
    return tuple(names[number] for number in sorted(names)), records, total


def _published_folder(root: Path, path: Path, entries: list[dict]) -> str:
    images = path.stem.removeprefix("instances_")
    return f"images/{images}/" if (root / "images" / images).is_dir() else f"{images}/"


def _given_folder(root: Path, path: Path, entries: list[dict]) -> str:
    """Where most of the first images of another tool's file are, relative to the root, with a slash at its end; "" if
    nowhere. Of one image alone, another folder may have a file of the same name."""
    names = [entry.get("file_name") for entry in entries[:LOOKED_FOR]]
    own, top = path.parent.resolve(), root.resolve()
    beside = f"{own.relative_to(top).as_posix()}/" if own != top and own.is_relative_to(top) else ""

    def count(folder: str) -> int:
        return sum(isinstance(name, str) and os.path.isfile(root / folder / name) for name in names)

    return max(("", beside, "images/", f"{beside}images/"), key=count)  # of equal ones the first


def _dataset(
    root: Path, classes: tuple[str, ...], records: list[Record], total: dict[str, int], notes: list[str]
) -> Dataset:
    without_box = sum(total.values()) - len(records)
    notes = [*notes, f"{without_box:,} images without a box are left out"] if without_box else notes
    return Dataset(NAME, classes, tuple(records), StoredBoxes(NAME, root), note="; ".join(notes))


def _halves(folder: Path, year: int) -> dict[str, Path]:
    paths = {"train": folder / f"instances_train{year}.json", "test": folder / f"instances_val{year}.json"}
    return {split: path for split, path in paths.items() if path.is_file()}


def _refuse_equal_names(path: Path, categories: dict[int, str]) -> None:
    """InputError if two categories have one name: nothing that shows a class by its name could tell them apart."""
    first: dict[str, int] = {}
    for number, name in categories.items():
        other = first.setdefault(scan.normalize(name).strip(), number)
        if other != number:
            raise InputError(
                f"{NAME}: {path}: the categories {other} and {number} are both called {name!r}. If they are one class, "
                "give the annotations of both the same category_id and remove the other category; else rename one."
            )


def _explain_other_files(root: Path) -> str:
    """What to do with the json files of other tools, such as Roboflow, CVAT or Label Studio."""
    folders = [root, *(root / name for name in scan.list_folders(root))]
    others = [path.relative_to(root).as_posix() for folder in folders for path in sorted(folder.glob("*.json"))]
    if not others:
        return "Unpack annotations_trainval2017.zip, and name the folder that contains annotations/: --root FOLDER"
    file = shlex.quote(str(root / others[0]))
    return (
        f"It has {abbreviate(others)}. To read such a file: --annotations {file}. "
        "Name the file of a test split after it."
    )


def _records(
    path: Path, lists: dict, names: dict[int, str], prefix: str, split: str, listed: dict[str, str]
) -> list[Record]:
    """Records of the images that have a box. Adds the file of every image to `listed` {split/id: path}."""
    rank = {number: label for label, number in enumerate(sorted(names))}
    files: dict[int, str] = {}
    sizes: dict[int, tuple[int, int] | None] = {}
    for number, entry in enumerate(lists["images"], 1):
        image, file = entry.get("id"), entry.get("file_name")
        try:
            if not isinstance(image, int) or image in files:
                raise ValueError(f"id {excerpt(image)}: must be a unique whole number")
            files[image] = listed[f"{split}/{image}"] = prefix + parsing.check_relative_path(
                file if isinstance(file, str) else ""
            )
        except ValueError as fault:
            raise InputError(f"{NAME}: {path}, image {number}: {fault}") from None
        size = entry.get("width"), entry.get("height")
        sizes[image] = (size[0], size[1]) if all(isinstance(side, int) and side > 0 for side in size) else None
    boxes: dict[int, list[parsing.Box]] = {image: [] for image in files}
    labels: dict[int, list[int]] = {image: [] for image in files}
    for number, entry in enumerate(lists["annotations"], 1):
        image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
        try:
            if not isinstance(image, int) or image not in files:
                raise ValueError(f"image_id {excerpt(image)} is not in the list of images")
            if not isinstance(category, int) or category not in names:
                raise ValueError(f"category_id {excerpt(category)} is not one of the {len(names)} categories")
            left, top, width, height = _box_numbers(box)
            if entry.get("iscrowd") or width == 0 or height == 0:  # the published files contain a few empty boxes
                continue
            boxes[image].append(parsing.check_box(left, top, width, height))
            labels[image].append(category)
        except (ValueError, TypeError, OverflowError) as fault:
            raise InputError(f"{NAME}: {path}, annotation {number}, bbox {excerpt(box)}: {fault}") from None
    records = []
    for image, file in files.items():
        if boxes[image]:
            category = labels[image][_largest(boxes[image])]
            label, name = rank[category], names[category]
            records.append(Record(str(image), file, label, name, split, tuple(boxes[image]), size=sizes[image]))
    return records


def _box_numbers(box: object) -> list[float]:
    if not isinstance(box, list) or len(box) != 4:
        state = "is missing" if box is None else "is empty" if box == [] else "is not a box"
        raise ValueError(
            f"it {state}; expected [left, top, width, height] in pixels. Export the annotations with bounding boxes, "
            "or remove those without one"
        )
    return [float(value) for value in box]


def _largest(boxes: list[parsing.Box]) -> int:
    return max(range(len(boxes)), key=lambda i: boxes[i][2] * boxes[i][3])
