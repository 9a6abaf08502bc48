"""`fgdata score`: compares the boxes of a shard set with the ground truth, or with those of one of its detectors."""

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from ..boxes.geometry import CENTRED, WHOLE, iou
from ..building.log import read_log
from ..errors import InputError
from ..progress import Progress
from ..saliency import row_of
from ..shards.reader import ShardSet, box, label, meta, read_all
from ..stores.place import Url
from ..views.opening import choose_detector

THRESHOLDS = {"corloc": 0.5, "corloc_70": 0.7, "corloc_90": 0.9}
"""The least IoU of a box that counts. 0.5 is CorLoc (Deselaers et al. 2010); the others show how tight boxes are."""


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

    @property
    def has_truth(self) -> bool:
        """Whether an image has a ground-truth box."""
        return any(map(len, self.truth))


def read_boxes(shards: ShardSet) -> Scored:
    """Reads every sample and compares its boxes with the ground truth; of several truth boxes, the best match counts.

    Raises:
        InputError: A sample is damaged.
    """
    if not sum(shards.splits.values()):
        raise InputError(f"{shards.path} has no samples. Build another set: fgdata build-shards --dataset drawn")
    split, number, ids, labels, truth = [], [], [], [], []
    boxes: dict[str, list[np.ndarray]] = {name: [] for name in shards.detectors}
    fallback: dict[str, list[str | None]] = {name: [] for name in shards.detectors}
    samples = ((name, *each) for name in shards.splits for each in enumerate(read_all(shards.split(name), "jpg")))
    with Progress("Reading boxes", sum(shards.splits.values())) as progress:
        for name, i, sample in samples:
            progress.advance(1)
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


def score(path: Path | Url, against: str | None = None) -> dict:
    """Scores the boxes of a shard set.

    Args:
        path: The folder of the shard set, or its URL.
        against: A detector of the set, whose boxes replace the ground truth.

    Returns:
        {"against": name or None, "detectors": {name: {mean_iou, corloc, corloc_70, corloc_90, n, trained_on, seconds}},
        "baselines": {"whole": ..., "centred": ...}}. corloc is the share of images whose box overlaps a ground-truth
        box with an IoU of at least 0.5, corloc_70 and corloc_90 with 0.7 and 0.9. seconds is the mean time of a map
        and its box, without decoding and without the superpixels that detectors share; None if it was not logged.

    Raises:
        InputError: The set cannot be read, it lacks the detector, or none of its images has a ground-truth box.

    Example:
        rows = score(Path("shards/cub"))["detectors"]
        print(rows["rbd"]["mean_iou"])
    """
    shards = ShardSet.open(path)
    return score_boxes(shards, read_boxes(shards), against)


def score_boxes(shards: ShardSet, scored: Scored, against: str | None = None) -> dict:
    """What `score` returns, from the boxes of a set that have been read. InputError as of `score`."""
    if against is not None:
        scored = _take_as_truth(scored, choose_detector(shards, against))
    if not scored.has_truth:
        other = next((name for name in scored.boxes if name != "gt"), "rbd")
        raise InputError(
            f"{shards.path} has no ground-truth boxes, so its boxes cannot be scored. Compare them with those of one "
            f"of its detectors (--against {other}), or score a set of an annotated dataset (`fgdata list`)."
        )
    return {"against": against} | table(scored, describe_detectors(shards))


def table(scored: Scored, about: dict[str, dict]) -> dict:
    """What `score` returns, from boxes of which some have a ground-truth box. about: `describe_detectors`, by the names
    of the boxes."""
    detectors = {name: _row(scored.iou[name]) | about[name] for name in scored.boxes}
    return {"detectors": detectors, "baselines": {name: _row(scored.iou[name]) for name in ("whole", "centred")}}


def describe_detectors(shards: ShardSet) -> dict[str, dict]:
    """Detector -> {"trained_on": whose images and labels, "seconds": per image, as in `score`}."""
    seconds, about = _seconds_per_image(shards), {}
    for name in shards.detectors:
        row = row_of(name)
        recorded = shards.manifest["detectors"].get(name, {}).get("trained_on")  # of a network that the user named
        about[name] = {
            "trained_on": recorded or (row.trained_on if row else "unknown"),
            "seconds": seconds.get(name),
        }
    return about


def _take_as_truth(scored: Scored, name: str) -> Scored:
    truth = [box[None] for box in scored.boxes[name]]
    fixed = {"whole": np.broadcast_to(WHOLE, (len(truth), 4)), "centred": np.broadcast_to(CENTRED, (len(truth), 4))}
    others = {other: boxes for other, boxes in scored.boxes.items() if other != name}
    best = {other: _best_iou(predicted, truth) for other, predicted in (others | fixed).items()}
    return replace(scored, truth=truth, boxes=others, iou=best)


def _seconds_per_image(shards: ShardSet) -> dict[str, float]:
    """By detector, from the lines of the build's log that time it."""
    seconds: dict[str, list[float]] = {}
    for line in read_log(shards):
        for name, value in line["seconds"].items():
            if name in shards.detectors:
                total = seconds.setdefault(name, [0.0, 0])
                total[0], total[1] = total[0] + value, total[1] + line["samples"]
    return {name: total / samples for name, (total, samples) in seconds.items() if samples}


def find_disagreements(scored: Scored, most: int) -> dict[tuple[str, str], list[int]]:
    """For every pair of detectors, the numbers of at most `most` samples whose two boxes overlap least, least first.

    Pairs of boxes with an IoU of at least 0.5 are left out, and so is `gt`.
    """
    found = {}
    for first, second in combinations([name for name in scored.boxes if name != "gt"], 2):
        overlap = iou(scored.boxes[first], scored.boxes[second])
        ranked = np.argsort(overlap, kind="stable")[:most]
        found[first, second] = [int(i) for i in ranked if overlap[i] < THRESHOLDS["corloc"]]
    return found


def _best_iou(boxes: np.ndarray, truth: list[np.ndarray]) -> np.ndarray:
    return np.array([iou(box, real).max() if len(real) else np.nan for box, real in zip(boxes, truth)])


def _row(values: np.ndarray) -> dict:
    values = values[~np.isnan(values)]
    shares = {name: float((values >= least).mean()) for name, least in THRESHOLDS.items()}
    return {"mean_iou": float(values.mean()), **shares, "n": len(values)}
