"""COCO: annotations/instances_train2017.json and instances_val2017.json (or 2014), train2017/, val2017/.

An image has many boxes, kept in the order of the file. Its class is that of the largest box, which is also the box of
the detector gt. Crowd regions and boxes without area are ignored; an image without any box is left out (about one in a
hundred). The published validation images are the test split.
"""

from pathlib import Path

from ..errors import InputError
from . import Dataset, Record, parsing

NAME = "coco"
PUBLISHED = {2017: (118287, 5000), 2014: (82783, 40504)}


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`: the train and val lists, or one of them, of 2017, else of 2014.

    InputError if there is neither list, or at the first fault of one.
    """
    folder = root / "annotations"
    year, halves = next(
        ((year, lists) for year in PUBLISHED if (lists := _halves(folder, year))), (2017, dict[str, Path]())
    )
    if not halves:
        raise InputError(
            f"{NAME}: {folder} has neither instances_train2017.json nor instances_val2017.json, nor those of 2014. "
            "Unpack annotations_trainval2017.zip, and name the folder that contains annotations/: --root FOLDER"
        )
    names: dict[int, str] = {}
    records: list[Record] = []
    total, listed = {"train": 0, "test": 0}, {}
    for split, path in halves.items():
        lists = parsing.read_json_lists(NAME, path, ("images", "annotations", "categories"), drop="segmentation")
        categories = parsing.read_categories(NAME, path, lists["categories"])
        if names and categories != names:
            raise InputError(f"{NAME}: {path} and {halves['train'].name} have different categories.")
        names = categories
        images = path.stem.removeprefix("instances_")
        prefix = f"images/{images}/" if (root / "images" / images).is_dir() else f"{images}/"
        total[split] = len(lists["images"])
        records += _records(path, lists, names, prefix, split, listed)
    parsing.check_files_exist(NAME, "the instances", root, listed)
    classes = tuple(names[number] for number in sorted(names))
    published = {"classes": 80, "train": PUBLISHED[year][0], "test": PUBLISHED[year][1]}
    ratios = [f"{total[key]:,} of {published[key]:,} {key} images" for key in total if total[key] != published[key]]
    parsing.check_counts(NAME, classes, records, published)
    without_box = sum(total.values()) - len(records)
    notes = [f"a subset: {', '.join(ratios)}"] if ratios else []
    notes += [f"{without_box:,} images without a box are left out"] if without_box else []
    return Dataset(NAME, classes, tuple(records), parsing.Files(NAME, root), note="; ".join(notes))


def _halves(folder: Path, year: int) -> dict[str, Path]:
    paths = {"train": folder / f"instances_train{year}.json", "test": folder / f"instances_val{year}.json"}
    return {split: path for split, path in paths.items() if path.is_file()}


def _records(
    path: Path, lists: dict, names: dict[int, str], prefix: str, split: str, listed: dict[str, str]
) -> list[Record]:
    """Records of the images that have a box. Adds the file of every image to `listed` {split/id: path}."""
    rank = {number: label for label, number in enumerate(sorted(names))}
    files: dict[int, str] = {}
    for number, entry in enumerate(lists["images"], 1):
        image, file = entry.get("id"), entry.get("file_name")
        try:
            if not isinstance(image, int) or image in files:
                raise ValueError(f"id {image}: must be a unique whole number")
            files[image] = listed[f"{split}/{image}"] = prefix + parsing.check_relative_path(str(file or ""))
        except ValueError as fault:
            raise InputError(f"{NAME}: {path}, image {number}: {fault}") from None
    boxes: dict[int, list[parsing.Box]] = {image: [] for image in files}
    labels: dict[int, list[int]] = {image: [] for image in files}
    for number, entry in enumerate(lists["annotations"], 1):
        image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
        try:
            if not isinstance(image, int) or image not in files:
                raise ValueError(f"image_id {image} is not in the list of images")
            if not isinstance(category, int) or category not in names:
                raise ValueError(f"category_id {category} is not one of the {len(names)} categories")
            left, top, width, height = (float(value) for value in box)
            if entry.get("iscrowd") or width == 0 or height == 0:  # the published files contain some boxes without area
                continue
            boxes[image].append(parsing.check_box(left, top, width, height))
            labels[image].append(category)
        except (ValueError, TypeError) as fault:
            raise InputError(f"{NAME}: {path}, annotation {number}, bbox {box}: {fault}") from None
    records = []
    for image, file in files.items():
        if boxes[image]:
            category = labels[image][_largest(boxes[image])]
            records.append(Record(str(image), file, rank[category], names[category], split, tuple(boxes[image])))
    return records


def _largest(boxes: list[parsing.Box]) -> int:
    return max(range(len(boxes)), key=lambda i: boxes[i][2] * boxes[i][3])
