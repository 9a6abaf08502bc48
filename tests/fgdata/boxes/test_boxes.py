"""The box solver against brute force over all boxes and closed forms; operations on boxes."""

import subprocess
import sys

import numpy as np
import pytest

from fgdata.boxes import objective as boxes
from fgdata.boxes.geometry import CENTRED, WHOLE, clip_boxes, iou
from fgdata.boxes.objective import ANY_TAU, Objective, solve
from fgdata.boxes.rectangles import best_box, densest_box
from fgdata.errors import InputError


def every_box(n):
    return [(t, b, l, r) for t in range(n) for b in range(t + 1, n + 1) for l in range(n) for r in range(l + 1, n + 1)]  # noqa: E741


def inside(values, box):
    top, bottom, left, right = box
    return values[top:bottom, left:right]


def rectangle(shape, top, bottom, left, right):
    values = np.zeros(shape, np.float32)
    values[top:bottom, left:right] = 1
    return values


@pytest.mark.parametrize("least", [1, 2, 5, 7, 20, 48, 49])
@pytest.mark.parametrize("seed", range(6))
def test_best_box_has_the_largest_sum_of_all_boxes(seed, least):
    # Small whole numbers: sums are exact and ties are frequent.
    values = np.random.default_rng(seed).integers(-4, 5, (7, 7)).astype(np.float64)
    candidates = [box for box in every_box(7) if inside(values, box).size >= least]
    best = max(inside(values, box).sum() for box in candidates)
    solution = best_box(values, least)
    assert inside(values, solution).size >= least
    assert inside(values, solution).sum() == best
    if least == 1:  # ties in the documented order: top, bottom, right, left
        ties = [box for box in candidates if inside(values, box).sum() == best]
        assert solution == min(ties, key=lambda box: (box[0], box[1], box[3], box[2]))


@pytest.mark.parametrize("least", [1, 3, 7, 12, 30, 49])
@pytest.mark.parametrize("seed", range(6))
def test_densest_box_has_the_highest_mean_of_all_boxes(seed, least):
    values = np.random.default_rng(seed).random((7, 7)) ** 3
    best = max(inside(values, box).mean() for box in every_box(7) if inside(values, box).size >= least)
    solution = densest_box(values, least)
    assert inside(values, solution).size >= least
    assert inside(values, solution).mean() == pytest.approx(best, rel=1e-12)  # the order of a float64 sum


@pytest.mark.parametrize(
    "objective", [Objective(grid=9), Objective(grid=9, tau=1.3), Objective("max-mean", k=0.3, grid=9)]
)
@pytest.mark.parametrize("seed", range(4))
def test_solve_is_its_equation_by_brute_force(seed, objective):
    saliency = np.random.default_rng(seed).random((23, 31)).astype(np.float32) ** 4
    cells = naive_average(saliency, 9)
    box, fallback = solve(saliency, objective)
    left, top, width, height = np.round(box.astype(np.float64) * 9).astype(int)
    chosen = inside(cells, (top, top + height, left, left + width))
    assert fallback is None
    if objective.name == "max-excess":
        tau = ANY_TAU if objective.tau == "own" else objective.tau
        excess = cells - tau * cells.mean()
        best = max(inside(excess, candidate).sum() for candidate in every_box(9))
        reached = (chosen - tau * cells.mean()).sum()
    else:
        least = objective.k * cells.sum() ** 2 / (cells**2).sum()
        best = max(part.mean() for b in every_box(9) if (part := inside(cells, b)).size >= least)
        reached = chosen.mean()
    assert reached == pytest.approx(best, rel=1e-12)


def naive_average(saliency, n):
    """Mean over each cell by the overlap of every pixel with it."""
    height, width = saliency.shape
    cells = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            for y in range(height):
                for x in range(width):
                    down = min((i + 1) * height / n, y + 1) - max(i * height / n, y)
                    across = min((j + 1) * width / n, x + 1) - max(j * width / n, x)
                    cells[i, j] += max(down, 0) * max(across, 0) * float(saliency[y, x])
    return cells * n * n / (height * width)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (8, 8), (3, 20), (17, 9), (16, 24)])
def test_area_average_is_the_overlap_of_pixels_and_cells(shape):
    saliency = np.random.default_rng(0).random(shape).astype(np.float32)
    np.testing.assert_allclose(boxes.area_average(saliency, 8), naive_average(saliency, 8), rtol=1e-12)


