"""MaxBoxAcc on maps made by hand, and boxes of components against scikit-image."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.measure import label, regionprops

from fgdata.boxes import iou
from fgdata.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgtrain.evaluate import localization

SIZE = 40


def painted(*rectangles: tuple[int, int, int, int, float]) -> np.ndarray:
    """Rectangles (l, t, w, h, height of the map) on zero."""
    canvas = np.zeros((SIZE, SIZE))
    for left, top, w, h, value in rectangles:
        canvas[top : top + h, left : left + w] = value
    return canvas


def box(left: int, top: int, w: int, h: int) -> np.ndarray:
    return np.array([[left, top, w, h]]) / SIZE


def test_boxes_are_those_of_scikit_images_components_by_falling_area():
    blobs = np.random.default_rng(3).random((7, 7)).repeat(6, 0).repeat(6, 1) > 0.6
    ours = localization.component_boxes(blobs)
    regions = regionprops(label(blobs, connectivity=2))
    theirs = [np.array([r.bbox[1], r.bbox[0], r.bbox[3] - r.bbox[1], r.bbox[2] - r.bbox[0]]) / 42 for r in regions]
    assert sorted(ours.tolist()) == sorted(t.tolist() for t in theirs)
    largest = max(regions, key=lambda r: r.area_filled)
    assert ours[0].tolist() == theirs[regions.index(largest)].tolist()


def test_the_whole_image_is_the_box_at_threshold_zero_and_nothing_gives_none():
    assert localization.component_boxes(np.ones((8, 8), bool)).tolist() == [[0, 0, 1, 1]]
    assert localization.component_boxes(np.zeros((8, 8), bool)).shape == (0, 4)


def test_a_perfect_map_is_found_at_every_threshold_above_zero():
    found = localization.overlaps(painted((10, 5, 20, 30, 7.0))[None], [box(10, 5, 20, 30)], SIZE)
    assert found.largest[0, 1:].tolist() == [1.0] * 99
    assert found.largest[0, 0] == pytest.approx(20 * 30 / SIZE**2)
    assert (found.found.mean(), found.v2, found.best) == (1, 1, 1)


def test_the_largest_component_counts_and_v2_takes_the_best_of_all():
    canvas = painted((0, 0, 20, 20, 1.0), (25, 25, 10, 10, 1.0))
    found = localization.overlaps(canvas[None], [box(25, 25, 10, 10)], SIZE)
    assert found.largest[0, 50] == 0
    assert found.any[0, 50] == 1
    assert (found.found.mean(), found.v2) == (0, 1)


def test_one_threshold_serves_all_images():
    """The first map finds its object above .5 only, the second below .5 only: no threshold finds both."""
    first = painted((0, 0, 40, 40, 0.5), (10, 10, 10, 10, 1.0), (0, 0, 1, 1, 0.0))
    second = painted((0, 0, 1, 1, 1.0), (10, 10, 20, 20, 0.4))
    found = localization.overlaps(np.stack([first, second]), [box(10, 10, 10, 10), box(10, 10, 20, 20)], SIZE)
    assert found.largest[0, [30, 70]].tolist() == [pytest.approx(0.0625), 1]
    assert found.largest[1, [30, 70]].tolist() == [1, 0]
    assert found.found.mean() == 0.5
    assert found.v2 == 0.5
    assert found.best == 1  # the lowest of the thresholds that are equally good


def test_any_of_several_true_boxes_counts_and_iou_is_that_of_loops():
    rng = np.random.default_rng(0)
    small = rng.random((5, 5))
    truth = np.stack([box(3, 4, 12, 20)[0], box(20, 10, 15, 25)[0]])
    largest, best = localization.overlap(small, truth, SIZE)
    full = cv2.resize(small.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    full = (full - full.min()) / (full.max() - full.min())
    for t in range(0, 100, 7):
        meets = [max(iou(found, real) for real in truth) for found in localization.component_boxes(full >= t / 100)]
        assert largest[t] == pytest.approx(meets[0])
        assert best[t] == pytest.approx(max(meets))


def test_a_flat_map_finds_the_whole_image_and_no_more():
    found = localization.overlaps(np.full((1, 7, 7), 3.0), [box(0, 0, 40, 40)], SIZE)
    assert found.largest[0, 0] == 1
    assert not found.largest[0, 1:].any()


def test_a_set_without_boxes_is_refused(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (64, 48), (60 * i, 90, 30)).save(tmp_path / "images" / name / f"{i}.jpg")
    build(read("folder", tmp_path / "images"), tmp_path / "bare", saliency=("spectral-residual",), workers=1)
    with pytest.raises(InputError, match="no ground-truth boxes in its train split"):
        localization.true_boxes(ShardSet.open(tmp_path / "bare"), "train")
