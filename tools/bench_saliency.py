"""tools/bench.py saliency: how right the maps and the boxes are, and how long they take."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from bench_report import report, run, single_threaded

from fgdata.boxes import CENTRED, WHOLE, Objective, clip_boxes, iou, solve
from fgdata.datasets import Record, read
from fgdata.errors import InputError
from fgdata.images import decode
from fgdata.saliency import detector


def saliency(
    data: Path = Path("../shared/data"),
    detectors: tuple[str, ...] = ("rbd", "spectral-residual"),
    tau: tuple[float, ...] = (0.75,),
    k: tuple[float, ...] = (2.0,),
    limit: int | None = None,
    workers: int = 2,
    json: Path | None = None,
) -> None:
    """Maps against the authors' maps and the masks, boxes against ground truth, and the time of both.

    Correlation with the authors' RBD maps is over the five msra_ images, whose origin is clean; mean absolute error
    over all of saliency-reference. Boxes are scored on cub50. Times are the median per image, in processor
    time, which other work on the machine disturbs least.

    Args:
        data: folder that holds saliency-reference and cub50.
        detectors: the detectors to measure.
        tau: max-excess is measured with each of these constants.
        k: max-mean is measured with each of these multiples of the effective area.
        limit: at most so many images of cub50, spread evenly over it.
        workers: processes, one thread each.
        json: file to write the figures to.
    """
    objectives = [Objective(tau=value) for value in tau] + [Objective("max-mean", k=value) for value in k]
    references = sorted((data / "saliency-reference" / "images").glob("*.jpg"))
    if not references:
        raise InputError(f"No images in {data / 'saliency-reference' / 'images'}; give the folder above with --data.")
    dataset = read("cub", data / "cub50")
    count = len(dataset.records)
    some = count if limit is None else min(limit, count)
    records = [dataset.records[i * count // some] for i in range(some)]

    figures = []
    with single_threaded(workers) as pool:
        for name in detectors:
            maps = run(pool, partial(score_map, name), references, f"{name}, maps")
            quality = map_figures([found["map"] for found in maps])
            boxes = run(pool, partial(score_boxes, name, objectives, dataset.load), records, f"{name}, boxes")
            for i, objective in enumerate(objectives):
                constant = f"tau {objective.tau:g}" if objective.name == "max-excess" else f"k {objective.k:g}"
                found = box_figures(np.array([overlap[i] for overlap, _, _ in boxes]))
                times = {"ms_map": median(ms for _, ms, _ in boxes), "ms_box": median(ms[i] for _, _, ms in boxes)}
                figures.append(
                    {"detector": name, "objective": f"{objective.name} {constant}"} | quality | found | times
                )
        authors = map_figures([found["authors"] for found in maps])
        baselines = run(pool, partial(score_baselines, dataset.load), records, "baselines")
    blank = dict.fromkeys(figures[0])
    figures.append(blank | {"detector": "rbd, authors' maps"} | authors)
    for i, name in enumerate(("whole image", "centred box")):
        figures.append(blank | {"detector": name} | box_figures(np.array(baselines)[:, i]))
    report("saliency", figures, json)


def score_map(name: str, image: Path) -> dict[str, tuple[bool, float, float]]:
    """An image of saliency-reference -> for this map and the authors': is it an msra_ one, correlation, error."""
    root, stem = image.parent.parent, image.stem
    authors = _grey(root / "rbd" / f"{stem}.png") / 255
    (mask_file,) = (root / "masks").glob(f"{stem}.*")
    mask = _grey(mask_file) > 127  # the msra_ masks are JPEG
    found = detector(name).saliency_map(decode(image.read_bytes(), image.name)).astype(np.float64)
    scores = {}
    for key, values in (("map", found), ("authors", authors)):
        correlation = np.corrcoef(values.ravel(), authors.ravel())[0, 1]
        scores[key] = (stem.startswith("msra_"), float(correlation), float(np.abs(values - mask).mean()))
    return scores


def map_figures(scores: list[tuple[bool, float, float]]) -> dict[str, float]:
    """Means over the msra_ images and over all."""
    clean, correlation, error = np.array(scores).T
    clean = clean.astype(bool)
    return {
        "r_msra": correlation[clean].mean(),
        "r_all": correlation.mean(),
        "mae_msra": error[clean].mean(),
        "mae_all": error.mean(),
        "n_maps": len(scores),
    }


def score_boxes(
    name: str, objectives: list[Objective], load: Callable, record: Record
) -> tuple[list[float], float, list[float]]:
    """A record -> IoU of each objective's box with the truth, ms of the map, ms of each box."""
    rgb, truth = _image(load, record)
    module = detector(name)
    start = time.process_time()
    saliency = module.saliency_map(rgb)
    map_ms = (time.process_time() - start) * 1e3
    overlaps, box_ms = [], []
    for objective in objectives:
        start = time.process_time()
        box, _ = solve(saliency, objective)
        box_ms.append((time.process_time() - start) * 1e3)
        overlaps.append(float(iou(box, truth).max()))
    return overlaps, map_ms, box_ms


def score_baselines(load: Callable, record: Record) -> list[float]:
    """A record -> IoU of the whole image and of the centred box with the truth."""
    _, truth = _image(load, record)
    return [float(iou(box, truth).max()) for box in (WHOLE, CENTRED)]


def box_figures(overlap: np.ndarray) -> dict[str, float]:
    """(n,) IoU -> mean IoU and CorLoc, the share of images at 0.5 and above (Deselaers et al. 2010)."""
    return {"mean_iou": overlap.mean(), "corloc": (overlap >= 0.5).mean(), "n_boxes": len(overlap)}


def _grey(file: Path) -> np.ndarray:
    return decode(file.read_bytes(), file.name)[..., 0].astype(np.float64)


def _image(load: Callable, record: Record) -> tuple[np.ndarray, np.ndarray]:
    data, boxes = load(record)
    rgb = decode(data, record.file)
    return rgb, clip_boxes(boxes, rgb.shape[1], rgb.shape[0])[0]
