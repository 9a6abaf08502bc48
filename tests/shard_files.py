"""Images, datasets and shard sets for tests, and what is in them."""

import hashlib
import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fgdata import images
from fgdata.boxes.objective import Objective
from fgdata.building.log import LOG
from fgdata.datasets import Dataset, Record
from fgdata.images import encode_jpeg
from fgdata.shards.reader import ShardSet, box, meta

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
BOX = (8.0, 6.0, 32.0, 24.0)
TIGHT = Objective(tau=1.5)
MEAN = Objective("max-mean", k=1.0)


def jpeg(rgb: np.ndarray = NOISE) -> bytes:
    return images.encode_jpeg(rgb, 90)


def encode(form: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(buffer, form)
    return buffer.getvalue()


def from_folder(root: Path, record: Record):
    return (root / record.file).read_bytes(), record.boxes


def dataset(root: Path, files: dict[str, bytes], boxes: dict[str, tuple] | None = None) -> Dataset:
    """A dataset of the given files, all of one class and the train split, each with BOX unless `boxes` has another."""
    records = []
    for name, data in files.items():
        (root / name).write_bytes(data)
        records.append(Record(name.split(".")[0], name, 0, "bird", "train", (boxes or {}).get(name, (BOX,))))
    return Dataset("files", ("bird",), tuple(records), partial(from_folder, root))


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOG  # its times differ
    }


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every train sample by its file name."""
    reader = ShardSet.open(folder).split("train")
    return {meta(sample)["file"]: sample for sample in map(reader.read, range(len(reader)))}


def files(folder: Path) -> dict[str, bytes]:
    """The files of a set by name; the build log is not part of it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != LOG)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def boxes(folder: Path, name: str) -> np.ndarray:
    shards = ShardSet.open(folder)
    return np.stack([box(shards.split(s).read(i), name) for s, n in shards.splits.items() for i in range(n)])


class Flat:
    def __call__(self, record):
        return encode_jpeg(np.full((40, 60, 3), 90, np.uint8)), ()
