"""tools/bench.py saliency: accuracy of maps and boxes, and the time per map."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from bench_report import report, run, single_threaded

from fgdata.boxes.geometry import CENTRED, WHOLE, clip_boxes, iou
from fgdata.boxes.objective import Objective, solve
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.images import decode
from fgdata.saliency import DETECTORS, component, least_side, own_tau, row_of, saliency_map
from fgdata.saliency.learned import NETWORKS, find, folder
from fgtrain.detectors import ROWS

BETA_SQUARED = 0.3
"""Of the F-measure, as usual since Achanta et al., CVPR 2009: precision counts more than recall."""
CLASSICS = ("rbd", "rbd-centred", "gs", "spectral-residual", "vsf")
SCDA = "scda:efficientnet-lite0-57934424.pth,backbone=tf_efficientnet_lite0"
TRAINED_ON = {component(SCDA): "classes of ImageNet"}
"""Where the row of a detector cannot know its weights."""
AUTHORS = ("rbd", "gs")
"""Detectors whose authors' maps are in saliency-reference, in folders of these names."""
DETECTORS.update(ROWS)  # here, since worker processes import this module


@dataclass(frozen=True)
class Item:
    """One image with its ground truth (a mask file, or boxes in pixels) and, if available, the authors' map."""

    name: str
    load: Callable[[], bytes]
    mask: Path | None = None
    boxes: tuple = ()
    authors: Path | None = None
    """Contains {} in place of the detector's name."""


