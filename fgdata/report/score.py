"""`fgdata score`: compares the boxes of a shard set with the ground truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..boxes.geometry import CENTRED, WHOLE, iou
from ..errors import InputError
from ..shards.reader import ShardSet, box, label, meta

CORLOC_IOU = 0.5


@dataclass(frozen=True)
class Scored:
    """All N samples of a set: split, number, class, boxes (l, t, w, h), fallbacks and IoU with the ground truth."""

    split: np.ndarray  # (N,) str
    number: np.ndarray  # (N,) int, the sample's number within its split
    id: list[str]  # N
    label: np.ndarray  # (N,)
    truth: list[np.ndarray]  # N of (n, 4)
    boxes: dict[str, np.ndarray]  # detector -> (N, 4)
    fallback: dict[str, list[str | None]]  # detector -> N
    iou: dict[str, np.ndarray]  # detector or baseline -> (N,); NaN without a ground-truth box


def read_boxes(shards: ShardSet) -> Scored:
    """Reads every sample and compares its boxes with the ground truth; of several truth boxes, the best match counts.

    Raises:
        InputError: A sample is damaged.
    """
    if not sum(shards.splits.values()):
        raise InputError(f"{shards.path} has no samples. Build a set that has: fgdata build-shards --dataset drawn")
    split, number, ids, labels, truth = [], [], [], [], []
    boxes: dict[str, list[np.ndarray]] = {name: [] for name in shards.detectors}
    fallback: dict[str, list[str | None]] = {name: [] for name in shards.detectors}
    for name in shards.splits:
        reader = shards.split(name)
        for i in range(len(reader)):
            sample = reader.read(i)
            info = meta(sample)
            split.append(name)
            number.append(i)
            ids.append(info["id"])
            labels.append(label(sample))
            truth.append(np.array(info["boxes"], np.float32).reshape(-1, 4))
            for detector in shards.detectors:
                boxes[detector].append(box(sample, detector))
                fallback[detector].append(info["detectors"][detector]["fallback"])
    stacked = {name: np.stack(rows) for name, rows in boxes.items()}
    fixed = {"whole": np.broadcast_to(WHOLE, (len(truth), 4)), "centred": np.broadcast_to(CENTRED, (len(truth), 4))}
    best = {name: _best_iou(predicted, truth) for name, predicted in (stacked | fixed).items()}
    return Scored(np.array(split), np.array(number), ids, np.array(labels), truth, stacked, fallback, best)


def score(path: Path) -> dict:
    """Scores the boxes of a shard set.

    Args:
        path: The folder of the shard set.

    Returns:
        {"detectors": {name: {mean_iou, corloc, n}}, "baselines": {"whole": ..., "centred": ...}}. CorLoc is the share
        of images whose box overlaps a ground-truth box with an IoU of at least 0.5 (Deselaers et al. 2010).

    Raises:
        InputError: The set cannot be read, or none of its images has a ground-truth box.

    Example:
        rows = score(Path("shards/cub"))["detectors"]
        print(rows["rbd"]["mean_iou"])
    """
    shards = ShardSet.open(path)
    return table(read_boxes(shards), path)


def table(scored: Scored, path: Path) -> dict:
    """What `score` returns, from the boxes of the set at `path`. InputError without any ground-truth box."""
    if not any(len(boxes) for boxes in scored.truth):
        raise InputError(
            f"{path} has no ground-truth boxes, so its boxes cannot be scored. Score a set of an annotated dataset; "
            "`fgdata list` shows the datasets."
        )
    rows = {name: _row(values) for name, values in scored.iou.items()}
    baselines = {name: rows.pop(name) for name in ("whole", "centred")}
    return {"detectors": rows, "baselines": baselines}


def _best_iou(boxes: np.ndarray, truth: list[np.ndarray]) -> np.ndarray:
    return np.array([iou(box, real).max() if len(real) else np.nan for box, real in zip(boxes, truth)])


def _row(values: np.ndarray) -> dict:
    values = values[~np.isnan(values)]
    return {"mean_iou": float(values.mean()), "corloc": float((values >= CORLOC_IOU).mean()), "n": len(values)}
