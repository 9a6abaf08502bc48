"""iNaturalist 2018: train2018.json and val2018.json in COCO's style, images under train_val2018/; no boxes.

The published validation images are the test split here; the competition's own test images have no labels. The class
names of these files are numbers; with categories.json, released after the competition, beside them they are species.
"""

import json
from pathlib import Path

from ..errors import InputError
from . import Dataset, Record, parsing

NAME = "inat2018"
PUBLISHED = {"classes": 8142, "train": 437513, "test": 24426}
HALVES = {"train": "train2018.json", "test": "val2018.json"}


def read(root: Path) -> Dataset:
    """The dataset in `root`. InputError at the first fault of its JSON files."""
    parsing.holder(NAME, root, [], tuple(HALVES.values()), "the dataset")
    halves = {
        split: parsing.json_lists(NAME, root / file, ("images", "annotations", "categories"))
        for split, file in HALVES.items()
    }
    names = parsing.categories(NAME, root / HALVES["train"], halves["train"]["categories"])
    if parsing.categories(NAME, root / HALVES["test"], halves["test"]["categories"]) != names:
        raise InputError(f"{NAME}: {HALVES['train']} and {HALVES['test']} in {root} have different categories.")
    species = root / "categories.json"
    if species.is_file():
        known = _released(species)
        if lacks := [str(number) for number in names if number not in known]:
            raise InputError(f"{NAME}: {species} lacks the categories {parsing.some(lacks)} of {HALVES['train']}.")
        names = {number: known[number] for number in names}
    rank = {number: label for label, number in enumerate(sorted(names))}
    records = []
    for split, half in halves.items():
        records += _records(root / HALVES[split], half, names, rank, split)
    parsing.files_present(NAME, " and ".join(HALVES.values()), root, {record.id: record.file for record in records})
    classes = tuple(names[number] for number in rank)
    note = parsing.census(NAME, classes, records, PUBLISHED)
    return Dataset(NAME, classes, tuple(records), parsing.Files(NAME, root), note=note)


def _released(path: Path) -> dict[int, str]:
    """categories.json, a bare list of {id, name, ...}, as {id: name}."""
    try:
        found = json.loads(parsing.text(NAME, path))
    except json.JSONDecodeError as fault:
        raise InputError(f"{NAME}: {path}, line {fault.lineno}, column {fault.colno}: {fault.msg}") from None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{NAME}: {path} is no JSON list of categories.")
    return parsing.categories(NAME, path, found)


def _records(path: Path, half: dict, names: dict[int, str], rank: dict[int, int], split: str) -> list[Record]:
    labels: dict[int, int] = {}
    for number, entry in enumerate(half["annotations"], 1):
        image, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(category, int) or category not in names or not isinstance(image, int) or image in labels:
            raise InputError(
                f"{NAME}: {path}, annotation {number}: image_id {image}, category_id {category}: an image has one "
                f"annotation with one of the {len(names):,} categories."
            )
        labels[image] = category
    records, seen = [], set()
    for number, entry in enumerate(half["images"], 1):
        image, file = entry.get("id"), entry.get("file_name")
        if not isinstance(image, int) or image in seen or image not in labels or not isinstance(file, str):
            raise InputError(
                f"{NAME}: {path}, image {number}, id {image}, file_name {file}: an id of its own with one annotation "
                "and a file are needed."
            )
        seen.add(image)
        try:
            parsing.inside(file)
        except ValueError as fault:
            raise InputError(f"{NAME}: {path}, image {number}: {fault}") from None
        category = labels[image]
        records.append(Record(str(image), file, rank[category], names[category], split))
    if extra := [str(image) for image in labels if image not in seen]:
        raise InputError(
            f"{NAME}: {path} has annotations of {len(extra):,} images it does not list: {parsing.some(extra)}."
        )
    return records
