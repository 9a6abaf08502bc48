"""Layouts made of folders only: `folder` (class/image), `flat` (images without classes), and both ImageNets.

Classes are sorted by folder name, or in the order of imagenet100's list. The suffix decides which files are images.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from . import Dataset, Record, parsing

TESTS = ("test", "val", "valid", "validation")
"""Names of the test split's folder beside train/. The first that exists is used."""
IMAGENET = {"classes": 1000, "train": 1281167, "test": 50000}


def read(root: Path) -> Dataset:
    """Reads root/CLASS/IMAGE, all train; or root/train/CLASS/IMAGE and root/test/CLASS/IMAGE with the same classes.

    The note names every folder beside train/ that is left out. InputError if a class folder has no image.
    """
    if not (root / "train").is_dir():
        classes = _classes("folder", root)
        _refuse_splits(root, classes)
        return _dataset("folder", root, {"train": ""}, classes)
    tests = [half for half in TESTS if (root / half).is_dir()]
    notes = [f"{half}/ is left out: {tests[0]}/ is the test split" for half in tests[1:]]
    ignored = [f"{word}/" for word in _classes("folder", root) if word not in ("train", *tests)]
    if ignored:
        verb = "is" if len(ignored) == 1 else "are"
        notes.append(
            f"{parsing.abbreviate(ignored)} beside train/ {verb} left out: a test split is called {', '.join(TESTS)}"
        )
    halves = {"train": "train/", **({"test": f"{tests[0]}/"} if tests else {})}
    classes = _classes("folder", root / "train")
    if tests and (extra := sorted(set(_classes("folder", root / tests[0])) - set(classes))):
        raise InputError(
            f"folder: {root / tests[0]} has classes that train/ lacks: {parsing.abbreviate(extra)}. "
            "Rename or remove them."
        )
    return _dataset("folder", root, halves, classes, "\n".join(notes))


def _refuse_splits(root: Path, classes: list[str]) -> None:
    """InputError if the root has a test split but no train/: the splits would become classes."""
    entries = (entry for word in classes for entry in (root / word).iterdir() if not entry.name.startswith("."))
    if set(classes) <= set(TESTS) and any(entry.is_dir() for entry in entries):
        raise InputError(
            f"folder: {root} has {' and '.join(f'{word}/' for word in classes)} with folders inside, but no train/. "
            "Put the training images in train/CLASS/IMAGE, or read one split as train: --root "
            f"{shlex.quote(str(root / classes[0]))}"
        )


def read_flat(root: Path) -> Dataset:
    """Reads root/IMAGE as one class, `unlabelled`, all train. InputError if there is no image."""
    names = sorted(entry.name for entry in os.scandir(root) if Path(entry.name).suffix.lower() in parsing.SUFFIXES)
    if not names:
        raise InputError(f"flat: {root} contains no images. If they are in class folders, use: --dataset folder")
    records = tuple(Record(name, name, 0, "unlabelled", "train") for name in names)
    return Dataset("flat", ("unlabelled",), records, parsing.Files("flat", root))


def read_imagenet(root: Path) -> Dataset:
    """Reads root/train/nXXXXXXXX/ and root/val/nXXXXXXXX/. The published validation images are the test split."""
    classes = _classes("imagenet", _train("imagenet", root))
    halves = _halves("imagenet", root)
    dataset = _dataset("imagenet", root, halves, classes)
    return replace(dataset, note=parsing.check_counts("imagenet", classes, dataset.records, IMAGENET))


def read_imagenet100(root: Path, class_list: Path | str | None = None) -> Dataset:
    """Reads the listed classes from ImageNet's folders.

    class_list: a file with one WordNet id per line; text after the id is ignored. Default: root/imagenet100.txt.
    """
    path = Path(class_list) if class_list else root / "imagenet100.txt"
    if not path.is_file():
        raise InputError(
            f"imagenet100: no class list at {path}. Save there the 100 WordNet ids of the paper you compare with, "
            "one per line, or name another file: --class-list FILE"
        )
    classes: list[str] = []
    for number, line in enumerate(parsing.read_text("imagenet100", path).splitlines(), 1):
        if word := line.split(maxsplit=1)[0] if line.strip() else "":
            fault = "appears twice" if word in classes else ""
            if not (len(word) == 9 and word[0] == "n" and word[1:].isdecimal()):
                fault = "is not a WordNet id such as n01440764"
            if fault:
                raise InputError(f"imagenet100: {path}, line {number}: {word!r} {fault}.")
            classes.append(word)
    train = _train("imagenet100", root)
    if missing := [word for word in classes if not (train / word).is_dir()]:
        raise InputError(
            f"imagenet100: {len(missing)} classes of {path} have no folder in {train}: {parsing.abbreviate(missing)}."
        )
    dataset = _dataset("imagenet100", root, _halves("imagenet100", root), classes)
    published = {"classes": 100, "test": 5000}  # the number of training images depends on the list
    return replace(dataset, note=parsing.check_counts("imagenet100", classes, dataset.records, published))


def _train(name: str, root: Path) -> Path:
    parsing.find_root(name, root, [], ("train",), "ImageNet, with one folder per class in train/ and val/,")
    return root / "train"


def _halves(name: str, root: Path) -> dict[str, str]:
    if not (root / "val").is_dir():
        return {"train": "train/"}
    if any(entry.startswith("ILSVRC2012_val_") for entry in os.listdir(root / "val")):
        raise InputError(
            f"{name}: the images of {root / 'val'} are not in class folders. Move each to val/WORDNET-ID/, as "
            "listed in the devkit's ILSVRC2012_validation_ground_truth.txt (torchvision.datasets.ImageNet does this)."
        )
    return {"train": "train/", "test": "val/"}


def _classes(name: str, folder: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"{name}: {folder} has no class folders. For images without classes, use: --dataset flat")
    return names


def _dataset(name: str, root: Path, halves: dict[str, str], classes: Sequence[str], note: str = "") -> Dataset:
    """All images in the class folders of each split, at any depth. Ids are paths."""
    records = []
    for split, half in halves.items():
        for label, word in enumerate(classes):
            files = _list_images(root, f"{half}{word}")
            if not files and split == "train":
                raise InputError(
                    f"{name}: the class folder {root / half / word} contains no images. Add some, or remove it."
                )
            records += [Record(file, file, label, word, split) for file in files]
    return Dataset(name, tuple(classes), tuple(records), parsing.Files(name, root), note=note)


def _list_images(root: Path, folder: str) -> list[str]:
    if not (root / folder).is_dir():
        return []
    return sorted(_walk(str(root / folder), folder))


def _walk(path: str, name: str) -> Iterable[str]:
    for entry in os.scandir(path):
        if entry.is_dir():
            yield from _walk(entry.path, f"{name}/{entry.name}")
        elif os.path.splitext(entry.name)[1].lower() in parsing.SUFFIXES:
            yield f"{name}/{entry.name}"
