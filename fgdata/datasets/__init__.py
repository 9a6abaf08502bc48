"""Datasets as records: DATASETS names them, `read` turns one into a Dataset. One file per layout.

Ground-truth boxes are (l, t, w, h) in PIXELS here, as each dataset states them; they may overrun the image.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError

PixelBoxes = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Record:
    """One image, before anything of it is read."""

    id: str
    file: str
    """Path relative to the dataset's root, with forward slashes (for drawn, a stable made-up one)."""
    label: int
    """0-based."""
    class_name: str
    split: str
    """train or test."""
    boxes: PixelBoxes | None = ()
    """Ground truth in pixels; () when it has none, None when only `load` knows."""


@dataclass(frozen=True)
class Dataset:
    """Every record of a dataset, and how to get at an image. Picklable, for worker processes."""

    name: str
    classes: tuple[str, ...]
    records: tuple[Record, ...]
    load: Callable[[Record], tuple[bytes, PixelBoxes]]
    """Record -> encoded image bytes and its boxes in pixels."""
    settings: dict[str, Any] = field(default_factory=dict)
    """JSON-able: what besides its files defines the dataset."""


@dataclass(frozen=True)
class DatasetRow:
    """What is known of a dataset before its code is imported."""

    reader: str
    """module:function, called as function(root, **options) or, without files, function(**options)."""
    layout: str
    size: str
    where: str
    options: tuple[str, ...] = ()
    files: bool = True
    """False for a dataset made by code, which has no root."""


DATASETS: dict[str, DatasetRow] = {
    "drawn": DatasetRow(
        reader="fgdata.datasets.drawn:read",
        layout="none: birds painted by code",
        size="20 classes, 60 images each",
        where="nothing to get",
        options=("classes", "images_per_class", "size", "seed"),
        files=False,
    ),
    "cub": DatasetRow(
        reader="fgdata.datasets.cub:read",
        layout="images.txt  image_class_labels.txt  train_test_split.txt  bounding_boxes.txt  classes.txt  images/"
        "   (in the folder, or in CUB_200_2011/ inside it)",
        size="200 classes, 5,994 train, 5,794 test; a subset in the same layout will do",
        where="https://www.vision.caltech.edu/datasets/cub_200_2011/ (CUB_200_2011.tgz, 1.1 GB)",
    ),
}


def default_root(name: str) -> Path:
    """$FGDATA_ROOT/<name> when that variable is set, else data/<name>."""
    return Path(os.environ.get("FGDATA_ROOT") or "data") / name


def read(name: str, root: Path | str | None = None, **options: Any) -> Dataset:
    """Dataset `name` from `root` (default: `default_root`). InputError when anything about it cannot be used."""
    if name not in DATASETS:
        raise InputError(f"No dataset is called {name!r}; there are {', '.join(DATASETS)}. See: fgdata list")
    row = DATASETS[name]
    if unknown := sorted(set(options) - set(row.options)):
        allowed = f"takes {', '.join(row.options)}" if row.options else "takes no options"
        raise InputError(f"Dataset {name} has no option {', '.join(unknown)}; it {allowed}.")
    module, function = row.reader.split(":")
    reader = getattr(import_module(module), function)
    if not row.files:
        if root is not None:
            raise InputError(f"Dataset {name} is painted by code and reads no files: leave out --root {root}")
        return reader(**options)
    return reader(_existing_root(name, row, root), **options)


def _existing_root(name: str, row: DatasetRow, root: Path | str | None) -> Path:
    path = default_root(name) if root is None else Path(root)
    if path.is_dir():
        return path
    found = "is a file, not a folder" if path.exists() else "is not there"
    variable = os.environ.get("FGDATA_ROOT")
    why = "given as the root" if root is not None else f"the default; FGDATA_ROOT is {variable or 'not set'}"
    raise InputError(
        f"Dataset {name} not found: looked in {path.absolute()} ({why}), which {found}.\n"
        f"Expected there: {row.layout}\n"
        f"Get it: {row.where}\n"
        f"Then: fgdata build-shards --dataset {name} --root FOLDER\n"
        f"(or set FGDATA_ROOT to the folder that holds {name}/)"
    )
