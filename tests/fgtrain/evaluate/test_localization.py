"""MaxBoxAcc on constructed maps, boxes of components against scikit-image, activation maps against loops."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.measure import label, regionprops
from torch import nn

from fgdata.boxes.geometry import iou
from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec, load
from fgtrain.evaluate import localization, probe
from fgtrain.networks.encoder import Encoder, Features

SIZE = 40


def painted(*rectangles: tuple[int, int, int, int, float]) -> np.ndarray:
    """A map of rectangles (l, t, w, h, value) on zero."""
    canvas = np.zeros((SIZE, SIZE))
    for left, top, w, h, value in rectangles:
        canvas[top : top + h, left : left + w] = value
    return canvas


def box(left: int, top: int, w: int, h: int) -> np.ndarray:
    return np.array([[left, top, w, h]]) / SIZE


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_boxes_equal_scikit_images_and_are_sorted_by_area(share: float):
    """A hole is an empty region that does not touch the edge; its outline is the ring of pixels around it."""
    blobs = np.random.default_rng(3).random((14, 14)).repeat(3, 0).repeat(3, 1) < share
    ours = localization.component_boxes(blobs)
    regions = regionprops(label(blobs, connectivity=2))
    rings = [r.bbox for r in regionprops(label(~blobs, connectivity=1)) if min(r.bbox) > 0 and max(r.bbox) < 42]
    assert len(rings) > 2 or share < 0.5
    bounds = [*(r.bbox for r in regions), *((t - 1, left - 1, b + 1, right + 1) for t, left, b, right in rings)]
    theirs = [np.array([left, t, right - left, b - t]) / 42 for t, left, b, right in bounds]
    assert sorted(ours.tolist()) == sorted(t.tolist() for t in theirs)
    largest = max(regions, key=lambda r: r.area_filled)
    assert ours[0].tolist() == theirs[regions.index(largest)].tolist()


def test_a_full_mask_gives_the_whole_image_and_an_empty_one_no_box():
    assert localization.component_boxes(np.ones((8, 8), bool)).tolist() == [[0, 0, 1, 1]]
    assert localization.component_boxes(np.zeros((8, 8), bool)).shape == (0, 4)


def test_thresholds_equal_those_of_the_authors_code():
    """Its thresholds are 0, .001, ... .999, its map has 8 bits, and int(255 threshold) must lie below a level."""
    assert {int(255 * threshold) for threshold in np.arange(0, 1, 0.001)} == set(range(255))
    assert localization.THRESHOLDS.tolist() == [level / 255 for level in range(255)]


def test_a_perfect_map_is_found_at_every_threshold():
    result = localization.overlaps(painted((10, 5, 20, 30, 7.0))[None], [box(10, 5, 20, 30)], SIZE)
    assert result.largest[0].tolist() == [1.0] * 255
    assert (result.hits.mean(), result.v2, result.best) == (1, 1, 0)


def test_the_largest_component_counts_and_v2_takes_the_best_of_all():
    canvas = painted((0, 0, 20, 20, 1.0), (25, 25, 10, 10, 1.0))
    result = localization.overlaps(canvas[None], [box(25, 25, 10, 10)], SIZE)
    assert result.largest[0, 50] == 0
    assert result.any[0, 50] == 1
    assert (result.hits.mean(), result.v2) == (0, 1)


def test_one_threshold_serves_all_images():
    """The first map finds its object above .5 only, the second below .5 only: no threshold finds both."""
    first = painted((0, 0, 40, 40, 0.5), (10, 10, 10, 10, 1.0), (0, 0, 1, 1, 0.0))
    second = painted((0, 0, 1, 1, 1.0), (10, 10, 20, 20, 0.4))
    result = localization.overlaps(np.stack([first, second]), [box(10, 10, 10, 10), box(10, 10, 20, 20)], SIZE)
    assert result.largest[0, [126, 127]].tolist() == [pytest.approx(0.0625), 1]  # .5 is level 127 of 255
    assert result.largest[1, [101, 102]].tolist() == [1, 0]  # .4 is level 102
    assert result.hits.mean() == 0.5
    assert result.v2 == 0.5
    assert result.best == 0  # the lowest of the thresholds that are equally good


def test_any_of_several_true_boxes_counts_and_iou_equals_loops():
    rng = np.random.default_rng(0)
    small = rng.random((5, 5))
    truth = np.stack([box(3, 4, 12, 20)[0], box(20, 10, 15, 25)[0]])
    largest, best = localization.overlap(small, truth, SIZE)
    full = cv2.resize(small.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    full = (full - full.min()) / (full.max() - full.min())
    for t in range(0, 255, 17):
        levels = np.floor(255 * full)
        meets = [max(iou(result, real) for real in truth) for result in localization.component_boxes(levels > t)]
        assert largest[t] == pytest.approx(meets[0])
        assert best[t] == pytest.approx(max(meets))


def test_a_flat_map_finds_nothing():
    result = localization.overlaps(np.full((1, 7, 7), 3.0), [box(0, 0, 40, 40)], SIZE)
    assert not result.largest.any()
    assert not result.any.any()


class Coarse(nn.Module):
    """(B, 3, S, S) -> features whose last stage is the image pooled to 4 x 4."""

    @staticmethod
    def whole_view(size: int) -> ViewSpec:
        return replace(ViewSpec.evaluation(size), plain=True)

    def forward(self, x: torch.Tensor) -> Features:
        stage4 = nn.functional.adaptive_avg_pool2d(x, 4)
        return Features({4: stage4}, stage4.mean((2, 3)))


def test_activation_maps_are_of_each_samples_class_in_any_order(drawn_set: Path, monkeypatch):
    """Each box encodes its sample's number and comes with that sample's map; samples without a box are skipped."""
    shards, cpu = ShardSet.open(drawn_set), torch.device("cpu")
    true_boxes = [np.array([[0, 0, 1, number / 16]])[: number % 3] for number in range(16)]  # every third has none
    layer, encoder = nn.Linear(3, 4), cast("Encoder", Coarse())
    with load(shards, views=encoder.whole_view(32), batch_size=16, split="test", shuffle=False) as loader:
        samples = next(iter(loader))
    z = Coarse()(samples["plain"]).maps[4].double().numpy()
    w = layer.weight.detach().double().numpy()

    def shuffled(*given, **settings):
        return load(*given, **{**settings, "shuffle": True, "seed": 5, "batch_size": 5})

    monkeypatch.setattr(probe, "load", shuffled)
    monkeypatch.setattr(localization, "probe_layer", lambda *_: layer)
    monkeypatch.setattr(localization, "pools_by_mean", lambda *_: True)
    maps, truth, kind = localization.activation_maps(encoder, shards, 32, cpu, 0, true_boxes)
    assert kind == "CAM"
    numbers = [round(16 * boxes[0, 3]) for boxes in truth]
    assert numbers != sorted(numbers)
    assert sorted(numbers) == [number for number in range(16) if number % 3]
    for number, result in zip(numbers, maps):
        own = w[int(samples["label"][number])]
        expected = [[sum(own[c] * z[number, c, y, x] for c in range(3)) for x in range(4)] for y in range(4)]
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)  # float32 against float64


def test_a_set_without_boxes_is_refused(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (64, 48), (60 * i, 90, 30)).save(tmp_path / "images" / name / f"{i}.jpg")
    build(read("folder", tmp_path / "images"), tmp_path / "bare", saliency=("spectral-residual",), workers=1)
    with pytest.raises(InputError, match="no ground-truth boxes in its train split.*--shards"):
        localization.true_boxes(ShardSet.open(tmp_path / "bare"), "train")
