"""Oxford Flowers 102: jpg/image_00001.jpg ..., imagelabels.mat (`labels`, from 1), setid.mat (image numbers from 1).

The training split here is the published train and validation images together (`trnid`, `valid`; 10 images of a class
each), the test split is `tstid`. The files name no classes: a class is called by its number, in three digits.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from . import Dataset, Record, parsing
from .matlab import read_matlab

NAME = "flowers"
PUBLISHED = {"classes": 102, "train": 2040, "test": 6149}
SPLITS = {"trnid": "train", "valid": "train", "tstid": "test"}


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`, or from flowers-102/ inside it.

    InputError at the first fault of the .mat files, or if SciPy is missing.
    """
    needed = ("jpg", "imagelabels.mat", "setid.mat")
    folder = parsing.find_root(
        NAME, root, ["flowers-102"], needed, "102flowers.tgz, with the two .mat files beside it,"
    )
    labels = _integers(folder / "imagelabels.mat", ("labels",))["labels"]
    halves = _integers(folder / "setid.mat", tuple(SPLITS))
    numbers = np.concatenate(list(halves.values()))
    if len(np.unique(numbers)) < len(numbers) or numbers.min() < 1 or numbers.max() > len(labels):
        raise InputError(
            f"{NAME}: {folder / 'setid.mat'} must list different image numbers from 1 to {len(labels):,}, the number "
            "of labels in imagelabels.mat. Restore both files."
        )
    rank = {number: label for label, number in enumerate(sorted({int(labels[n - 1]) for n in numbers}))}
    classes = tuple(f"{number:03d}" for number in rank)
    records = []
    for key, split in SPLITS.items():
        for number in map(int, halves[key]):
            label = rank[int(labels[number - 1])]
            records.append(Record(f"image_{number:05d}", f"jpg/image_{number:05d}.jpg", label, classes[label], split))
    parsing.check_files_exist(NAME, "setid.mat", folder, [record.file for record in records])
    note = parsing.check_counts(NAME, classes, records, PUBLISHED)
    return Dataset(NAME, classes, tuple(records), parsing.Files(NAME, folder), note=note)


def _integers(path: Path, variables: tuple[str, ...]) -> dict[str, Any]:
    """{variable: (n,) int} of a .mat file. InputError unless it has all, with at least one whole number each."""
    content, names = read_matlab(NAME, path, variables)
    values = {variable: np.atleast_1d(content[variable]) for variable in variables if variable in content}
    if bad := [v for v in variables if v not in values or values[v].dtype.kind not in "iu" or not values[v].size]:
        present = ", ".join(names) or "nothing"
        raise InputError(f"{NAME}: {path} lacks whole numbers in {', '.join(bad)}; it has {present}. Restore the file.")
    return values
