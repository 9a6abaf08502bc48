"""metadata.parquet: one row for each sample of a shard set, in the order of the set.

key                string; the sample's files in the tar are key.jpg, key.cls, ...
id, file, class    string, as in the dataset
label              int64, 0-based
split, shard       string; shard is the name of the tar
width, height      int32, pixels
boxes              list of boxes; the ground truth, empty if there is none
box_DETECTOR       box
fallback_DETECTOR  string; "" unless the box is the whole image because the map was flat
iou_DETECTOR       float32; IoU with the ground-truth box that it overlaps most, null without ground truth

A box is a fixed_size_list<float32>[4]: (l, t, w, h) in [0, 1] of the image's width and height. Underscores replace the
hyphens of a detector's name.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..files.atomic import atomic
from ..files.parquet import import_pyarrow
from ..report.score import Scored
from ..shards.reader import ShardSet, box, label, meta

METADATA = "metadata.parquet"
_ROWS = 10_000  # of a row group


def columns_of(detector: str) -> tuple[str, str, str]:
    """A detector's columns: box, fallback, IoU."""
    name = detector.replace("-", "_")
    return f"box_{name}", f"fallback_{name}", f"iou_{name}"


def write_metadata(shards: ShardSet, scored: Scored, path: Path) -> None:
    """Writes a row for each sample of a set. The same set gives the same bytes with the same pyarrow.

    scored: what `read_boxes` returned for the set. InputError if pyarrow is missing or a sample is damaged.
    """
    pa, pq = import_pyarrow(METADATA)
    one = pa.list_(pa.float32(), 4)
    strings = [(name, pa.string()) for name in ("key", "id", "file", "class")]
    places = [("label", pa.int64()), ("split", pa.string()), ("shard", pa.string())]
    sizes = [("width", pa.int32()), ("height", pa.int32()), ("boxes", pa.list_(one))]
    of_detectors = [
        column
        for detector in shards.detectors
        for column in zip(columns_of(detector), (one, pa.string(), pa.float32()))
    ]
    schema = pa.schema(strings + places + sizes + of_detectors)
    with atomic(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        rows = _rows(shards, scored)
        while group := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _rows(shards: ShardSet, scored: Scored) -> Iterator[dict[str, Any]]:
    tars = {
        split: [f"{shard['name']}.tar" for shard in entry["shards"] for _ in range(shard["samples"])]
        for split, entry in shards.manifest["splits"].items()
    }
    for row, (split, number) in enumerate(zip(scored.split.tolist(), scored.number.tolist())):
        reader = shards.split(split)
        sample = reader.read(number, without="jpg")
        info = meta(sample)
        values = {name: info[name] for name in ("id", "file", "class", "width", "height", "boxes")}
        values |= {"key": reader.key(number), "label": label(sample), "split": split, "shard": tars[split][number]}
        for detector in shards.detectors:
            overlap = float(scored.iou[detector][row])
            score = None if np.isnan(overlap) else overlap
            facts = (box(sample, detector), info["detectors"][detector]["fallback"], score)
            values |= zip(columns_of(detector), facts)
        yield values
