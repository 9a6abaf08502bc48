"""How well the boxes of a shard set find the annotated objects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..boxes.geometry import CENTRED, WHOLE, iou
from ..errors import InputError
from ..shards.reader import ShardSet, box, label, meta

CORLOC_IOU = 0.5


@dataclass(frozen=True)
class Scored:
    """Every annotated sample of a set: its split and number, class, boxes (l, t, w, h), fallbacks and IoU."""

    split: np.ndarray  # (N,) str
    number: np.ndarray  # (N,) int, the sample's number within its split
    id: list[str]  # N
    label: np.ndarray  # (N,)
    truth: list[np.ndarray]  # N of (n, 4)
    boxes: dict[str, np.ndarray]  # detector -> (N, 4)
    fallback: dict[str, list[str | None]]  # detector -> N
    iou: dict[str, np.ndarray]  # detector or baseline -> (N,); nan without a truth box


def read_boxes(shards: ShardSet) -> Scored:
    """Reads every sample's boxes and compares them with the truth, the best of it where an image has several."""
    split, number, ids, labels, truth = [], [], [], [], []
    boxes: dict[str, list[np.ndarray]] = {name: [] for name in shards.detectors}
    fallback: dict[str, list[str | None]] = {name: [] for name in shards.detectors}
    for name in shards.splits:
        reader = shards.split(name)
        for i in range(len(reader)):
            sample = reader.read(i)
            said = meta(sample)
            split.append(name)
            number.append(i)
            ids.append(said["id"])
            labels.append(label(sample))
            truth.append(np.array(said["boxes"], np.float32).reshape(-1, 4))
            for detector in shards.detectors:
                boxes[detector].append(box(sample, detector))
                fallback[detector].append(said["detectors"][detector]["fallback"])
    stacked = {name: np.stack(found) for name, found in boxes.items()}
    fixed = {"whole": np.broadcast_to(WHOLE, (len(truth), 4)), "centred": np.broadcast_to(CENTRED, (len(truth), 4))}
    best = {name: _best_iou(found, truth) for name, found in (stacked | fixed).items()}
    return Scored(np.array(split), np.array(number), ids, np.array(labels), truth, stacked, fallback, best)


def score(path: Path) -> dict:
    """{"detectors": {name: {mean_iou, corloc, n}}, "baselines": {"whole": ..., "centred": ...}}.

    CorLoc is the share of images whose box overlaps a truth box with an IoU of at least 0.5 (Deselaers et al. 2010).
    InputError when no image of the set has a ground-truth box.
    """
    shards = ShardSet.open(path)
    return table(read_boxes(shards), path)


def table(scored: Scored, path: Path) -> dict:
    if not any(len(boxes) for boxes in scored.truth):
        raise InputError(f"{path} has no ground-truth boxes to score against; its dataset has none.")
    rows = {name: _row(values) for name, values in scored.iou.items()}
    baselines = {name: rows.pop(name) for name in ("whole", "centred")}
    return {"detectors": rows, "baselines": baselines}


def _best_iou(boxes: np.ndarray, truth: list[np.ndarray]) -> np.ndarray:
    return np.array([iou(box, real).max() if len(real) else np.nan for box, real in zip(boxes, truth)])


def _row(values: np.ndarray) -> dict:
    values = values[~np.isnan(values)]
    return {"mean_iou": float(values.mean()), "corloc": float((values >= CORLOC_IOU).mean()), "n": len(values)}
