"""Layouts made of folders only: `folder` (class/image), `flat` (images without classes), and both ImageNets.

Classes are sorted by folder name, or in the order of imagenet100's list. `scan` decides which files are images.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import SHOWN, InputError, abbreviate
from . import Dataset, Record, parsing, scan
from .split import split_off

TRAINS = ("train", "training")
"""Names of the training split's folder, in any case. The first that exists is used."""
TESTS = ("test", "testing", "val", "valid", "validation")
"""Names of the test split's folder, in any case. The first that exists is used."""
IMAGENET = {"classes": 1000, "train": 1281167, "test": 50000}
Halves = dict[str, tuple[str, dict[str, list[str]]]]
"""By split: the folder that holds the class folders ("" or with a slash at its end), and its folders by class."""


def read(
    root: Path,
    test_fraction: float | None = None,
    split_seed: int = 0,
    split_folders: Literal["above", "inside", "none"] | None = None,
) -> Dataset:
    """Reads root/CLASS/IMAGE, all train; or a training and a test folder above or inside the class folders.

    Pictures are turned upright by their EXIF orientation. The note names what is left out.

    Args:
        root: The folder.
        test_fraction: See `split_off`.
        split_seed: See `split_off`.
        split_folders: above: root/train/CLASS/IMAGE. inside: root/CLASS/train/IMAGE. none: such folders are classes, or
            parts of one. Default: what the names of the folders show.

    Raises:
        InputError: a class folder has no training image, the names fit more than one layout, or test has more classes.
    """
    place = split_folders or _find_split_folders(root)
    dataset = {"above": _read_above, "inside": _read_inside, "none": _read_classes}[place](root)
    settings = {"split_folders": split_folders} if split_folders else {}
    return split_off(replace(dataset, settings=settings), test_fraction, split_seed)


def _find_split_folders(root: Path) -> Literal["above", "inside", "none"]:
    """Where the folders called train or test are.

    InputError if only some class folders have them, if train is absent, or if the classes are one level further down.

    Beside a class folder without such folders, a folder called test is a class.
    """
    if _named(root, TRAINS):
        return "above"
    folders = _list_class_folders(root)
    tests = _named(root, TESTS)
    if folders and len(tests) == len(folders) and any(scan.list_folders(root / word) for word in tests):
        raise InputError(
            f"folder: {root} has {' and '.join(f'{word}/' for word in folders)} with folders inside, but no train/. "
            "Put the training images in train/CLASS/IMAGE, or read one split as train: --root "
            f"{shlex.quote(str(root / folders[0]))}"
        )
    split = [word for word in folders if _named(root / word, TRAINS)]
    _refuse_folder_above(root, split)
    if split and len(split) < len(folders):
        whole = [word for word in folders if word not in split]
        raise InputError(
            f"folder: in {root}, {abbreviate(split)} has a folder {_named(root / split[0], TRAINS)[0]}/, but "
            f"{abbreviate(whole)} has none. If these folders are splits, add them to every class, and use "
            "--split-folders inside. If they are parts of a class, use --split-folders none"
        )
    return "inside" if split else "none"


def _refuse_folder_above(root: Path, split: Sequence[str]) -> None:
    """InputError if the folder train in each of the folders `split` holds folders and no image: these are classes."""
    trains = [root / word / _named(root / word, TRAINS)[0] for word in split]
    inner = scan.list_folders(trains[0]) if trains else []
    if inner and not any(scan.list_images(train, scan.LeftOut()) for train in trains):
        roots = " or ".join(shlex.quote(str(root / word)) for word in split[:SHOWN])
        raise InputError(
            f"folder: {trains[0]} holds the folders {abbreviate(inner)} and no image, so {root} is probably one level "
            f"too high. Use --root {roots}. If {split[0]} is a class, use --split-folders inside"
        )


def _named(folder: Path, names: Sequence[str]) -> list[str]:
    """The subfolders that have one of the names in any case, in the order of `names`."""
    found = {word.lower(): word for word in scan.list_folders(folder)}
    return [found[name] for name in names if name in found]


def _read_classes(root: Path) -> Dataset:
    classes = _classes("folder", root)
    return _dataset("folder", root, {"train": ("", classes)}, classes, upright=True)


