"""`fgtrain embed`: features of every image of a shard set or of a folder, as a Parquet file.

id       string
file     string, the path within the dataset or folder
class    string
label    int64, 0-based
split    string
feature  fixed_size_list<float32>[n], not normalised
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import cv2

from fgdata import datasets, images
from fgdata.datasets.scan import LeftOut, list_folders, list_images
from fgdata.errors import BadImage, InputError, counted
from fgdata.files.parquet import import_pyarrow
from fgdata.images.orientation import read_orientation, turn_upright
from fgdata.shards.manifest import MANIFEST
from fgdata.shards.reader import ShardSet, label, meta, read_all
from fgdata.shards.sample import Sample
from fgdata.stores.place import Url

from ..networks.saved import load_encoder
from ..place import pick_device
from ..printing import say
from ..runs.checkpoint import Checkpoint
from ..runs.files import whole
from ..settings.common import need
from ..settings.sharing import Embed
from .probe import forward
from .subject import LARGEST, SMALLEST


@dataclass(frozen=True)
class Files:
    """The images of one split of a folder. It has the methods of SplitReader that the loader calls."""

    root: Path
    dataset: datasets.Dataset
    records: list[datasets.Record]
    split: str

    def __len__(self) -> int:
        return len(self.records)

    def read(self, number: int, without: Literal["jpg"] | None = None) -> Sample:
        """The sample that a shard set would have, but with the pixels of the file: nothing is compressed again.

        without: "jpg" does not open the file; its size is then unknown.
        """
        record = self.records[number]
        sample = Sample({"cls": b"%d" % record.label})
        sample.info = {"id": record.id, "file": record.file, "class": record.class_name}
        if without is None:
            try:
                sample["jpg"], (width, height) = self._load(record)
            except BadImage as fault:
                build = f"fgdata build-shards --dataset {self.dataset.name} --root {quote(str(self.root))}"
                raise BadImage(fault.fault, fault.remedy, build) from None
            sample.info |= {"width": width, "height": height}
        return sample

    def _load(self, record: datasets.Record) -> tuple[bytes, tuple[int, int]]:
        """The file of an image, or a PNG if it is turned upright -> bytes, (width, height)."""
        data, _ = self.dataset.load(record)
        header = images.header(data, record.file)
        width, height = header.width, header.height
        if record.upright and (turn := read_orientation(data)) != 1:
            rgb = turn_upright(images.decode(data, record.file), turn)
            data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
            height, width = rgb.shape[:2]
        return data, (width, height)


class Folder(ShardSet):
    """A folder of images that is read like a shard set without boxes."""

    def __init__(self, path: Path):
        alone = list_images(path, LeftOut())
        if not alone and not list_folders(path):
            raise InputError(f"{path} has no images. Name a shard set or a folder of images.")
        found = datasets.read("flat" if alone else "folder", path)
        rows = {split: [r for r in found.records if r.split == split] for split in ("train", "test")}
        splits = {split: {"samples": len(records), "shards": []} for split, records in rows.items()}
        about = {"dataset": {"classes": list(found.classes)}, "detectors": {}, "splits": splits, "digest": ""}
        super().__init__(path, about)
        self.note = found.note
        self._readers = {split: Files(path, found, records, split) for split, records in rows.items()}  # pyright: ignore


def run_embed(flags: Embed) -> Path:
    """Runs `fgtrain embed` and returns the file.

    InputError when the encoder or the images cannot be read, when there is no image, when pyarrow is missing, or when
    the file cannot be written.
    """
    pa, pq = import_pyarrow("fgtrain embed")
    checkpoint = Checkpoint.find(flags.run)
    source = _open(flags.source)
    size = checkpoint.size if flags.size is None else flags.size
    need(SMALLEST <= size <= LARGEST, "size", size, f"{SMALLEST} to {LARGEST} pixels")
    device, encoder = pick_device(flags.device), load_encoder(checkpoint)
    encoder.check_size(size, "size")
    about = {"encoder": str(checkpoint.file), "step": checkpoint.step, "crc32": checkpoint.crc32, "size": size}
    about |= {"backbone": checkpoint.model.backbone, "source": str(source.path), "digest": source.manifest["digest"]}
    schema = pa.schema(
        [(name, pa.string()) for name in ("id", "file", "class")]
        + [("label", pa.int64()), ("split", pa.string())]
        + [("feature", pa.list_(pa.float32(), encoder.described))],
        metadata={"fgtrain": json.dumps(about)},
    )
    with whole(flags.out) as part, pq.ParquetWriter(part, schema) as writer:
        for split in (name for name, count in source.splits.items() if count):
            for columns, features in _batches(encoder, source, split, size, device):
                flat = pa.array(features.reshape(-1))
                columns["feature"] = pa.FixedSizeListArray.from_arrays(flat, encoder.described)
                writer.write_table(pa.table(columns, schema=schema))
    counts = ", ".join(f"{split} {count:,}" for split, count in source.splits.items() if count)
    total = sum(source.splits.values())
    say(
        *(source.note.splitlines() if isinstance(source, Folder) else []),
        f"{flags.out}: {counted(total, 'row')} ({counts}), features of {encoder.described} numbers at {size} px",
        f"pandas.read_parquet({str(flags.out)!r})",
    )
    return flags.out


def _batches(encoder: Any, source: ShardSet, split: str, size: int, device: Any) -> Iterator[tuple[dict, Any]]:
    """Per batch: columns without the feature, and the features (B, n) float32."""
    view = encoder.evaluation_view(size)
    described = read_all(source.split(split), without="jpg")  # in the order of the batches
    backend = "threads" if isinstance(source, Folder) else "auto"  # DALI decodes JPEGs only
    for features, batch in forward(encoder, source, split, view, device, backend):
        if not features.isfinite().all():
            raise InputError("The encoder's features are not finite: its training diverged. Name another encoder.")
        samples = list(islice(described, len(batch["index"])))
        columns: dict[str, Any] = {key: [meta(s)[key] for s in samples] for key in ("id", "file", "class")}
        columns |= {"label": [label(s) for s in samples], "split": [split] * len(samples)}
        yield columns, features.float().cpu().numpy()


def _open(path: Path | Url) -> ShardSet:
    """A shard set or a folder of images. InputError when it is neither, or has no image."""
    if isinstance(path, Url):
        return ShardSet.open(path)
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}. Name a shard set or a folder of images.")
    source = ShardSet.open(path) if (path / MANIFEST).exists() else Folder(path)
    if not any(source.splits.values()):
        raise InputError(f"{path} has no images.")
    return source