def test_area_average_equals_opencv_when_shrinking():
    cv2 = pytest.importorskip("cv2")
    saliency = np.random.default_rng(0).random((375, 500)).astype(np.float32)
    expected = cv2.resize(saliency, (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(boxes.area_average(saliency, 64), expected, atol=1e-6)  # OpenCV sums in float32


@pytest.mark.parametrize("name", ["max-excess", "max-mean"])
@pytest.mark.parametrize("shape", [(64, 64), (320, 128), (128, 640)])
def test_a_rectangle_of_ones_is_its_own_box(name, shape):
    # Edges lie on cell borders. The effective area is its own area, so k = 1 requires at least that of max-mean.
    height, width = shape
    saliency = rectangle(shape, height // 4, height * 5 // 8, width // 8, width // 2)
    box, fallback = solve(saliency, Objective(name, k=1.0))
    assert fallback is None
    np.testing.assert_array_equal(box, np.array([1 / 8, 1 / 4, 3 / 8, 3 / 8], np.float32))


def test_max_mean_respects_its_least_area():
    saliency = rectangle((64, 64), 30, 34, 30, 34)
    box, _ = solve(saliency, Objective("max-mean", min_area=0.25))
    assert box[2] * box[3] == pytest.approx(0.25, abs=1 / 64)
    assert iou(box, np.array([30, 30, 4, 4]) / 64) == pytest.approx(16 / 4096 / (box[2] * box[3]))  # contains it
    np.testing.assert_array_equal(solve(saliency, Objective("max-mean", min_area=1.0))[0], WHOLE)


def test_a_map_smaller_than_the_grid_is_not_blurred():
    saliency = np.array([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0]], np.float32)
    box, _ = solve(saliency, Objective())
    # Column 2 of 5 is 12.8 cells wide; cells covered partially count if they exceed tau * mean = .075.
    np.testing.assert_array_equal(box, np.array([25, 32, 14, 32], np.float32) / 64)


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_and_brightened_maps_give_mirrored_and_equal_boxes(seed):
    saliency = np.random.default_rng(seed).random((40, 56)).astype(np.float32) ** 3
    for objective in (Objective(), Objective("max-mean")):
        box, _ = solve(saliency, objective)
        mirrored, _ = solve(saliency[:, ::-1], objective)
        np.testing.assert_allclose(mirrored, [1 - box[0] - box[2], box[1], box[2], box[3]], atol=1e-7)
        np.testing.assert_array_equal(solve(saliency * 0.25, objective)[0], box)


@pytest.mark.parametrize("seed", range(20))
def test_every_box_lies_in_the_image(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 90, 2))
    objective = Objective(("max-excess", "max-mean")[seed % 2], tau=rng.uniform(0, 3), k=rng.uniform(0.1, 5))
    box, _ = solve(rng.random(shape).astype(np.float32) ** rng.integers(1, 20), objective)
    assert box.dtype == np.float32
    assert box.shape == (4,)
    assert (box[:2] >= 0).all()
    assert (box[2:] > 0).all()
    assert (box[:2] + box[2:] <= 1).all()


@pytest.mark.parametrize(
    "saliency",
    [
        np.zeros((30, 40)),
        np.ones((30, 40)),
        np.full((37, 41), 0.1),
        np.full((375, 500), 1e30),
        np.float32(0.5) + np.arange(1200).reshape(30, 40) % 3 * np.float32(6e-8),
        np.ones((1, 1)),
        np.full((9, 9), np.nan),
        np.where(np.eye(9) > 0, np.inf, 0),
        np.where(np.eye(9) > 0, np.nan, 0.5),
    ],
    ids=["zero", "one", "tenth", "huge", "rounding", "pixel", "nan", "inf", "some-nan"],
)
@pytest.mark.parametrize("name", ["max-excess", "max-mean"])
def test_a_flat_or_non_finite_map_gives_the_whole_image(name, saliency):
    box, fallback = solve(saliency.astype(np.float32), Objective(name))
    np.testing.assert_array_equal(box, WHOLE)
    assert fallback == "flat"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"name": "max-sum"}, "max-mean"),
        ({"tau": -0.1}, "tau is -0.1"),
        ({"tau": float("nan")}, "tau"),
        ({"tau": "mine"}, "tau is 'mine'; allowed: 0 to 100, or own"),
        ({"k": 0.0}, "k is 0.0"),
        ({"min_area": 0.0}, "min_area"),
        ({"min_area": 1.5}, "at most 1"),
        ({"grid": 1}, "grid is 1"),
        ({"grid": 512}, "2 to 256"),
    ],
)
def test_settings_out_of_range_are_refused(settings, word):
    with pytest.raises(InputError, match=word):
        Objective(**settings)


