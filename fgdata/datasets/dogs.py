"""Stanford Dogs: Images/WORDNET-ID-BREED/IMAGE.jpg, Annotation/WORDNET-ID-BREED/IMAGE, train_list.mat, test_list.mat.

The .mat files list the images of each split (`file_list`); annotations are XML files without a suffix. An image has
the box of each dog, in the order of its file. Classes are the breeds, sorted by WordNet id, as the published labels.
"""

from pathlib import Path

import numpy as np

from ..errors import InputError
from . import Dataset, Record, parsing
from .matlab import read_matlab
from .voc import Annotated

NAME = "dogs"
PUBLISHED = {"classes": 120, "train": 12000, "test": 8580}
LISTS = {"train": "train_list.mat", "test": "test_list.mat"}


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`; the lists may be in lists/. InputError at their first fault, or without SciPy."""
    lists = "lists/" if (root / "lists").is_dir() else ""
    needed = ("Images", "Annotation", *(lists + name for name in LISTS.values()))
    parsing.find_root(NAME, root, [], needed, "images.tar, annotation.tar and lists.tar")
    halves = {split: _files(root / f"{lists}{name}") for split, name in LISTS.items()}
    files = {file: split for split, half in halves.items() for file in half}
    if len(files) < sum(map(len, halves.values())):
        raise InputError(f"{NAME}: {' and '.join(LISTS.values())} in {root} list an image twice. Restore them.")
    parsing.check_files_exist(NAME, "the .mat files", root / "Images", {file: file for file in files})
    parsing.check_files_exist(NAME, "the .mat files", root / "Annotation", {file: file[:-4] for file in files})
    folders = sorted({file.split("/")[0] for file in files})
    classes = tuple(folder.partition("-")[2] for folder in folders)
    rank = {folder: label for label, folder in enumerate(folders)}
    records = []
    for file, split in files.items():
        label = rank[file.split("/")[0]]
        records.append(Record(file[:-4], f"Images/{file}", label, classes[label], split, None))
    note = parsing.check_counts(NAME, classes, records, PUBLISHED)
    return Dataset(NAME, classes, tuple(records), Annotated(NAME, root, xml="Annotation/{id}"), note=note)


def _files(path: Path) -> list[str]:
    content, names = read_matlab(NAME, path, ("file_list",))
    if "file_list" not in content:
        raise InputError(f"{NAME}: {path} has no file_list; it has {', '.join(names) or 'nothing'}. Restore the file.")
    files = [str(file) for file in np.atleast_1d(content["file_list"])]
    for number, file in enumerate(files, 1):
        folder, _, image = file.partition("/")
        if ".." in folder or "-" not in folder or "/" in image or "\0" in file or not image.endswith(".jpg"):
            raise InputError(
                f"{NAME}: {path}, image {number}: {file[:120]!r}; expected WORDNET-ID-BREED/IMAGE.jpg. "
                "Restore the file."
            )
    return files