def _read_above(root: Path) -> Dataset:
    trains, tests = _named(root, TRAINS), _named(root, TESTS)
    if not trains:
        raise InputError(
            f"folder: --split-folders above, but {root} has no train/. Omit the flag, or name another --root"
        )
    if not scan.list_folders(root / trains[0]):
        raise InputError(
            f"folder: {root / trains[0]} has no class folders. If {trains[0]} is a class, use --split-folders none. "
            "For images without classes, use: --dataset flat"
        )
    notes = [f"{half}/ is left out: {tests[0]}/ is the test split" for half in tests[1:]]
    ignored = [f"{word}/" for word in scan.list_folders(root) if word not in (trains[0], *tests)]
    if ignored:
        verb = "is" if len(ignored) == 1 else "are"
        notes.append(
            f"{abbreviate(ignored)} beside {trains[0]}/ {verb} left out: a test split is called {', '.join(TESTS)}"
        )
    classes = _classes("folder", root / trains[0])
    halves: Halves = {"train": (f"{trains[0]}/", classes)}
    if tests:
        halves["test"] = (f"{tests[0]}/", _classes("folder", root / tests[0]))
        if extra := sorted(set(halves["test"][1]) - set(classes)):
            raise InputError(
                f"folder: {root / tests[0]} has classes that {trains[0]}/ lacks: {abbreviate(extra)}. "
                "Rename or remove them."
            )
    return _dataset("folder", root, halves, classes, notes, upright=True)


def _read_inside(root: Path) -> Dataset:
    classes = _classes("folder", root)
    halves: Halves = {"train": ("", {}), "test": ("", {})}
    tests = {word: _named(root / word, TESTS) for words in classes.values() for word in words}
    found = {half.lower() for inner in tests.values() for half in inner}
    test = next((name for name in TESTS if name in found), None)  # the same one in every class
    for key, words in classes.items():
        halves["train"][1][key] = [f"{word}/{half}" for word in words for half in _named(root / word, TRAINS)[:1]]
        halves["test"][1][key] = [f"{word}/{half}" for word in words for half in tests[word] if half.lower() == test]
    used = {path for _, in_split in halves.values() for paths in in_split.values() for path in paths}
    entries = (f"{word}/{name}" for words in classes.values() for word in words for name in os.listdir(root / word))
    others = [path for path in sorted(entries) if path not in used and not scan.is_never_data(path.rpartition("/")[2])]
    notes = [f"left out beside the split folders: {abbreviate(others)}"] if others else []
    return _dataset("folder", root, halves, classes, notes, upright=True)


def read_flat(root: Path) -> Dataset:
    """Reads root/IMAGE as one class, `unlabelled`, all train. InputError if there is no image.

    Pictures are turned upright by their EXIF orientation. The note names what is left out.
    """
    left_out = scan.LeftOut()
    names = scan.list_images(root, left_out)
    if not names:
        _refuse_empty("flat", root)
        raise InputError(
            f"flat: {root} contains no images. If they are in class folders, use: --dataset folder"
            + "".join(f"\n{line}" for line in left_out.notes())
        )
    records = tuple(Record(name, name, 0, "unlabelled", "train", upright=True) for name in names)
    note = "\n".join(left_out.notes())
    return Dataset("flat", ("unlabelled",), records, parsing.Files("flat", root), note=note)


def _refuse_empty(name: str, folder: Path) -> None:
    """InputError for a folder with nothing in it, where another --dataset would find no image either."""
    if not any(folder.iterdir()):
        raise InputError(f"{name}: {folder} is empty. Put the images into it, or name their folder: --root FOLDER")


def read_imagenet(root: Path) -> Dataset:
    """Reads root/train/nXXXXXXXX/ and root/val/nXXXXXXXX/. The published validation images are the test split."""
    classes = _classes("imagenet", _train("imagenet", root))
    return _add_counts(_dataset("imagenet", root, _halves("imagenet", root, classes), classes), IMAGENET)


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
    if not classes:
        raise InputError(
            f"imagenet100: {path} lists no classes. Write the 100 WordNet ids of the paper you compare with to it, one "
            "per line, or name another file: --class-list FILE"
        )
    train = _train("imagenet100", root)
    if missing := [word for word in classes if not (train / word).is_dir()]:
        raise InputError(
            f"imagenet100: {len(missing)} classes of {path} have no folder in {train}: {abbreviate(missing)}. "
            "Unpack their images there, or correct the list."
        )
    folders = {word: [word] for word in classes}
    dataset = _dataset("imagenet100", root, _halves("imagenet100", root, folders), folders)
    published = {"classes": 100, "test": 5000}  # the number of training images depends on the list
    return _add_counts(dataset, published)


