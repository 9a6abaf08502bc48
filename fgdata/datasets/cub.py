"""The CUB-200-2011 layout, complete or any subset of it. nabirds.py shares `read_lists`.

images.txt `ID PATH`, image_class_labels.txt `ID CLASS`, train_test_split.txt `ID 1-if-train`, bounding_boxes.txt
`ID L T W H` in pixels, classes.txt `CLASS NAME`, images/PATH. All five lists, and that every
file exists, are checked before any image is opened. Labels are 0-based: the rank of a class's number in classes.txt.
"""

from collections.abc import Callable, Collection
from pathlib import Path

from ..errors import InputError, abbreviate
from . import Dataset, Record, parsing

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt")
PUBLISHED = {"classes": 200, "train": 5994, "test": 5794}


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`, or from CUB_200_2011/ inside it. InputError at the first fault of a list."""
    folder = parsing.find_root("cub", root, ["CUB_200_2011"], LISTS, "CUB_200_2011.tgz")
    return read_lists("cub", folder, PUBLISHED)


def read_lists(
    name: str, folder: Path, published: dict[str, int], *, whole_ids: bool = True, only_used: bool = False
) -> Dataset:
    """Reads the five lists of a folder.

    Args:
        name: The dataset's name, for messages.
        folder: The folder with the five lists and images/.
        published: Published numbers of {classes, train, test}.
        whole_ids: Image ids must be whole numbers. Default: True.
        only_used: Leave out classes without an image, such as the groups of a hierarchy. Default: False.
    """
    if not (folder / "images").is_dir():
        raise InputError(f"{name}: {folder} has the lists but no folder images/. Unpack the archive there again.")
    paths = parsing.read_table(name, folder / "images.txt", "ID PATH", _path, whole_ids)
    classes = parsing.read_table(name, folder / "classes.txt", "CLASS NAME", lambda text: text)
    labels = parsing.read_table(name, folder / "image_class_labels.txt", "ID CLASS", _class_of(classes), whole_ids)
    splits = parsing.read_table(name, folder / "train_test_split.txt", "ID 0-OR-1", _split, whole_ids)
    boxes = parsing.read_table(name, folder / "bounding_boxes.txt", "ID L T W H", _box, whole_ids)
    for other, ids in (("image_class_labels", labels), ("train_test_split", splits), ("bounding_boxes", boxes)):
        parsing.check_same_ids(name, folder, "images.txt", paths, f"{other}.txt", ids)
    parsing.check_files_exist(name, folder / "images.txt", folder / "images", paths)

    used = set(labels.values()) if only_used else set(classes)
    rank = {number: label for label, number in enumerate(sorted(used, key=int))}
    records = tuple(
        Record(id_, path, rank[labels[id_]], classes[labels[id_]], splits[id_], (boxes[id_],))
        for id_, path in paths.items()
    )
    names = tuple(classes[number] for number in rank)
    note = parsing.check_counts(name, names, records, published)
    return Dataset(name, names, records, parsing.Files(name, folder / "images"), note=note)


def _path(text: str) -> str:
    return parsing.check_relative_path(text, "images/")


def _class_of(classes: Collection[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in classes:
            raise ValueError(f"class {text!r} is not in classes.txt, which lists {len(classes)}: {abbreviate(classes)}")
        return text

    return parse


def _split(text: str) -> str:
    if text not in ("0", "1"):
        raise ValueError(f"found {text!r}; expected 1 (train) or 0 (test)")
    return "train" if text == "1" else "test"


def _box(text: str) -> parsing.Box:
    fields = text.split()
    if len(fields) != 4:
        raise ValueError(f"found {len(fields)} numbers after the id; expected four: left, top, width, height")
    left, top, width, height = (float(field) for field in fields)
    return parsing.check_box(left, top, width, height)
