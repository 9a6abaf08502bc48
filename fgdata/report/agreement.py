"""How well the detectors of a set agree: what can be said about boxes without ground truth.

Two detectors that find the same object overlap; agreement does not show which is right when they differ. A box
that covers the whole image, or comes from a flat map, carries no information.
"""

import html
import re
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..boxes.geometry import iou
from ..errors import InputError
from ..shards.reader import ShardSet
from .score import Scored

COVERS = 0.95
"""A box of at least this share of the image counts as the whole image."""
LARGE = 0.2
"""Share of images whose box is the whole image, or from a flat map, above which a warning is given."""


@dataclass(frozen=True)
class Agreement:
    """Of M detectors on N images. Ground truth is not used; `gt` is not one of the detectors."""

    pairs: dict[tuple[str, str], float]
    """Mean IoU of the boxes of two detectors over the images."""
    mean: np.ndarray
    """(N,) mean IoU over all pairs, per image; NaN for fewer than two detectors."""
    whole: dict[str, float]
    """Share of images whose box covers at least COVERS of the image."""
    flat: dict[str, float]
    """Share of images whose map is flat, so that the box is the whole image."""

    @property
    def warnings(self) -> list[str]:
        """A sentence about each detector whose boxes are often the whole image."""
        return [
            f"{name}: {share:.0%} of its boxes are the whole image ({self.flat[name]:.0%} from flat maps), so they "
            "give no guidance there. Try another detector, or smaller boxes: fgdata rebox --help"
            for name, share in self.whole.items()
            if share > LARGE and name != "whole"  # the detector without one has no other boxes
        ]

    def as_json(self) -> dict:
        """The figures as JSON values."""
        pairs = [{"detectors": list(pair), "mean_iou": value} for pair, value in self.pairs.items()]
        return {"pairs": pairs, "whole": self.whole, "flat": self.flat, "n": len(self.mean)}


def agree(scored: Scored) -> Agreement:
    """Compares the boxes of every two detectors, image by image."""
    names = [name for name in scored.boxes if name != "gt"]
    overlaps = {(a, b): iou(scored.boxes[a], scored.boxes[b]) for a, b in combinations(names, 2)}
    mean = np.mean(list(overlaps.values()), 0) if overlaps else np.full(len(scored.id), np.nan)
    area = {name: scored.boxes[name][:, 2:].astype(np.float64).prod(1) for name in names}
    return Agreement(
        pairs={pair: float(values.mean()) for pair, values in overlaps.items()},
        mean=mean,
        whole={name: float((area[name] >= COVERS).mean()) for name in names},
        flat={name: float(np.mean([bool(kind) for kind in scored.fallback[name]])) for name in names},
    )


def join(first: ShardSet, one: Scored, second: ShardSet, two: Scored) -> Scored:
    """The images that two sets share, by id and split, with the boxes of both; a detector is called SET-DETECTOR.

    The images are the first set's. InputError if no image is in both.
    """
    place = {(split, name): i for i, (split, name) in enumerate(zip(two.split.tolist(), two.id))}
    rows = [i for i, key in enumerate(zip(one.split.tolist(), one.id)) if key in place]
    if not rows:
        raise InputError(
            f"{first.path} and {second.path} have no image in common (by id and split), so their boxes cannot be "
            "compared. Show one of them, or name two sets of one dataset."
        )
    matches = [place[one.split[i], one.id[i]] for i in rows]
    boxes, fallback, overlap = {}, {}, {}
    for prefix, scored, chosen in zip(name_sets(first, second), (one, two), (rows, matches)):
        for name in (name for name in scored.boxes if name != "gt"):
            title = f"{prefix}-{name}"
            boxes[title], overlap[title] = scored.boxes[name][chosen], scored.iou[name][chosen]
            fallback[title] = [scored.fallback[name][i] for i in chosen]
    overlap |= {name: one.iou[name][rows] for name in ("whole", "centred")}
    return Scored(
        split=one.split[rows],
        number=one.number[rows],
        id=[one.id[i] for i in rows],
        label=one.label[rows],
        truth=[one.truth[i] for i in rows],
        boxes=boxes,
        fallback=fallback,
        iou=overlap,
    )


def name_sets(first: ShardSet, second: ShardSet) -> list[str]:
    """-> what the names of each set's detectors begin with in `join`."""
    names = [re.sub("[^a-z0-9]+", "-", shards.path.resolve().name.lower()) or "set" for shards in (first, second)]
    return [f"{name}-{i}" for i, name in enumerate(names, 1)] if names[0] == names[1] else names


def section(agreement: Agreement, colours: dict[str, str], about: dict[str, dict]) -> str:
    """Agreement as a part of report.html; "" for a set without detectors. about: as of `describe_detectors`."""
    if not agreement.whole:
        return ""
    others = list(agreement.whole)[1:]
    head = "".join(f"<td>{html.escape(name)}</td>" for name in others)
    rows = ""
    for name in agreement.whole:
        values = (agreement.pairs.get((name, other)) for other in others)
        cells = "".join(f"<td>{'' if value is None else f'{value:.3f}'}</td>" for value in values)
        seconds, trained_on = about[name]["seconds"], html.escape(about[name]["trained_on"])
        cells += f"<td>{agreement.whole[name]:.1%}</td><td>{agreement.flat[name]:.1%}</td>"
        cells += f"<td>{f'{seconds * 1e3:,.1f} ms' if seconds else ''}</td><td>{trained_on}</td>"
        rows += f"<tr><th style='color:{colours.get(name, 'inherit')}'>{html.escape(name)}</th>{cells}</tr>"
    warnings = "".join(f"<p class=sub><b>{html.escape(line)}</b></p>" for line in agreement.warnings)
    text = "Mean IoU of each pair of detectors; the share of boxes that are the whole image; the share of flat maps."
    head += "<td>whole image</td><td>flat map</td><td>per image</td><td>trained on</td>"
    table = f"<table class=score><tr><th>box</th>{head}</tr>{rows}</table>"
    return f"<h2>Agreement of the detectors</h2><p class=sub>{text}</p>{warnings}{table}"
