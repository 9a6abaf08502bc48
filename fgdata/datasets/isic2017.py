"""ISIC 2017 (part 3, lesion classification): labels from CSV, boxes around the lesion masks of part 1.

ISIC-2017_Training_Data/ID.jpg, ISIC-2017_Training_Part1_GroundTruth/ID_segmentation.png and
ISIC-2017_Training_Part3_GroundTruth.csv (image_id, melanoma, seborrheic_keratosis: 1.0 or 0.0; neither is a nevus); the
same three with Test_v2. The 150 validation images are not read. A mask is read when its image is loaded.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .. import images
from ..errors import BadImage
from . import Dataset, PixelBoxes, Record, parsing

NAME = "isic2017"
CLASSES = ("melanoma", "seborrheic_keratosis", "nevus")
HALVES = {"train": "ISIC-2017_Training", "test": "ISIC-2017_Test_v2"}
PUBLISHED = {"classes": 3, "train": 2000, "test": 600}


@dataclass(frozen=True)
class Masked:
    """Loads a Record: `masked(record)` -> (the bytes of its file, the bounding box of its mask in pixels)."""

    root: Path

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        path = self.root / _mask(record.split, record.id)
        data, _ = parsing.Files(NAME, self.root)(record)
        content = parsing.read_bytes(f"{NAME}: mask of image {record.id}", path)
        size, of_mask = images.header(data, record.file), images.header(content, f"{NAME}: the mask {path}")
        if (of_mask.width, of_mask.height) != (size.width, size.height):
            raise BadImage(
                f"{NAME}: the mask {path} is {of_mask.width} x {of_mask.height} pixels; its image is "
                f"{size.width} x {size.height}",
                "Restore the mask",
            )
        mask = images.decode(content, f"{NAME}: the mask {path}", ground=0).max(axis=-1)
        inside = mask > mask.max() // 2  # half of the brightest value: masks are 0 and 255, in some copies 0 and 1
        left, top, width, height = cv2.boundingRect(inside.astype(np.uint8))
        if not width:
            raise BadImage(f"{NAME}: the mask {path} is empty: no pixel is marked as lesion", "Restore the mask")
        return data, ((float(left), float(top), float(width), float(height)),)


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`. InputError at the first fault of the CSV files, or if a file is missing."""
    needed = [f"{half}_{part}" for half in HALVES.values() for part in ("Data", "Part1_GroundTruth")]
    needed += [f"{half}_Part3_GroundTruth.csv" for half in HALVES.values()]
    parsing.find_root(NAME, root, [], needed, "ISIC 2017's six archives, unpacked side by side,")
    records = []
    for split, half in HALVES.items():
        path = root / f"{half}_Part3_GroundTruth.csv"
        labels = parsing.read_csv(NAME, path, ("image_id", *CLASSES[:2]), _label)
        parsing.check_files_exist(NAME, path, root, [f"{half}_Data/{id_}.jpg" for id_, _ in labels])
        parsing.check_files_exist(NAME, path, root, [_mask(split, id_) for id_, _ in labels])
        records += [Record(id_, f"{half}_Data/{id_}.jpg", n, CLASSES[n], split, None) for id_, n in labels]
    note = parsing.check_counts(NAME, CLASSES, records, PUBLISHED)
    return Dataset(NAME, CLASSES, tuple(records), Masked(root), note=note)


def _mask(split: str, id_: str) -> str:
    return f"{HALVES[split]}_Part1_GroundTruth/{id_}_segmentation.png"


def _label(row: dict[str, str]) -> tuple[str, int]:
    flags = [float(row[name]) for name in CLASSES[:2]]
    if flags not in ([0, 0], [1, 0], [0, 1]):
        raise ValueError(f"{CLASSES[0]} is {flags[0]:g}, {CLASSES[1]} is {flags[1]:g}; allowed: 0 or 1, at most one 1")
    return parsing.check_relative_path(row["image_id"]), flags.index(1) if 1 in flags else 2