def _add_counts(dataset: Dataset, published: dict[str, int]) -> Dataset:
    counts = parsing.check_counts(dataset.name, dataset.classes, dataset.records, published)
    return replace(dataset, note="\n".join(line for line in (counts, dataset.note) if line))


def _train(name: str, root: Path) -> Path:
    parsing.find_root(name, root, [], ("train",), "ImageNet, with one folder per class in train/ and val/,")
    return root / "train"


def _halves(name: str, root: Path, classes: dict[str, list[str]]) -> Halves:
    if not (root / "val").is_dir():
        return {"train": ("train/", classes)}
    if any(entry.startswith("ILSVRC2012_val_") for entry in os.listdir(root / "val")):
        raise InputError(
            f"{name}: the images of {root / 'val'} are not in class folders. Move each to val/WORDNET-ID/, as "
            "listed in the devkit's ILSVRC2012_validation_ground_truth.txt (torchvision.datasets.ImageNet does this)."
        )
    return {"train": ("train/", classes), "test": ("val/", _classes(name, root / "val"))}


def _list_class_folders(folder: Path) -> list[str]:
    """The subfolders, without those of shard sets: by default, a build in the root writes to its folder shards."""
    return [word for word in scan.list_folders(folder) if not scan.holds_sets(folder / word)]


def _classes(name: str, folder: Path) -> dict[str, list[str]]:
    """{class in Unicode's form NFC: its folders}, sorted. Folders whose names differ only in the form are one class."""
    classes: dict[str, list[str]] = {}
    for word in _list_class_folders(folder):
        classes.setdefault(scan.normalize(word), []).append(word)
    if not classes:
        _refuse_empty(name, folder)
        raise InputError(f"{name}: {folder} has no class folders. For images without classes, use: --dataset flat")
    return classes


def _dataset(
    name: str,
    root: Path,
    halves: Halves,
    classes: dict[str, list[str]],
    notes: Sequence[str] = (),
    upright: bool = False,
) -> Dataset:
    """All images in the class folders of each split, at any depth. Ids are paths.

    A class is named like its first folder.
    """
    records, left_out = [], scan.LeftOut()
    names = tuple(folders[0] for folders in classes.values())
    scan.leave_out_beside_classes(root, [half for half, _ in halves.values()], left_out)
    for split, (half, in_split) in halves.items():
        for label, (key, word) in enumerate(zip(classes, names)):
            files = [file for part in in_split.get(key, ()) for file in scan.walk_images(root, half + part, left_out)]
            if not files and split == "train":
                raise InputError(
                    f"{name}: the class folder {root / half / word} contains no images. Add some, or move it out of "
                    f"{root / half}." + "".join(f"\n{line}" for line in left_out.notes())
                )
            records += [Record(file, file, label, word, split, upright=upright) for file in files]
    half, in_train = halves["train"]
    lines = [*notes, *left_out.notes(), *_remark_on_one_class(root, half, in_train, records)]
    return Dataset(name, names, tuple(records), parsing.Files(name, root), note="\n".join(lines))


def _remark_on_one_class(root: Path, half: str, in_train: dict[str, list[str]], records: list[Record]) -> list[str]:
    """A note if there is one class and no image lies directly in its folders: their subfolders may be the classes."""
    if len(in_train) > 1:
        return []
    parts = [f"{half}{part}/" for part in next(iter(in_train.values()))]
    files = [record.file for record in records if record.split == "train"]
    below = [file.removeprefix(part) for part in parts for file in files if file.startswith(part)]
    if not all("/" in path for path in below):
        return []
    word = parts[0].removeprefix(half).split("/")[0]
    inner = abbreviate(sorted({path.split("/")[0] for path in below}))
    remedy = f"move them to {root / half}" if half else f"use --root {shlex.quote(str(root / word))}"
    return [f"all images are of one class, {word}, in its folders {inner}. If these are the classes, {remedy}"]
