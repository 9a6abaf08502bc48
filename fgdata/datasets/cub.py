"""The CUB-200-2011 layout, whole or any subset of it; nabirds.py reads its sibling.

images.txt `ID PATH`, image_class_labels.txt `ID CLASS`, train_test_split.txt `ID 1-if-train`, bounding_boxes.txt
`ID L T W H` in pixels, classes.txt `CLASS NAME`, images/PATH. All five lists and the presence of every file are checked
here, before any image is opened. Labels are 0-based: a class's place among the numbers of classes.txt.
"""

from collections.abc import Callable, Collection
from pathlib import Path

from ..errors import InputError
from . import Dataset, Record, parsing

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt")
PUBLISHED = {"classes": 200, "train": 5994, "test": 5794}


def read(root: Path) -> Dataset:
    """The dataset in `root`, or in CUB_200_2011/ inside it. InputError at the first fault of the parsing."""
    folder = parsing.holder("cub", root, ["CUB_200_2011"], LISTS, "CUB_200_2011.tgz")
    return read_lists("cub", folder, PUBLISHED)


def read_lists(
    name: str, folder: Path, published: dict[str, int], *, whole_ids: bool = True, only_used: bool = False
) -> Dataset:
    """The five lists of a folder. only_used leaves out classes without an image, such as groups of a hierarchy."""
    if not (folder / "images").is_dir():
        raise InputError(f"{name}: {folder} has its lists but no folder images/. Unpack the archive there again.")
    paths = parsing.table(name, folder / "images.txt", "ID PATH", _path, whole_ids)
    classes = parsing.table(name, folder / "classes.txt", "CLASS NAME", lambda text: text)
    labels = parsing.table(name, folder / "image_class_labels.txt", "ID CLASS", _class_of(classes), whole_ids)
    splits = parsing.table(name, folder / "train_test_split.txt", "ID 0-OR-1", _split, whole_ids)
    boxes = parsing.table(name, folder / "bounding_boxes.txt", "ID L T W H", _box, whole_ids)
    for other, ids in (("image_class_labels", labels), ("train_test_split", splits), ("bounding_boxes", boxes)):
        parsing.same_ids(name, folder, "images.txt", paths, f"{other}.txt", ids)
    parsing.files_present(name, folder / "images.txt", folder / "images", paths)

    used = set(labels.values()) if only_used else set(classes)
    rank = {number: label for label, number in enumerate(sorted(used, key=int))}
    records = tuple(
        Record(id_, path, rank[labels[id_]], classes[labels[id_]], splits[id_], (boxes[id_],))
        for id_, path in paths.items()
    )
    names = tuple(classes[number] for number in rank)
    note = parsing.census(name, names, records, published)
    return Dataset(name, names, records, parsing.Files(name, folder / "images"), note=note)


def _path(text: str) -> str:
    return parsing.inside(text, "images/")


def _class_of(classes: Collection[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in classes:
            raise ValueError(f"class {text!r} is not in classes.txt, which has {len(classes)}: {parsing.some(classes)}")
        return text

    return parse


def _split(text: str) -> str:
    if text not in ("0", "1"):
        raise ValueError(f"found {text!r}; 1 is train and 0 is test")
    return "train" if text == "1" else "test"


def _box(text: str) -> parsing.Box:
    fields = text.split()
    if len(fields) != 4:
        raise ValueError(f"found {len(fields)} numbers after the id; four are expected: left, top, width, height")
    left, top, width, height = (float(field) for field in fields)
    return parsing.box(left, top, width, height)
