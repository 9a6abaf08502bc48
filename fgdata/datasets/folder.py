"""Layouts that are nothing but folders: `folder` (class/image), `flat` (images, no classes), and both ImageNets.

Classes are in the order of their folders' names, or of imagenet100's list. An image is a file whose name ends as one.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError
from . import Dataset, Record, parsing

TESTS = ("test", "val", "valid", "validation")
"""Names of a folder beside train/ that is the test split: the first of them that is there."""
IMAGENET = {"classes": 1000, "train": 1281167, "test": 50000}


def read(root: Path) -> Dataset:
    """root/CLASS/IMAGE, all of it train; or root/train/CLASS/IMAGE and root/test/ with the same classes.

    The note names every folder beside train/ that is left out.
    """
    if not (root / "train").is_dir():
        classes = _classes("folder", root)
        _refuse_splits(root, classes)
        return _dataset("folder", root, {"train": ""}, classes)
    tests = [half for half in TESTS if (root / half).is_dir()]
    note = [f"{half}/ is left out: {tests[0]}/ is the test split" for half in tests[1:]]
    others = [f"{word}/" for word in _classes("folder", root) if word not in ("train", *tests)]
    if others:
        verb = "is" if len(others) == 1 else "are"
        note.append(
            f"{parsing.some(others)} beside train/ {verb} left out: names of a test split are {', '.join(TESTS)}"
        )
    halves = {"train": "train/", **({"test": f"{tests[0]}/"} if tests else {})}
    classes = _classes("folder", root / "train")
    if tests and (extra := sorted(set(_classes("folder", root / tests[0])) - set(classes))):
        raise InputError(f"folder: {root / tests[0]} has classes that train/ lacks: {parsing.some(extra)}.")
    return _dataset("folder", root, halves, classes, "\n".join(note))


def _refuse_splits(root: Path, classes: list[str]) -> None:
    """Refuses a root that holds a test split and no train/: its splits would become classes."""
    inside = (entry for word in classes for entry in (root / word).iterdir() if not entry.name.startswith("."))
    if set(classes) <= set(TESTS) and any(entry.is_dir() for entry in inside):
        raise InputError(
            f"folder: {root} has {' and '.join(f'{word}/' for word in classes)} with folders inside, and no train/. "
            "Put the training images in train/CLASS/IMAGE there, or build all of one split as train: --root "
            f"{shlex.quote(str(root / classes[0]))}"
        )


def read_flat(root: Path) -> Dataset:
    """root/IMAGE -> one class, `unlabelled`; all of it train."""
    names = sorted(entry.name for entry in os.scandir(root) if Path(entry.name).suffix.lower() in parsing.SUFFIXES)
    if not names:
        raise InputError(f"flat: {root} holds no image file. With images in class folders it is --dataset folder")
    records = tuple(Record(name, name, 0, "unlabelled", "train") for name in names)
    return Dataset("flat", ("unlabelled",), records, parsing.Files("flat", root))


def read_imagenet(root: Path) -> Dataset:
    """root/train/nXXXXXXXX/ and root/val/nXXXXXXXX/; the published validation images are the test split."""
    classes = _classes("imagenet", _train("imagenet", root))
    halves = _halves("imagenet", root)
    made = _dataset("imagenet", root, halves, classes)
    return _noted(made, parsing.census("imagenet", classes, made.records, IMAGENET))


def read_imagenet100(root: Path, class_list: Path | str | None = None) -> Dataset:
    """The classes of a list, one WordNet id per line (words behind it are ignored), out of ImageNet's folders."""
    path = Path(class_list) if class_list else root / "imagenet100.txt"
    if not path.is_file():
        raise InputError(
            f"imagenet100: no list of classes at {path}. Save the 100 WordNet ids of the paper you compare with there, "
            "one a line, or name the file: --class-list FILE"
        )
    classes: list[str] = []
    for number, line in enumerate(parsing.text("imagenet100", path).splitlines(), 1):
        if word := line.split(maxsplit=1)[0] if line.strip() else "":
            fault = "is there for the second time" if word in classes else ""
            if not (len(word) == 9 and word[0] == "n" and word[1:].isdecimal()):
                fault = "is no WordNet id such as n01440764"
            if fault:
                raise InputError(f"imagenet100: {path}, line {number}: {word!r} {fault}.")
            classes.append(word)
    train = _train("imagenet100", root)
    if lacks := [word for word in classes if not (train / word).is_dir()]:
        raise InputError(
            f"imagenet100: {len(lacks)} classes of {path} have no folder in {train}: {parsing.some(lacks)}."
        )
    made = _dataset("imagenet100", root, _halves("imagenet100", root), classes)
    published = {"classes": 100, "test": 5000}  # the number of training images depends on the list
    return _noted(made, parsing.census("imagenet100", classes, made.records, published))


def _noted(made: Dataset, note: str) -> Dataset:
    return Dataset(made.name, made.classes, made.records, made.load, made.settings, note)


def _train(name: str, root: Path) -> Path:
    parsing.holder(name, root, [], ("train",), "ImageNet, with a folder per class below train/ and val/,")
    return root / "train"


def _halves(name: str, root: Path) -> dict[str, str]:
    if not (root / "val").is_dir():
        return {"train": "train/"}
    if any(entry.startswith("ILSVRC2012_val_") for entry in os.listdir(root / "val")):
        raise InputError(
            f"{name}: the images of {root / 'val'} are not in class folders. Move each into val/WORDNET-ID/, as the "
            "devkit's ILSVRC2012_validation_ground_truth.txt says (torchvision.datasets.ImageNet does it)."
        )
    return {"train": "train/", "test": "val/"}


def _classes(name: str, folder: Path) -> list[str]:
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise InputError(f"{name}: {folder} has no class folders. Images without classes: --dataset flat")
    return found


def _dataset(name: str, root: Path, halves: dict[str, str], classes: Sequence[str], note: str = "") -> Dataset:
    """Every image below each half's class folders, however deep; ids are paths."""
    records = []
    for split, half in halves.items():
        for label, word in enumerate(classes):
            files = _below(root, f"{half}{word}")
            if not files and split == "train":
                raise InputError(f"{name}: the class folder {root / half / word} holds no image file.")
            records += [Record(file, file, label, word, split) for file in files]
    return Dataset(name, tuple(classes), tuple(records), parsing.Files(name, root), note=note)


def _below(root: Path, folder: str) -> list[str]:
    if not (root / folder).is_dir():
        return []
    return sorted(_walk(str(root / folder), folder))


def _walk(path: str, said: str) -> Iterable[str]:
    for entry in os.scandir(path):
        if entry.is_dir():
            yield from _walk(entry.path, f"{said}/{entry.name}")
        elif os.path.splitext(entry.name)[1].lower() in parsing.SUFFIXES:
            yield f"{said}/{entry.name}"
