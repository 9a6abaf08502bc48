"""MaxBoxAcc (Choe et al., CVPR 2020, section 3.3): how well class-activation maps find the annotated object.

The map of an image is that of its true class, from a linear layer that is trained on the frozen encoder's pooled
features of the train split: M(x, y) = w_class . z(x, y), or Grad-CAM where the pooled feature is not the mean of
z. It is resized to the image, scaled to [0, 1] by its own minimum and maximum, and truncated to 8 bits. At a threshold
tau the predicted box is that of the largest 8-connected component of M > tau, and BoxAcc(tau) is the fraction of images
where it overlaps a true box with IoU >= 0.5. MaxBoxAcc is the maximum of BoxAcc over tau. Choosing the threshold on the
scored images is part of the definition.

MaxBoxAccV2 (Choe et al., TPAMI 2022) takes the best box of all components, and is the mean of the maxima for IoU >=
0.3, 0.5 and 0.7. In both, images are resized to a square without a crop, so no part of an object is lost.

Boxes and thresholds follow the authors' code (github.com/clovaai/wsolevaluation), IoU does not: there a predicted box
is one pixel wider and higher unless it ends at the image's edge, a true box is rounded down to whole pixels and is also
one pixel larger, and a map with nothing above tau predicts the upper left pixel. Here boxes are continuous, and a map
with nothing above tau predicts no box.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import cv2
import numpy as np
import torch
from torch import Tensor

from fgdata.boxes.geometry import iou
from fgdata.cores import available_cores
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, meta, read_all

from ..networks.encoder import Encoder
from .cam import class_activation, explain, pools_by_mean
from .linear import PROTOCOLS, Trial, fit, on_device
from .probe import embed, images, placed

THRESHOLDS = np.arange(255) / 255
"""The levels of an 8-bit map except the highest, above which there is nothing."""
OVERLAPS = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Overlap:
    """IoU with the best true box at each of T thresholds, for the N images that have a true box."""

    largest: np.ndarray  # (N, T) IoU of the largest component's box
    any: np.ndarray  # (N, T) IoU of the best box of all components

    @property
    def best(self) -> int:
        """Index in THRESHOLDS of the threshold that gives MaxBoxAcc; the lowest of several."""
        return int((self.largest >= 0.5).mean(0).argmax())

    @property
    def hits(self) -> np.ndarray:
        """(N,) bool: whether the object is found at that threshold; MaxBoxAcc is the mean."""
        return self.largest[:, self.best] >= 0.5

    @property
    def v2(self) -> float:
        """MaxBoxAccV2."""
        return float(np.mean([(self.any >= overlap).mean(0).max() for overlap in OVERLAPS]))


def component_boxes(mask: np.ndarray) -> np.ndarray:
    """(S, S) bool -> (K, 4) boxes (l, t, w, h) in [0, 1] of its 8-connected components and of the outline of each hole.

    They are sorted by falling area inside the outline, the polygon through the centres of its pixels.
    """
    outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    outlines = sorted(outlines, key=cv2.contourArea, reverse=True)
    return np.array([cv2.boundingRect(outline) for outline in outlines], np.float64).reshape(-1, 4) / len(mask)


def overlap(low: np.ndarray, truth: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A map (h, w) and true boxes (K, 4) -> IoU of the largest component's box (T,), and of the best box (T,)."""
    full = cv2.resize(low.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    full -= full.min()
    full /= max(float(full.max()), 1e-12) if np.ptp(low) else np.inf  # resizing adds rounding noise to a flat map
    levels = (full * 255).astype(np.uint8)
    boxes = [component_boxes(levels > level) for level in range(len(THRESHOLDS))]
    meets = iou(np.concatenate(boxes)[:, None], truth).max(1)
    each = np.split(meets, np.cumsum([len(found) for found in boxes])[:-1])
    return np.array([m[0] if len(m) else 0 for m in each]), np.array([m.max(initial=0) for m in each])


def overlaps(maps: np.ndarray, truth: Sequence[np.ndarray], size: int) -> Overlap:
    """(N, h, w) maps and the true boxes (K, 4) of each -> Overlap at `size` x `size` pixels."""
    with ThreadPoolExecutor(available_cores()) as pool:  # OpenCV releases the GIL
        rows = list(pool.map(overlap, maps, truth, repeat(size)))
    largest, best = (np.stack(column) for column in zip(*rows))
    return Overlap(largest, best)


def true_boxes(shards: ShardSet, split: str) -> list[np.ndarray]:
    """Ground-truth boxes (K, 4) of each sample of the split; K may be 0. InputError when no sample has a box."""
    reader = shards.split(split)
    infos = [meta(sample) for sample in read_all(reader, without="jpg")]
    boxes = [np.array(info["boxes"], np.float64).reshape(-1, 4) for info in infos]
    if not any(map(len, boxes)):
        raise InputError(
            f"{shards.path} has no ground-truth boxes in its {split} split, and localization needs them; "
            "its dataset has none. Name another set with --shards."
        )
    return boxes


def activation_maps(
    encoder: Encoder, shards: ShardSet, size: int, device: torch.device, seed: int, true_boxes: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray], str]:
    """Maps (N, h, w) of the true class and the true boxes (K, 4), of the N test images that have boxes, and how the
    maps were computed: CAM, or Grad-CAM where the pooled feature is not the mean of the last map.

    `true_boxes` holds the boxes of every test sample, by sample number; `seed` decides the layer's initial weights.
    """
    layer = probe_layer(encoder, shards, size, device, seed)
    by_mean, encoder = pools_by_mean(encoder, size), placed(encoder, device)
    maps, truth = [], []
    for x, batch in images(shards, "test", encoder.whole_view(size), device):
        classes = batch["label"].to(device)
        if by_mean:
            with torch.inference_mode():
                activation = class_activation(encoder(x), layer.weight[classes])
        else:
            activation, _ = explain(encoder, layer, x, classes)
        for number, one in zip(batch["index"].tolist(), activation.cpu().numpy()):
            if len(true_boxes[number]):
                maps.append(one)
                truth.append(true_boxes[number])
    return np.stack(maps), truth, "CAM" if by_mean else "Grad-CAM"


def probe_layer(encoder: Encoder, shards: ShardSet, size: int, device: torch.device, seed: int) -> torch.nn.Linear:
    """Trains the linear layer whose class scores the maps explain: synth-pair's protocol on features computed once."""
    rows = embed(encoder, shards, "train", encoder.whole_view(size), device)
    labels: Tensor = torch.empty_like(rows[1]).scatter_(0, rows[2], rows[1])
    trial = Trial(labels, 1.0, rows[0].shape[1], len(shards.classes), PROTOCOLS["synth-pair"], seed)
    rows = on_device(rows, device)
    fit(repeat(rows), [trial], PROTOCOLS["synth-pair"], device)
    student = trial.best(rows)
    layer = torch.nn.Linear(rows[0].shape[1], len(shards.classes), device="meta")  # draws no random numbers
    layer.weight, layer.bias = torch.nn.Parameter(student.weight), torch.nn.Parameter(student.bias)
    return layer
