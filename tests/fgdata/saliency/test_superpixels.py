"""The superpixel graph against plain loops."""

import cv2
import numpy as np
import pytest
from scipy.sparse.csgraph import dijkstra

from fgdata.boxes.objective import Objective, solve
from fgdata.building.log import Log
from fgdata.building.sample import Decoded, find_box
from fgdata.saliency import detector, superpixels
from fgdata.shards.maps import shrink_map


def patches(height, width, seed=0, noise=12):
    """Coloured discs on a gradient: (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 120 / height, columns * 120 / width, 60 + 0 * rows], 2)
    for _ in range(5):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.1, 0.3) * min(height, width)
        image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def test_graph_of_an_image():
    image = patches(120, 160)
    graph = superpixels.segment(image)
    n = len(graph)
    assert 150 < n < 260  # about 200, whatever the size
    assert graph.labels.shape == (120, 160)
    lab = superpixels.to_lab(image / np.float32(255))
    for k in range(0, n, 17):
        ys, xs = np.nonzero(graph.labels == k)
        np.testing.assert_allclose(graph.position[k], [ys.mean() / 120, xs.mean() / 160], rtol=1e-12)
        mean = image[ys, xs].mean(0)
        expected = superpixels.to_lab((mean / 255).astype(np.float32)[None, None])[0, 0]
        np.testing.assert_allclose(graph.colour[k], expected, atol=1e-4)
        assert (
            np.abs(graph.colour[k] - lab[ys, xs].mean(0)).max() < 15
        )  # the Lab of the mean colour, not the mean of Lab
    touches = np.eye(n, dtype=bool)
    for y in range(120):
        for x in range(160):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v < 120 and u < 160:
                    touches[graph.labels[y, x], graph.labels[v, u]] = touches[
                        graph.labels[v, u], graph.labels[y, x]
                    ] = 1
    np.testing.assert_array_equal(graph.touches, touches)
    near = (touches.astype(int) @ touches.astype(int)) > 0
    np.testing.assert_array_equal(superpixels.two_ring(touches), near)
    border = round(superpixels.BORDER * 160 / superpixels.LONG_SIDE)
    inner = np.zeros((120, 160), bool)
    inner[border:-border, border:-border] = True
    np.testing.assert_array_equal(np.flatnonzero(graph.boundary), np.unique(graph.labels[~inner]))


def encode_png(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def test_detectors_of_one_image_share_its_superpixels(monkeypatch):
    """Their maps and boxes equal those of separate segmentations."""
    image, names, segmented = patches(60, 80), ("rbd", "rbd-centred", "gs"), []
    segment = superpixels.segment
    monkeypatch.setattr(superpixels, "segment", lambda rgb: segmented.append(1) or segment(rgb))
    decoded = Decoded(encode_png(image), "image.png", Log())
    for name in names:
        expected = shrink_map(detector(name).saliency_map(image))
        actual = find_box(name, decoded, Objective(tau=0.6), keep_map=True, log=Log())
        assert actual.stored_map is not None
        np.testing.assert_array_equal(actual.stored_map[0], expected[0])
        np.testing.assert_array_equal(actual.box, solve(detector(name).saliency_map(image), Objective(tau=0.6))[0])
    shared = Decoded(encode_png(image), "image.png", Log())
    segmented.clear()
    for name in names:
        find_box(name, shared, Objective(), keep_map=False, log=Log())
    assert len(segmented) == 1


def test_pairwise_distances():
    points = np.random.default_rng(0).random((9, 3))
    expected = [[np.linalg.norm(p - q) for q in points] for p in points]
    np.testing.assert_allclose(superpixels.pairwise(points), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_paths_from_several_sources_against_scipy(seed):
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random((60, 60)) < 0.06, rng.random((60, 60)), np.inf)
    weights = np.minimum(weights, weights.T)
    weights[0], weights[:, 0] = np.inf, np.inf  # no path leads to it
    length = np.full(60, np.inf)
    length[[5, 17, 33]] = 0
    graph = np.where(np.isinf(weights), 0, weights)
    expected = dijkstra(graph, directed=False, indices=[5, 17, 33]).min(0)
    np.testing.assert_allclose(superpixels.from_sources(weights, length), expected, atol=1e-12)


@pytest.mark.parametrize("limit", [0.4, 0.9, 100.0])
def test_geodesic_distances_against_scipy(limit):
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((60, 60)) < 0.1, rng.random((60, 60)), np.inf)
    weights = np.minimum(weights, weights.T)
    actual = superpixels.geodesic(weights, limit)
    expected = dijkstra(np.where(np.isinf(weights), 0, weights), directed=False)
    np.testing.assert_allclose(actual[expected <= limit], expected[expected <= limit], atol=1e-12)
    assert (actual[expected > limit] >= expected[expected > limit] - 1e-12).all()


def test_an_edge_of_weight_zero_connects():
    weights = np.full((3, 3), np.inf)
    weights[0, 1] = weights[1, 0] = 0.0
    weights[1, 2] = weights[2, 1] = 2.0
    np.testing.assert_array_equal(superpixels.geodesic(weights, 10.0), [[0, 0, 2], [0, 0, 2], [2, 2, 0]])


def naive_outer_edges(grey, deep, wide):
    """The same with whole arrays: squared gradients, thinned to ridges, above four times their mean."""
    dx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE)
    squared = dx * dx + dy * dy
    around = np.pad(squared, 1)
    across = (around[1:-1, :-2] <= squared) & (squared > around[1:-1, 2:]) & (np.abs(dx) >= np.abs(dy))
    down = (around[:-2, 1:-1] <= squared) & (squared > around[2:, 1:-1]) & (np.abs(dy) >= np.abs(dx))
    edges = (squared > 4 * squared.mean(dtype=np.float64)) & (across | down)
    rows, columns = edges.sum(1), edges.sum(0)
    return [rows[:deep], rows[::-1][:deep]], [columns[:wide], columns[::-1][:wide]]


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (9, 5), (130, 90)])
@pytest.mark.parametrize("step", [1, 60])
def test_outer_edges_are_those_of_whole_arrays(shape, step):
    """Steps of 60 grey levels give many equal gradients, which decide how an edge is thinned."""
    grey = (np.random.default_rng(0).integers(0, 256, shape) // step * step).astype(np.uint8)
    dx, dy = (cv2.Sobel(grey, cv2.CV_16S, *axis, borderType=cv2.BORDER_REPLICATE) for axis in ((1, 0), (0, 1)))
    deep, wide = min(30, shape[0] // 4), min(30, shape[1] // 4)
    for actual, expected in zip(superpixels.outer_edges(dx, dy, deep, wide), naive_outer_edges(grey, deep, wide)):
        np.testing.assert_array_equal(actual, expected)


def test_an_artificial_frame_is_cropped_and_painted_zero():
    image = cv2.resize(patches(60, 80, noise=0), (320, 240))
    assert superpixels.frame_widths(image) == (0, 0, 0, 0)
    framed = np.full((260, 348, 3), 255, np.uint8)
    framed[12:252, 16:336] = image
    top, bottom, left, right = superpixels.frame_widths(framed)
    # An edge lies between two pixels; its ridge may be on either.
    np.testing.assert_allclose([top, bottom, left, right], [12, 8, 16, 12], atol=1)
    graph = superpixels.segment(framed)
    painted = graph.paint(np.ones(len(graph)), 260, 348)
    assert painted.shape == (260, 348)
    assert painted[top : 260 - bottom, left : 348 - right].min() == 1
    assert painted.sum() == (260 - top - bottom) * (348 - left - right)


def test_a_side_without_a_frame_gets_the_largest_width_of_the_others():
    framed = np.full((240, 320, 3), 90, np.uint8)
    framed[:10] = 255
    top, bottom, left, right = superpixels.frame_widths(framed)
    assert 9 <= top <= 11
    assert bottom == left == right == top
