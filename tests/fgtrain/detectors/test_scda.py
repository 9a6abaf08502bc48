"""SCDA: the map against loops written from its equation, and real weights on real birds."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fgdata.boxes.geometry import clip_boxes, iou
from fgdata.boxes.objective import Objective, solve
from fgdata.datasets import read
from fgdata.images import decode
from fgtrain.detectors import scda


def unit(plane: list[list[float]]) -> list[list[float]]:
    values = [x for row in plane for x in row]
    low, high = min(values), max(values)
    return [[(x - low) / (high - low) for x in row] for row in plane]


def naive_plane(f: np.ndarray) -> np.ndarray:
    """m of one level, (C, h, w) -> (h, w)."""
    _, h, w = f.shape
    at_border = [f[:, i, j] for i in range(h) for j in range(w) if i in (0, h - 1) or j in (0, w - 1)]
    b = sum(at_border) / len(at_border)
    active = unit([[sum(abs(x) for x in f[:, i, j]) for j in range(w)] for i in range(h)])
    cosine = [[f[:, i, j] @ b / ((f[:, i, j] @ f[:, i, j]) * (b @ b)) ** 0.5 for j in range(w)] for i in range(h)]
    apart = unit([[1 - x for x in row] for row in cosine])
    return np.array(unit([[active[i][j] * apart[i][j] for j in range(w)] for i in range(h)]))


class Fixed:
    """A source whose maps are given."""

    settings: dict = {}  # noqa: RUF012

    def __init__(self, *levels: np.ndarray):
        self.levels = levels

    def maps(self, rgb: np.ndarray) -> list[np.ndarray]:
        return list(self.levels)


@pytest.mark.parametrize("signed", [False, True])
def test_the_map_is_the_product_of_both_levels(signed: bool):
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(5, 8, 6)), rng.normal(size=(7, 4, 3))
    if not signed:
        fine, coarse = np.maximum(fine, 0) + 0.01, np.maximum(coarse, 0) + 0.01  # no position without any activation
    a, b = naive_plane(fine), naive_plane(coarse)
    np.testing.assert_allclose(scda.plane(fine), a, atol=1e-12)
    product = a * cv2.resize(b, (6, 8), interpolation=cv2.INTER_LINEAR)
    expected = np.array(unit(product.tolist()))
    rgb = rng.integers(0, 256, (8, 6, 3), np.uint8)  # of the size of the finer level: no resize at the end
    np.testing.assert_allclose(scda.Scda(Fixed(fine, coarse)).saliency_map(rgb), expected, atol=1e-6)
    np.testing.assert_allclose(scda.Scda(Fixed(fine)).saliency_map(rgb), a, atol=1e-6)  # a ViT has one level


def test_an_active_block_is_found_and_a_map_without_contrast_is_zero():
    level = np.zeros((4, 16, 16))
    level[0] = 1  # the ground
    level[1, 4:10, 6:12] = 2
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    box, _ = solve(scda.Scda(Fixed(level)).saliency_map(rgb), Objective(tau=scda.TAU))
    assert float(iou(box, np.array([6, 4, 6, 6]) / 16)) > 0.7
    assert not scda.Scda(Fixed(np.ones((4, 16, 16)))).saliency_map(rgb).any()
    assert not scda.plane(np.zeros((4, 1, 1))).any()


def test_boxes_of_birds_by_imagenet_weights(real_data: Path):
    """Six of cub50; on all of them CorLoc is in docs/saliency.md."""
    weights = real_data / "models" / "efficientnet-lite0-57934424.pth"
    if not weights.is_file():
        pytest.skip(f"no file {weights}")
    detector, birds, overlaps = (
        scda.detector(f"{weights},backbone=tf_efficientnet_lite0"),
        read("cub", real_data / "cub50"),
        [],
    )
    assert detector.SETTINGS["sha256"].startswith("579344248a93e230")
    assert detector.SETTINGS["size"] == 448
    for record in birds.records[::500]:
        rgb = decode(birds.load(record)[0], record.file)
        box, _ = solve(detector.saliency_map(rgb), Objective(tau=detector.TAU))
        overlaps.append(float(iou(box, clip_boxes(record.boxes, *rgb.shape[1::-1])[0]).max()))
    assert np.mean(np.array(overlaps) >= 0.5) >= 0.6, overlaps
