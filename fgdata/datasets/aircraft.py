"""FGVC-Aircraft (2013b): images_box.txt, images_LEVEL_trainval.txt, images_LEVEL_test.txt, a class list, images/.

Boxes are `ID XMIN YMIN XMAX YMAX`, counted from 1, both corners inside. The published protocol trains on trainval. The
lowest 20 pixels of each photograph are a copyright banner. It stays in the stored bytes, so an encoder that sees whole
images sees the banner.
"""

from collections.abc import Callable, Collection
from pathlib import Path

from ..errors import InputError, abbreviate
from . import Dataset, Record, parsing

NAME = "aircraft"
LEVELS = {"variant": ("variants.txt", 100), "family": ("families.txt", 70), "manufacturer": ("manufacturers.txt", 30)}
PUBLISHED = {"train": 6667, "test": 3333}


def read(root: Path, level: str = "variant") -> Dataset:
    """Reads the dataset from `root`, or from data/ or fgvc-aircraft-2013b/data/ inside it.

    level: of the class labels: variant (default), family or manufacturer. InputError at the first fault of a list.
    """
    if level not in LEVELS:
        raise InputError(f"{NAME}: --level {level}: allowed: {', '.join(LEVELS)}.")
    listing, count = LEVELS[level]
    halves = {split: f"images_{level}_{half}.txt" for split, half in (("train", "trainval"), ("test", "test"))}
    needed = (listing, *halves.values(), "images_box.txt", "images")
    folder = parsing.find_root(NAME, root, ["data", "fgvc-aircraft-2013b/data"], needed, "fgvc-aircraft-2013b.tar.gz")
    classes = tuple(line.strip() for line in parsing.read_text(NAME, folder / listing).splitlines() if line.strip())
    rank = {name: label for label, name in enumerate(classes)}
    boxes = parsing.read_table(NAME, folder / "images_box.txt", "ID XMIN YMIN XMAX YMAX", _box)
    parse = _class_of(rank, listing)
    labels = {
        split: parsing.read_table(NAME, folder / half, f"ID {level.upper()}", parse) for split, half in halves.items()
    }
    if duplicates := [id_ for id_ in labels["train"] if id_ in labels["test"]]:
        raise InputError(
            f"{NAME}: {abbreviate(duplicates)} listed in both {' and '.join(halves.values())} (in {folder}). "
            "Remove the duplicates from one of them."
        )
    ids = labels["train"] | labels["test"]
    parsing.check_same_ids(NAME, folder, " or ".join(halves.values()), ids, "images_box.txt", boxes)
    parsing.check_files_exist(NAME, folder / "images_box.txt", folder / "images", {id_: f"{id_}.jpg" for id_ in ids})
    records = tuple(
        Record(id_, f"{id_}.jpg", rank[name], name, split, (boxes[id_],))
        for split, half in labels.items()
        for id_, name in half.items()
    )
    note = parsing.check_counts(NAME, classes, records, {"classes": count, **PUBLISHED})
    return Dataset(NAME, classes, records, parsing.Files(NAME, folder / "images"), {"level": level}, note)


def _class_of(classes: Collection[str], listing: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in classes:
            raise ValueError(f"{text!r} is not in {listing}, which lists {len(classes)}: {abbreviate(classes)}")
        return text

    return parse


def _box(text: str) -> parsing.Box:
    fields = [float(field) for field in text.split()]
    if len(fields) != 4:
        raise ValueError(f"found {len(fields)} numbers after the id; expected four: xmin, ymin, xmax, ymax")
    return parsing.box_from_corners(*fields, first=1)
