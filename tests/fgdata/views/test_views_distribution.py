"""Our draws compared with torchvision's, operation by operation, on thousands of each.

Seeds are fixed, so a test that passes once always passes. By chance, one test in 1,000 has a p-value below 0.001.
"""

import itertools
import sys

import numpy as np
import pytest
import torch
from paths import TOOLS
from scipy import stats
from torchvision import transforms as v1
from torchvision.transforms import v2

from fgdata.views import ViewSpec, draws, geometry

N = 4000
STILL = ViewSpec(size=64, flip=0, jitter=0, grayscale=0, blur=0)
PIXEL = torch.tensor([[[200]], [[100]], [[50]]], dtype=torch.uint8)


def plan(spec: ViewSpec, size: tuple[int, int] = (100, 100)) -> geometry.Geometry:
    boxes = np.tile(np.array([0.2, 0.2, 0.5, 0.5], np.float32), (N, 1))
    return geometry.compute(spec, np.tile(size, (N, 1)), boxes, np.arange(N), seed=11, epoch=2, batch=0, view=0)


def alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return stats.ks_2samp(ours, theirs).pvalue > 0.001


def as_often(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two samples of booleans are compatible with one probability."""
    counts = [[np.sum(ours), np.sum(~ours)], [np.sum(theirs), np.sum(~theirs)]]
    return stats.chi2_contingency(counts).pvalue > 0.001


def changes(transform: torch.nn.Module, picture: torch.Tensor = PIXEL) -> np.ndarray:
    """Which of N calls of a random transform change the picture."""
    torch.manual_seed(1)
    return np.array([not torch.equal(transform(picture), picture) for _ in range(N)])


@pytest.fixture(scope="module")
def jitters() -> list:
    """torchvision's (order, brightness, contrast, saturation, hue), N times."""
    torch.manual_seed(0)
    ranges = (0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1)
    return [v1.ColorJitter.get_params(*map(list, ranges)) for _ in range(N)]


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_factors(name: str, jitters: list):
    off = {other: 0.0 for other in ("brightness", "contrast", "saturation", "hue") if other != name}
    a = plan(ViewSpec(flip=0, jitter=1, grayscale=0, blur=0, **off)).colour.astype(float)
    if name == "hue":  # the angle by which the (I, Q) plane is turned
        turn = geometry._YIQ @ a @ geometry._RGB
        ours = np.arctan2(turn[:, 1, 2], turn[:, 1, 1]) / (2 * np.pi)
    elif name == "saturation":  # s on the two directions off the grey axis, 1 on it
        ours = (np.trace(a, axis1=1, axis2=2) - 1) / 2
    else:
        ours = a[:, 0, 0]
    column = ["brightness", "contrast", "saturation", "hue"].index(name) + 1
    assert alike(ours, np.array([found[column] for found in jitters]))


def test_jitter_order(jitters: list):
    u = draws.uniforms(11, 2, np.arange(N), 0, draws.COUNT)
    ours = [tuple(order) for order in np.argsort(u[:, draws.ORDER], 1)]
    theirs = [tuple(found[0].tolist()) for found in jitters]
    orders = list(itertools.permutations(range(4)))
    counts = [[found.count(order) for order in orders] for found in (ours, theirs)]
    assert stats.chi2_contingency(counts).pvalue > 0.001
    assert stats.chisquare(counts[0]).pvalue > 0.001


def test_probabilities_of_jitter_grey_blur_and_flip():
    p = plan(ViewSpec())
    grey = np.ptp(p.colour, axis=1).max(1) < 1e-6
    touched = (np.abs(p.colour - np.eye(3)) > 1e-6).any((1, 2))
    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    assert as_often(touched[~grey], changes(v2.RandomApply([jitter], 0.8)))
    assert as_often(grey, changes(v2.RandomGrayscale(0.2)))
    assert as_often(p.flip, changes(v2.RandomHorizontalFlip(), torch.arange(3).view(3, 1, 1) + torch.arange(2)))
    spot = torch.zeros(3, 5, 5)
    spot[:, 2, 2] = 1
    assert as_often(p.sigma > 0, changes(v2.RandomApply([v2.GaussianBlur(5, (1.0, 2.0))], 0.5), spot))


def test_blur_sigma():
    torch.manual_seed(0)
    theirs = np.array([v1.GaussianBlur.get_params(0.1, 2.0) for _ in range(N)])
    sigma = plan(ViewSpec()).sigma
    assert alike(sigma[sigma > 0], theirs)


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (256, 256), (1000, 180)])  # at 1000 x 180 many attempts fail
def test_crop_area_aspect_and_place(size: tuple[int, int]):
    torch.manual_seed(0)
    width, height = size
    image, crop = torch.empty(3, height, width, device="meta"), v2.RandomResizedCrop(64, (0.2, 1.0))
    found = [crop.make_params([image]) for _ in range(N)]
    theirs = np.array([[f["left"], f["top"], f["width"], f["height"]] for f in found], float)
    ours = plan(STILL, size).source.astype(float)
    for value in (lambda r: r[:, 2] * r[:, 3], lambda r: r[:, 2] / r[:, 3], lambda r: r[:, 0], lambda r: r[:, 1]):
        assert alike(value(ours), value(theirs))


def test_operations_are_independent_of_one_another():
    p = plan(ViewSpec())
    yes = {
        "flip": p.flip,
        "blur": p.sigma > 0,
        "grey": np.ptp(p.colour, axis=1).max(1) < 1e-6,
        "large": p.source[:, 2] * p.source[:, 3] > 6000,
    }
    for one, two in itertools.combinations(yes.values(), 2):
        counts = [[np.sum(one & two), np.sum(one & ~two)], [np.sum(~one & two), np.sum(~one & ~two)]]
        assert stats.chi2_contingency(counts).pvalue > 0.001


# Colour, ours against torchvision's, on photographs


def test_colour_differs_from_torchvisions_as_documented(real_data):
    """docs/views.md has the figures, which tools/bench.py colour writes; these are the bounds it states."""
    sys.path.insert(0, str(TOOLS))
    try:
        from bench_colour import differences, photographs
    finally:
        sys.path.remove(str(TOOLS))
    found = {row["operation"]: row["mean"] for row in differences(photographs(real_data / "cub50-fullsize", 6), 10)}
    assert (
        max(found["brightness"], found["contrast"], found["saturation"]) < 1
    )  # torchvision rounds to 8 bits after each
    assert found["all but hue"] < 2  # and clamp after each
    assert 1 < found["hue"] < 5  # linear in YIQ against HSV
    assert found["all four"] < 6
