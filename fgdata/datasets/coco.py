"""COCO: annotations/instances_train2017.json and instances_val2017.json (or 2014), train2017/, val2017/.

An image has many boxes, all of them kept in the order of the file; its class is that of the largest one, which is also
the box of the detector gt. Crowd regions and boxes without area are no boxes; an image left with none has no class and
is left out (about one in a hundred). The published validation images are the test split.
"""

from pathlib import Path

from ..errors import InputError
from . import Dataset, PixelBoxes, Record, lists

NAME = "coco"
PUBLISHED = {2017: (118287, 5000), 2014: (82783, 40504)}


def read(root: Path) -> Dataset:
    """The dataset in `root`: the train and val lists of the newest year there, or one of them."""
    folder = root / "annotations"
    year, halves = next(
        ((year, found) for year in PUBLISHED if (found := _halves(folder, year))), (2017, dict[str, Path]())
    )
    if not halves:
        raise InputError(
            f"{NAME}: {folder} has neither instances_train2017.json nor instances_val2017.json, nor those of 2014. "
            "Unpack annotations_trainval2017.zip there: --root FOLDER (the one that holds annotations/)"
        )
    names: dict[int, str] = {}
    records: list[Record] = []
    total, listed = {"train": 0, "test": 0}, {}
    for split, path in halves.items():
        found = lists.json_lists(NAME, path, ("images", "annotations", "categories"), drop="segmentation")
        here = {int(entry.get("id", 0)): str(entry.get("name")) for entry in found["categories"]}
        if names and here != names:
            raise InputError(f"{NAME}: {path} has other categories than {halves['train'].name}.")
        names = here
        images = path.stem.removeprefix("instances_")
        prefix = f"images/{images}/" if (root / "images" / images).is_dir() else f"{images}/"
        total[split] = len(found["images"])
        records += _records(path, found, names, prefix, split, listed)
    lists.files_present(NAME, "the instances", root, listed)
    classes = tuple(names[number] for number in sorted(names))
    published = {"classes": 80, "train": PUBLISHED[year][0], "test": PUBLISHED[year][1]}
    said = [f"{total[key]:,} of {published[key]:,} {key} images" for key in total if total[key] != published[key]]
    lists.census(NAME, classes, records, published)
    bare = sum(total.values()) - len(records)
    said = [f"a subset: {', '.join(said)}"] if said else []
    said += [f"{bare:,} images without a box are left out"] if bare else []
    return Dataset(NAME, classes, tuple(records), lists.Files(NAME, root), note="; ".join(said))


def _halves(folder: Path, year: int) -> dict[str, Path]:
    paths = {"train": folder / f"instances_train{year}.json", "test": folder / f"instances_val{year}.json"}
    return {split: path for split, path in paths.items() if path.is_file()}


def _records(
    path: Path, found: dict, names: dict[int, str], prefix: str, split: str, listed: dict[str, str]
) -> list[Record]:
    """The images that have a box; the file of each image, with one or not, goes to `listed` {id: path}."""
    rank = {number: label for label, number in enumerate(sorted(names))}
    boxes: dict[int, list[lists.Box]] = {entry.get("id"): [] for entry in found["images"]}
    labels: dict[int, list[int]] = {image: [] for image in boxes}
    for number, entry in enumerate(found["annotations"], 1):
        image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
        if image not in boxes or category not in names or not isinstance(box, list) or len(box) != 4:
            raise InputError(
                f"{NAME}: {path}, annotation {number}: image_id {image}, category_id {category}, bbox {box}: a listed "
                f"image, one of the {len(names)} categories and four numbers are needed."
            )
        if entry.get("iscrowd"):
            continue
        try:
            left, top, width, height = (float(value) for value in box)
            if width == 0 or height == 0:  # the published files have a few
                continue
            boxes[image].append(lists.box(left, top, width, height))
        except (ValueError, TypeError) as fault:
            raise InputError(f"{NAME}: {path}, annotation {number}: bbox {box}: {fault}") from None
        labels[image].append(category)
    records = []
    for number, entry in enumerate(found["images"], 1):
        image = entry.get("id")
        try:
            file = prefix + lists.inside(str(entry.get("file_name") or ""))
        except ValueError as fault:
            raise InputError(f"{NAME}: {path}, image {number}: {fault}") from None
        if f"{split}/{image}" in listed:
            raise InputError(f"{NAME}: {path}, image {number}: id {image} is there for the second time.")
        listed[f"{split}/{image}"] = file
        if boxes[image]:
            category = labels[image][_largest(boxes[image])]
            records.append(Record(str(image), file, rank[category], names[category], split, tuple(boxes[image])))
    return records


def _largest(boxes: list[lists.Box] | PixelBoxes) -> int:
    return max(range(len(boxes)), key=lambda i: boxes[i][2] * boxes[i][3])
