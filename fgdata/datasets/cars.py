"""Stanford Cars, from the .mat files of its devkit, in either of its two published layouts; or by class from Kaggle.

One folder: cars_annos.mat (`annotations` with relative_im_path, bbox_x1 .. bbox_y2, class, test; `class_names`) and
car_ims/. Two halves: devkit/cars_meta.mat (`class_names`), devkit/cars_train_annos.mat, cars_test_annos_withlabels.mat
in devkit/ or beside it (`annotations` with bbox_x1 .. bbox_y2, class, fname), cars_train/, cars_test/.
By class: names.csv (a class per line), anno_train.csv and anno_test.csv (file, x1, y1, x2, y2, class; no header),
car_data/car_data/train/CLASS/ and test/CLASS/; the lists give the class, not the folders.
Corners count from 1 and are both inside the box; classes count from 1 and become labels from 0.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from . import Dataset, Record, parsing, scan
from .matlab import read_matlab

NAME = "cars"
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
PUBLISHED = {"classes": 196, "train": 8144, "test": 8041}
TEST = "cars_test_annos_withlabels.mat"
DEVKITS = ("devkit", "car_devkit/devkit")
BY_CLASS = ("names.csv", "anno_train.csv", "anno_test.csv", "car_data")


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`. InputError at the first fault of its .mat files, or if SciPy is missing."""
    root = root / "stanford_cars" if (root / "stanford_cars").is_dir() else root  # as torchvision leaves them
    one_folder = (root / "cars_annos.mat").is_file() and (root / "car_ims").is_dir()
    if one_folder:
        variables = _load(root / "cars_annos.mat", ("annotations", "class_names"))
        classes = _classes(variables)
        records = _records(root / "cars_annos.mat", variables["annotations"], classes, "relative_im_path", "", "")
    elif (root / "anno_train.csv").is_file():
        classes, records = _read_by_class(root)
    else:
        devkit = next((path for path in DEVKITS if (root / path).is_dir()), "")
        if not devkit:
            _explain_kaggle(root)
        test = f"{devkit}/{TEST}" if (root / devkit / TEST).is_file() else TEST
        needed = [f"{devkit}/cars_meta.mat", f"{devkit}/cars_train_annos.mat", test, "cars_train", "cars_test"]
        if not devkit:
            needed = ["cars_annos.mat", "car_ims"]
        parsing.find_root(NAME, root, [], needed, "the dataset (car_ims.tgz with cars_annos.mat, or devkit/)")
        classes = _classes(_load(root / needed[0], ("class_names",)))
        records = []
        for path, split in ((root / needed[1], "train"), (root / needed[2], "test")):
            annotations = _load(path, ("annotations",))["annotations"]
            folder = f"cars_{split}/"
            if (root / folder / folder).is_dir():  # as Kaggle's copies are unpacked
                folder += folder
            records += _records(path, annotations, classes, "fname", folder, split)
    parsing.check_files_exist(NAME, "its lists", root, [record.file for record in records])
    note = parsing.check_counts(NAME, classes, records, PUBLISHED)
    return Dataset(NAME, classes, tuple(records), parsing.Files(NAME, root), note=note)


def _read_by_class(root: Path) -> tuple[tuple[str, ...], list[Record]]:
    parsing.find_root(NAME, root, [], BY_CLASS, "the Kaggle archive with anno_train.csv")
    classes = tuple(filter(None, map(str.strip, parsing.read_text(NAME, root / "names.csv").splitlines())))
    top = "car_data/car_data" if (root / "car_data/car_data").is_dir() else "car_data"
    records = []
    for split in ("train", "test"):
        half = f"{top}/{split}"
        folders = scan.list_folders(root / half) if (root / half).is_dir() else []
        paths = {image: f"{half}/{folder}/{image}" for folder in folders for image in os.listdir(root / half / folder)}

        def parse(row: dict[str, str], split: str = split, half: str = half, paths: dict = paths) -> Record:
            label = parsing.whole_number(row, "class") - 1
            if not 0 <= label < len(classes):
                raise ValueError(f"class is {label + 1}; names.csv has {len(classes)} lines")
            x1, y1, x2, y2 = (float(row[corner]) for corner in CORNERS)
            file = parsing.check_relative_path(row["file"])
            place = paths.get(file, f"{half}/{file}")
            box = parsing.box_from_corners(x1, y1, x2, y2, first=1)
            return Record(f"{split}/{file.rsplit('.', 1)[0]}", place, label, classes[label], split, (box,))

        columns = ("file", *CORNERS, "class")
        records += parsing.read_csv(NAME, root / f"anno_{split}.csv", columns, parse, has_header=False)
    return classes, records


def _explain_kaggle(root: Path) -> None:
    """InputError if the root is Kaggle's copy without the devkit: its cars_annos.mat lists files under other names."""
    if (root / "cars_train").is_dir() and not (root / "car_ims").is_dir():
        raise InputError(
            f"{NAME}: {root} has cars_train/ but no devkit/ that lists its images; cars_annos.mat lists those of "
            f"car_ims/. Get car_devkit.tgz (some of the copies on Kaggle contain it), unpack it to "
            f"{root / 'devkit'}, and put {TEST} beside it."
        )


def _load(path: Path, variables: tuple[str, ...]) -> dict[str, Any]:
    """The variables of a .mat file, arrays squeezed. InputError if one of `variables` is missing."""
    content, names = read_matlab(NAME, path, variables)
    if missing := [word for word in variables if word not in content]:
        present = ", ".join(names) or "nothing"
        hint = f" The devkit's own test list has no labels; {TEST} has them." if "test" in path.name else ""
        raise InputError(
            f"{NAME}: {path} is not one of the devkit's .mat files: no {', '.join(missing)}; it has {present}.{hint}"
        )
    return content


def _classes(variables: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(name) for name in np.atleast_1d(variables["class_names"]))


def _records(
    path: Path, annotations: Any, classes: tuple[str, ...], file: str, folder: str, split: str
) -> list[Record]:
    """One record per annotation. If split is "", the field `test` gives it."""
    annotations = np.atleast_1d(annotations)
    fields = (file, *CORNERS, "class", *(() if split else ("test",)))
    if missing := [field for field in fields if field not in (annotations.dtype.names or ())]:
        present = ", ".join(annotations.dtype.names or ()) or "no fields"
        hint = f" The devkit's cars_test_annos.mat has no labels; {TEST} has them." if missing == ["class"] else ""
        raise InputError(f"{NAME}: {path}: its annotations lack {', '.join(missing)}; they have {present}.{hint}")
    records = []
    for number, entry in enumerate(annotations, 1):
        try:
            place = parsing.check_relative_path(folder + str(entry[file]))
            x1, y1, x2, y2 = (float(entry[corner]) for corner in CORNERS)
            label = int(entry["class"]) - 1
            if not 0 <= label < len(classes):
                raise ValueError(f"class is {label + 1}; allowed: 1 to {len(classes)}")
            half = split or ("test" if int(entry["test"]) else "train")
            box = parsing.box_from_corners(x1, y1, x2, y2, first=1)
        except (ValueError, TypeError, OverflowError) as fault:
            raise InputError(f"{NAME}: {path}, annotation {number}: {fault}") from None
        records.append(Record(place.rsplit(".", 1)[0], place, label, classes[label], half, (box,)))
    return records
