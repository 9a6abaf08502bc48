"""Crops by name: ContrastiveCrop against its equations, as naive loops in float64."""

from typing import get_args

import numpy as np
import pytest
from scipy import stats

from fgdata.errors import InputError
from fgdata.views import ViewSpec, crops, draws, geometry
from fgdata.views.spec import CropName

RNG = np.random.default_rng(0)
KEYS = {"seed": 11, "epoch": 2, "batch": 0, "view": 0}
N = 3000


def plan(spec: ViewSpec, sizes: np.ndarray, boxes: np.ndarray, **keys: int) -> geometry.Geometry:
    return geometry.compute(spec, sizes, boxes, np.arange(len(sizes)), **KEYS | keys)


def tiled(box: tuple[float, ...], n: int = N) -> np.ndarray:
    return np.tile(np.array(box, np.float32), (n, 1))


def test_every_name_has_a_crop():
    assert set(crops.CROPS) == set(get_args(CropName))


# Contrastive


def test_the_whole_image_and_alpha_1_are_a_random_resized_crop():
    sizes = RNG.integers(1, 600, (N, 2))  # some so narrow that no attempt fits
    ours = plan(ViewSpec(crop="contrastive", crop_alpha=1), sizes, tiled((0, 0, 1, 1)))
    theirs = plan(ViewSpec(), sizes, tiled((0, 0, 1, 1)))
    for name in ("source", "place", "mask", "flip", "colour", "sigma"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("alpha", [0.1, 0.6, 3.0])
def test_contrastive_crops_follow_the_papers_equation(alpha: float):
    spec = ViewSpec(crop="contrastive", crop_alpha=alpha)
    sizes = RNG.integers(250, 500, (200, 2))  # an attempt always fits
    corners = np.sort(RNG.uniform(0, 1, (200, 2, 2)), 1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], 1).astype(np.float32)
    u = draws.uniforms(11, 2, np.arange(200), 0, draws.COUNT)
    ours = plan(spec, sizes, boxes)
    shapes = plan(ViewSpec(), sizes, boxes).source[:, 2:]  # sizes are those of rrc
    for i in range(200):
        for axis, column in ((0, draws.X), (1, draws.Y)):
            side, length = int(sizes[i, axis]), int(shapes[i, axis])
            low, high = float(boxes[i, axis]), float(boxes[i, axis]) + float(boxes[i, axis + 2])
            a = min(max(int(side * low) - length // 2, 0), side - length)
            b = min(max(int(side * high) - length // 2, 0), side - length)
            start = min(a + int((b - a + 1) * stats.beta(alpha, alpha).ppf(u[i, column])), b)
            assert abs(ours.source[i, axis] - start) <= 1  # the table's interpolation may cross a pixel
            assert ours.source[i, axis + 2] == length


@pytest.mark.parametrize("alpha", [0.1, 0.6, 5.0])
def test_centres_are_beta_distributed_in_the_box(alpha: float):
    """On images so large that no edge clamps: the box's half lies a quarter of the side from each edge."""
    spec = ViewSpec(crop="contrastive", crop_alpha=alpha, area=(0.01, 0.04), aspect=(1, 1))
    for box in ("detector", "centre"):
        given = (0.25, 0.25, 0.5, 0.5) if box == "detector" else (0.8, 0.8, 0.1, 0.1)
        source = plan(ViewSpec(**{**vars(spec), "crop_box": box}), np.full((N, 2), 8000), tiled(given)).source
        centre = (source[:, :2] + source[:, 2:] // 2) / 8000
        assert centre.min() >= 0.25
        assert centre.max() <= 0.75
        expected = N * np.diff(stats.beta(alpha, alpha).cdf(np.linspace(0, 1, 11)))
        for axis in (0, 1):
            counts = np.histogram((centre[:, axis] - 0.25) / 0.5, 10, (0, 1))[0]
            assert stats.chisquare(counts, expected).pvalue > 0.001
        assert abs(np.corrcoef(centre.T)[0, 1]) < 0.06  # x and y are independent


def test_a_large_alpha_is_the_middle_of_the_box():
    """Every sample is within 5 standard deviations, 1 / sqrt(4 (2 alpha + 1)) of the box: 23 and 12 pixels."""
    spec, n = ViewSpec(crop="contrastive", crop_alpha=1000, area=(0.01, 0.04)), 20_000
    source = plan(spec, np.full((n, 2), 1000), tiled((0.2, 0.5, 0.4, 0.2), n)).source
    u = draws.uniforms(11, 2, np.arange(n), 0, draws.COUNT)[:, [draws.X, draws.Y]]
    assert u.min() < 1 / 4096  # the table's first and last step are among them
    assert u.max() > 4095 / 4096
    gap = source[:, :2] + source[:, 2:] / 2 - [400, 600]
    assert (np.abs(gap) < 1 + 5 * np.array([400, 200]) / np.sqrt(4 * 2001)).all()
    assert np.abs(gap.mean(0)).max() < 1


@pytest.mark.parametrize("alpha", [0.1, 0.6, 1000.0])
def test_the_quantile_function_is_that_of_beta_at_its_ends_too(alpha: float):
    u = np.concatenate([np.linspace(0, 1, 8193), [1e-9, 1e-5, 2e-4, 1 - 2e-4, 1 - 1e-5]])
    gap = np.abs(crops.beta_quantile(u, alpha) - stats.beta(alpha, alpha).ppf(u))
    assert gap.max() < 5e-4  # a tenth of a pixel in a box of 200


def test_contrastive_changes_no_other_draw():
    sizes, boxes = RNG.integers(40, 500, (N, 2)), tiled((0.3, 0.3, 0.2, 0.2))
    ours, theirs = (plan(ViewSpec(crop=crop), sizes, boxes) for crop in ("contrastive", "rrc"))
    for name in ("flip", "colour", "centre", "sigma"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


# Paste


@pytest.mark.parametrize("lenders", [0, 7])
def test_a_pasted_crop_keeps_its_aspect_inside_the_view(lenders: int):
    spec, sizes = ViewSpec(size=100, crop="paste", aspect=(0.5, 2), masks=True), RNG.integers(200, 500, (N, 2))
    p = plan(spec, sizes, tiled((0, 0, 1, 1)), lenders=lenders)
    rrc = plan(ViewSpec(aspect=(0.5, 2)), sizes, tiled((0, 0, 1, 1)))
    assert np.array_equal(p.source, rrc.source)
    x, y, w, h = p.place.T
    assert min(x.min(), y.min()) >= 0
    assert max((x + w).max(), (y + h).max()) <= 100
    longest = np.maximum(w, h)  # it touches the smaller limit, so it is at most 98 and the longer side at least 50 / 2
    assert longest.max() <= 98
    for start, length in ((x, w), (y, h)):  # uniform over all places
        jittered = (start + np.random.default_rng(0).random(N)) / (100 - length + 1)
        assert stats.kstest(jittered, "uniform").pvalue > 0.001
    aspect = np.log(w / h) - np.log(p.source[:, 2] / p.source[:, 3])
    assert np.abs(aspect).max() < 1 / np.minimum(w, h).min()
    mirrored = np.where(p.flip, 100 - x - w, x)
    assert np.array_equal(p.mask, np.stack([mirrored, y, w, h], 1))
    assert (p.partner != np.arange(N)).all() if not lenders else set(p.partner) == set(range(7))


def test_the_side_of_a_square_crop_is_the_smaller_of_two_uniform_ones():
    """P(min of two U{50 ... 98} <= s) = 1 - ((98 - s) / 49)^2."""
    side = plan(ViewSpec(size=100, crop="paste", aspect=(1, 1)), np.full((N, 2), 400), tiled((0, 0, 1, 1))).place[:, 2]
    expected = -N * np.diff(((98 - np.arange(49, 99)) / 49) ** 2)
    assert stats.chisquare(np.bincount(side - 50, minlength=49), expected).pvalue > 0.001


def test_which_crops_need_boxes():
    assert ViewSpec(crop="contrastive").needs_boxes
    assert not ViewSpec(crop="contrastive", crop_box="centre").needs_boxes
    assert ViewSpec(crop="contrastive", crop_box="centre", masks=True).needs_boxes
    assert not ViewSpec(crop="contrastive", crop_box="given", masks=True).needs_boxes
    assert not ViewSpec(crop="paste", masks=True, boxes=True).needs_boxes
    with pytest.raises(InputError, match="views.crop_alpha is 0; allowed: 0.01 to 1000"):
        ViewSpec(crop_alpha=0)
