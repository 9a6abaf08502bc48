"""iNaturalist 2018: train2018.json and val2018.json in COCO's style, images under train_val2018/; no boxes.

The published validation images are the test split here; the competition's own test images have no labels. Class
names in these files are numbers. With categories.json beside them, released after the competition, they are species.
"""

from pathlib import Path
from reprlib import repr as excerpt

from ..errors import InputError, abbreviate
from . import Dataset, Record, parsing

NAME = "inat2018"
PUBLISHED = {"classes": 8142, "train": 437513, "test": 24426}
HALVES = {"train": "train2018.json", "test": "val2018.json"}


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`. InputError at the first fault of its JSON files."""
    parsing.find_root(NAME, root, [], tuple(HALVES.values()), "the dataset")
    halves = {
        split: parsing.read_json_lists(NAME, root / file, ("images", "annotations", "categories"))
        for split, file in HALVES.items()
    }
    names = parsing.read_categories(NAME, root / HALVES["train"], halves["train"]["categories"])
    if parsing.read_categories(NAME, root / HALVES["test"], halves["test"]["categories"]) != names:
        raise InputError(f"{NAME}: {HALVES['train']} and {HALVES['test']} in {root} have different categories.")
    species = root / "categories.json"
    if species.is_file():
        species_names = _read_species(species)
        if missing := [str(number) for number in names if number not in species_names]:
            raise InputError(f"{NAME}: {species} lacks the categories {abbreviate(missing)} of {HALVES['train']}.")
        names = {number: species_names[number] for number in names}
    rank = {number: label for label, number in enumerate(sorted(names))}
    records = []
    for split, half in halves.items():
        records += _records(root / HALVES[split], half, names, rank, split)
    parsing.check_files_exist(NAME, " and ".join(HALVES.values()), root, [record.file for record in records])
    classes = tuple(names[number] for number in rank)
    note = parsing.check_counts(NAME, classes, records, PUBLISHED)
    return Dataset(NAME, classes, tuple(records), parsing.Files(NAME, root), note=note)


def _read_species(path: Path) -> dict[int, str]:
    """categories.json, a list of {id, name, ...} -> {id: name}."""
    entries = parsing.read_json(NAME, path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{NAME}: {path} is not a JSON list of categories.")
    return parsing.read_categories(NAME, path, entries)


def _records(path: Path, half: dict, names: dict[int, str], rank: dict[int, int], split: str) -> list[Record]:
    labels: dict[int, int] = {}
    for number, entry in enumerate(half["annotations"], 1):
        image, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(category, int) or category not in names or not isinstance(image, int) or image in labels:
            raise InputError(
                f"{NAME}: {path}, annotation {number}: image_id {excerpt(image)}, category_id {excerpt(category)}: "
                f"each image needs exactly one annotation, with one of the {len(names):,} categories."
            )
        labels[image] = category
    records, ids = [], set()
    for number, entry in enumerate(half["images"], 1):
        image, file = entry.get("id"), entry.get("file_name")
        if not isinstance(image, int) or image in ids or image not in labels or not isinstance(file, str):
            raise InputError(
                f"{NAME}: {path}, image {number}, id {excerpt(image)}, file_name {excerpt(file)}: needs "
                "a unique id with one annotation, and a file name."
            )
        ids.add(image)
        try:
            file = parsing.check_relative_path(file)
        except ValueError as fault:
            raise InputError(f"{NAME}: {path}, image {number}: {fault}") from None
        category = labels[image]
        records.append(Record(str(image), file, rank[category], names[category], split))
    if extra := [str(image) for image in labels if image not in ids]:
        raise InputError(
            f"{NAME}: {path} has annotations of {len(extra):,} images that it does not list: {abbreviate(extra)}."
        )
    return records
