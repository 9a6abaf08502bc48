"""Layouts made of folders only: `folder` (class/image), `flat` (images without classes), and both ImageNets.

Classes are sorted by folder name, or in the order of imagenet100's list. `scan` decides which files are images.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from . import Dataset, Record, parsing, scan
from .split import split_off

TESTS = ("test", "val", "valid", "validation")
"""Names of the test split's folder beside train/. The first that exists is used."""
IMAGENET = {"classes": 1000, "train": 1281167, "test": 50000}


def read(root: Path, test_fraction: float | None = None, split_seed: int = 0) -> Dataset:
    """Reads root/CLASS/IMAGE, all train; or root/train/CLASS/IMAGE and root/test/CLASS/IMAGE with the same classes.

    Pictures are turned upright by their EXIF orientation. The note names what is left out. InputError if a class folder
    has no image. `test_fraction` and `split_seed` draw a test split (see `split_off`).
    """
    return split_off(_read(root), test_fraction, split_seed)


def _read(root: Path) -> Dataset:
    if not (root / "train").is_dir():
        classes = _classes("folder", root)
        _refuse_splits(root, [name for names in classes.values() for name in names])
        return _dataset("folder", root, {"train": ""}, classes, upright=True)
    tests = [half for half in TESTS if (root / half).is_dir()]
    notes = [f"{half}/ is left out: {tests[0]}/ is the test split" for half in tests[1:]]
    ignored = [f"{word}/" for word in scan.list_folders(root) if word not in ("train", *tests)]
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
    return _dataset("folder", root, halves, classes, notes, upright=True)


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
    """Reads root/IMAGE as one class, `unlabelled`, all train. InputError if there is no image.

    Pictures are turned upright by their EXIF orientation. The note names what is left out.
    """
    left_out = scan.LeftOut()
    names = scan.list_images(root, left_out)
    if not names:
        raise InputError(
            f"flat: {root} contains no images. If they are in class folders, use: --dataset folder"
            + "".join(f"\n{line}" for line in left_out.notes())
        )
    records = tuple(Record(name, name, 0, "unlabelled", "train", upright=True) for name in names)
    note = "\n".join(left_out.notes())
    return Dataset("flat", ("unlabelled",), records, parsing.Files("flat", root), note=note)


def read_imagenet(root: Path) -> Dataset:
    """Reads root/train/nXXXXXXXX/ and root/val/nXXXXXXXX/. The published validation images are the test split."""
    classes = _classes("imagenet", _train("imagenet", root))
    halves = _halves("imagenet", root)
    return _add_counts(_dataset("imagenet", root, halves, classes), IMAGENET)


def read_imagenet100(root: Path, class_list: Path | str | None = None) -> Dataset:
    """Reads the listed classes from ImageNet's folders.

    class_list: a file with one WordNet id per line; text after the id is ignored. Default: root/imagenet100.txt.
    """
    path = Path(class_list) if class_list else root / "imagenet100.txt"
    if not path.is_file():
        raise InputError(
            f"imagenet100: no class list at {path}. Save the 100 WordNet ids of the paper you compare with to "
            "that file, one per line, or name another file: --class-list FILE"
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
            f"imagenet100: {len(missing)} classes of {path} have no folder in {train}: {parsing.abbreviate(missing)}. "
            "Unpack their images there, or correct the list."
        )
    dataset = _dataset("imagenet100", root, _halves("imagenet100", root), {word: [word] for word in classes})
    published = {"classes": 100, "test": 5000}  # the number of training images depends on the list
    return _add_counts(dataset, published)


def _add_counts(dataset: Dataset, published: dict[str, int]) -> Dataset:
    counts = parsing.check_counts(dataset.name, dataset.classes, dataset.records, published)
    return replace(dataset, note="\n".join(line for line in (counts, dataset.note) if line))


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


def _classes(name: str, folder: Path) -> dict[str, list[str]]:
    """{class in Unicode's form NFC: its folders}, sorted. Folders whose names differ only in the form are one class."""
    classes: dict[str, list[str]] = {}
    for word in scan.list_folders(folder):
        classes.setdefault(scan.normalize(word), []).append(word)
    if not classes:
        raise InputError(f"{name}: {folder} has no class folders. For images without classes, use: --dataset flat")
    return classes


def _dataset(
    name: str,
    root: Path,
    halves: dict[str, str],
    classes: dict[str, list[str]],
    notes: Sequence[str] = (),
    upright: bool = False,
) -> Dataset:
    """All images in the class folders of each split, at any depth. Ids are paths.

    A class is named like its first folder.
    """
    records, left_out = [], scan.LeftOut()
    names = tuple(folders[0] for folders in classes.values())
    for split, half in halves.items():
        scan.leave_out_beside_classes(root, half, left_out)
        in_split = classes if split == "train" else _classes(name, root / half)
        for label, (key, word) in enumerate(zip(classes, names)):
            files = [file for part in in_split.get(key, ()) for file in scan.walk_images(root, half + part, left_out)]
            if not files and split == "train":
                raise InputError(
                    f"{name}: the class folder {root / half / word} contains no images. Add some, or remove it."
                    + "".join(f"\n{line}" for line in left_out.notes())
                )
            records += [Record(file, file, label, word, split, upright=upright) for file in files]
    return Dataset(name, names, tuple(records), parsing.Files(name, root), note="\n".join([*notes, *left_out.notes()]))