def saliency(
    data: Path = Path("../shared/data"),
    detectors: tuple[str, ...] = (*CLASSICS, *NETWORKS, SCDA),
    tau: tuple[float, ...] = (0.5, 0.75),
    k: tuple[float, ...] = (2.0,),
    limit: int | None = None,
    every: int = 1,
    first: int = 0,
    workers: int = 2,
    json: Path | None = None,
) -> None:
    """Compare maps with masks and the authors' maps, compare boxes with ground truth, and time the maps.

    Datasets: saliency-reference (45 images, masks, the authors' RBD and GS maps), duts300 (masks) and cub50 (boxes).
    Masks are thresholded at half of their range; the ground-truth box is the mask's bounding box. MAE is the mean over
    images. Max F is the largest F-measure (beta^2 = 0.3) over 256 thresholds, from precision and recall averaged over
    the images. Where the authors' maps exist, their MAE, max F and correlation r with ours are listed too. s is the
    median CPU time of a map in seconds, without decoding. CorLoc is the share of boxes with an IoU of at least
    0.5, corloc_70 with 0.7. Files of networks and weights are looked for in $FGDATA_MODELS too. Detectors whose file
    is not there are left out, with a message.

    Args:
        data: folder that holds saliency-reference, duts300 and cub50.
        detectors: the detectors to measure, as after --saliency.
        tau: further values of tau for max-excess, besides each detector's own.
        k: values of k for max-mean, multiples of the effective area.
        limit: largest number of images per dataset, spread evenly over it.
        every: step between the images used of cub50; use it with --first to select a part.
        first: index of the first image used of cub50.
        workers: number of processes, of one thread each.
        json: file to write the figures to.
    """
    figures = []
    detectors = tuple(name for name in map(_with_path, detectors) if _is_available(name))
    with single_threaded(workers) as pool:
        for dataset in ("saliency-reference", "duts300", "cub50"):
            items = cub(data, every, first) if dataset == "cub50" else masked(data / dataset)
            some = len(items) if limit is None else min(limit, len(items))
            items = [items[i * len(items) // some] for i in range(some)]
            for name in detectors:
                own = Objective(tau=own_tau(component(name)))
                objectives = [own] + [Objective(tau=value) for value in tau if value != own.tau]
                objectives += [Objective("max-mean", k=value) for value in k]
                scores = run(pool, partial(score, name, objectives), items, f"{component(name)} on {dataset}")
                figures += summary(name, dataset, objectives, scores)
            overlaps = np.array(run(pool, score_baselines, items, f"baselines on {dataset}"))
            blank = dict.fromkeys(figures[0]) | {"dataset": dataset}
            for i, name in enumerate(("whole image", "centred box")):
                figures.append(blank | {"detector": name} | box_figures(overlaps[:, i]))
    report("saliency", figures, json, ("torch", "timm"))


def masked(folder: Path) -> list[Item]:
    """The images of a folder that holds images/ and masks/."""
    items = []
    for image in sorted((folder / "images").glob("*.jpg")):
        (mask,) = (folder / "masks").glob(f"{image.stem}.*")
        authors = folder / "{}" / f"{image.stem}.png" if (folder / "rbd").is_dir() else None
        items.append(Item(image.name, image.read_bytes, mask=mask, authors=authors))
    if not items:
        raise InputError(f"No images in {folder / 'images'}. Give the folder that contains {folder.name} with --data.")
    return items


def cub(data: Path, every: int, first: int) -> list[Item]:
    dataset = read("cub", data / "cub50")
    records = dataset.records[first::every]
    return [Item(r.file, partial(_first, dataset.load, r), boxes=tuple(r.boxes or ())) for r in records]


def score(name: str, objectives: list[Objective], item: Item) -> dict[str, Any]:
    """One image -> seconds, IoU of each objective's box and, with a mask, errors, precision and recall."""
    rgb, mask, truth = _ground_truth(item)
    rgb = decode(item.load(), item.name, side) if (side := least_side(name)) else rgb
    start = time.process_time()
    predicted = saliency_map(name, rgb, item.name)
    result: dict[str, Any] = {"s": time.process_time() - start}
    result["iou"] = [float(iou(solve(predicted, objective)[0], truth).max()) for objective in objectives]
    if mask is not None:
        predicted = predicted if predicted.shape == mask.shape else cv2.resize(predicted, mask.shape[::-1])
        result["mae"] = float(np.abs(predicted - mask).mean())
        result["precision"], result["recall"] = precision_recall(predicted, mask)
        if item.authors is not None and name in AUTHORS:
            authors = _grey(Path(str(item.authors).format(name))) / 255
            result["mae_authors"] = float(np.abs(authors - mask).mean())
            result["r_authors"] = float(np.corrcoef(predicted.ravel(), authors.ravel())[0, 1])
            result["precision_authors"], result["recall_authors"] = precision_recall(authors, mask)
    return result


def summary(name: str, dataset: str, objectives: list[Objective], scores: list[dict]) -> list[dict[str, Any]]:
    """The scores of all images -> one row per objective."""
    maps: dict[str, Any] = {key: _mean(scores, key) for key in ("mae", "mae_authors", "r_authors")}
    for suffix in ("", "_authors"):
        precision, recall = _mean(scores, f"precision{suffix}"), _mean(scores, f"recall{suffix}")
        maps[f"max_f{suffix}"] = None if precision is None else float(f_measure(precision, recall).max())
    name = component(name)  # without the path of a file
    row = row_of(name)
    trained_on = TRAINED_ON.get(name, row.trained_on if row else "unknown")
    last = {"s": float(np.median([one["s"] for one in scores])), "trained_on": trained_on}
    rows = []
    for i, objective in enumerate(objectives):
        constant = f"tau {objective.tau:g}" if objective.name == "max-excess" else f"k {objective.k:g}"
        labels = {"dataset": dataset, "detector": name, "objective": f"{objective.name} {constant}"}
        rows.append(labels | box_figures(np.array([one["iou"][i] for one in scores])) | maps | last)
    return rows


def precision_recall(saliency: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) in [0, 1], (H, W) bool -> precision (256,) and recall (256,) of `saliency in 8 bits >= 0, 1, ..., 255`."""
    levels = np.floor(saliency * 255 + 0.5).astype(np.uint8)
    all_, right = (np.bincount(levels[which], minlength=256)[::-1].cumsum()[::-1] for which in (mask | True, mask))
    # Without any pixel above the threshold, precision is 1, as in published curves.
    return np.divide(right, all_, out=np.ones(256), where=all_ > 0), right / max(1, right[0])


def f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    below = BETA_SQUARED * precision + recall
    return np.divide((1 + BETA_SQUARED) * precision * recall, below, out=np.zeros_like(below), where=below > 0)


def score_baselines(item: Item) -> list[float]:
    """An image -> IoU of the whole image and of the centred box with the truth."""
    _, _, truth = _ground_truth(item)
    return [float(iou(box, truth).max()) for box in (WHOLE, CENTRED)]


def box_figures(overlap: np.ndarray) -> dict[str, float]:
    """(n,) IoU -> mean IoU, CorLoc, the share of images with IoU >= 0.5 (Deselaers et al. 2010), and that with 0.7."""
    shares = {"corloc": float((overlap >= 0.5).mean()), "corloc_70": float((overlap >= 0.7).mean())}
    return {**shares, "mean_iou": float(overlap.mean()), "n": len(overlap)}


def _with_path(name: str) -> str:
    """FAMILY:FILE[,...] with the file's path if it is in the folder of models and not here."""
    family, colon, rest = name.partition(":")
    file = rest.partition(",")[0]
    return f"{family}:{folder() / rest}" if colon and not Path(file).exists() and (folder() / file).exists() else name


def _is_available(name: str) -> bool:
    """Whether the file of a network or of weights is there; prints what to do if it is not."""
    family, _, rest = name.partition(":")
    file = Path(rest.partition(",")[0])
    try:
        if name in NETWORKS:
            find(name)
        elif f"{family}:WEIGHTS" in ROWS and not file.exists():
            raise InputError(
                f"{file} does not exist, nor in {folder()}. Set FGDATA_MODELS to the folder that holds it."
            )
    except InputError as fault:
        print(f"{name} is left out: {fault}", file=sys.stderr)
        return False
    return True


def _ground_truth(item: Item) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    rgb = decode(item.load(), item.name)
    height, width = rgb.shape[:2]
    if item.mask is None:
        return rgb, None, clip_boxes(item.boxes, width, height)[0]
    mask = _grey(item.mask) > 127
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    bounds = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
    return rgb, mask, clip_boxes([bounds], width, height)[0]


def _mean(scores: list[dict], key: str) -> Any:
    return np.mean([one[key] for one in scores], axis=0) if key in scores[0] else None


def _grey(file: Path) -> np.ndarray:
    return decode(file.read_bytes(), file.name)[..., 0].astype(np.float64)


def _first(load: Callable, record: Any) -> bytes:
    return load(record)[0]