def test_equal_boxes_have_equal_objectives():
    assert Objective("max-mean", tau=0.5, k=3.0) == Objective("max-mean", k=3.0)
    assert Objective("max-mean", k=3.0, min_area=0.2) == Objective("max-mean", min_area=0.2)
    assert Objective(tau=0.5, k=3.0, min_area=0.2) == Objective(tau=0.5)


def test_a_detectors_own_tau_is_used_unless_another_is_given():
    assert Objective().suit(0.3) == Objective(tau=0.3)
    assert Objective(tau=0.5).suit(0.3) == Objective(tau=0.5)
    assert Objective("max-mean").suit(0.3) == Objective("max-mean")
    assert "tau" not in Objective().settings
    assert Objective(tau=0.5).settings["tau"] == 0.5
    assert Objective(tau=0.5).override(tau="own") == Objective()


def test_override_keeps_other_settings():
    mean = Objective("max-mean", min_area=0.2, grid=32)
    assert mean.override() == mean
    assert mean.override(name=None, k=3.0, grid=48) == Objective("max-mean", k=3.0, grid=48)
    assert mean.override(min_area=0.3) == Objective("max-mean", min_area=0.3, grid=32)
    assert mean.override(name="max-excess") == Objective(grid=32)
    assert Objective(tau=0.5).override(name="max-mean", k=1.0) == Objective("max-mean", k=1.0)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (
            {},
            {"min_area": 0.3},
            r"--min-area 0.3 .*max-excess.* --objective max-mean",
        ),
        ({}, {"k": 2.0}, r"--k 2 .*max-excess"),
        ({"name": "max-mean"}, {"tau": 0.5}, r"--tau 0.5 .*max-mean.* --objective max-excess"),
        ({"name": "max-mean"}, {"name": "max-excess", "k": 3.0}, r"--k 3 .*max-excess"),
        (
            {"name": "max-mean"},
            {"k": 3.0, "min_area": 0.2},
            r"--k 3 .*--min-area.*--min-area",
        ),
        ({}, {"tau": -1.0}, "tau is -1.0"),
    ],
)
def test_override_refuses_a_constant_without_effect(settings, changes, message):
    with pytest.raises(InputError, match=message):
        Objective(**settings).override(**changes)


def test_iou():
    a = np.array([[0, 0, 0.5, 0.5], [0, 0, 1, 1], [0, 0, 0.2, 0.2], [0, 0, 0, 0]])
    b = np.array([[0.25, 0.25, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.2, 0.2], [0, 0, 0, 0]])
    np.testing.assert_allclose(iou(a, b), [1 / 7, 1 / 4, 0, 0])
    np.testing.assert_allclose(iou(a[:, None], b).shape, (4, 4))
    assert iou(CENTRED, WHOLE) == pytest.approx(0.49)  # float32 boxes


@pytest.mark.parametrize("sliver", [(60 - 1e-7, 0, 1, 10), (0, 40 - 1e-9, 10, 1), (5, 5, 1e-6, 10)])
def test_a_box_that_seven_decimals_would_make_empty_is_refused(sliver):
    with pytest.raises(InputError, match="has no area inside its 60 x 40 image"):
        clip_boxes([(1, 1, 10, 10), sliver], 60, 40)


def test_clip_boxes():
    shares, clipped = clip_boxes([(10, 20, 30, 40), (0, 0, 100, 50)], 100, 80)
    np.testing.assert_allclose(shares, [[0.1, 0.25, 0.3, 0.5], [0, 0, 1, 0.625]], rtol=1e-6)
    assert shares.dtype == np.float32
    assert not clipped
    shares, clipped = clip_boxes([(-10, 70, 30, 40)], 100, 80)
    np.testing.assert_allclose(shares, [[0, 0.875, 0.2, 0.125]], rtol=1e-6)
    assert clipped
    shares, clipped = clip_boxes([(50, 0, 50.4, 80.2)], 100, 80)
    np.testing.assert_array_equal(shares, [[0.5, 0, 0.5, 1]])
    assert not clipped  # less than a pixel
    empty, clipped = clip_boxes((), 100, 80)
    assert empty.shape == (0, 4)
    assert not clipped


@pytest.mark.parametrize("box", [(200, 0, 10, 10), (10, 10, 0, 5), (10, 10, 5, -1), (0, 0, float("nan"), 5)])
def test_a_box_without_area_in_the_image_is_refused(box):
    with pytest.raises(InputError, match="100 x 80 image"):
        clip_boxes([(1, 1, 2, 2), box], 100, 80)


def test_importing_boxes_loads_no_heavy_library():
    code = (
        "import sys, fgdata.boxes, fgdata.saliency; print([m for m in ('cv2', 'numba', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
