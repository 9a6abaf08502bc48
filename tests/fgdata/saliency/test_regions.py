"""Labels, connected regions and their measurements against plain loops."""

import cv2
import numpy as np
import pytest

from fgdata.saliency import regions
from fgdata.saliency.superpixels import to_lab


def blocks(height, width):
    """Coloured blocks with noise: (height, width, 3) uint8."""
    rng = np.random.default_rng(0)
    colours = cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.clip(colours + rng.normal(0, 12, colours.shape), 0, 255).astype(np.uint8)


def naive_slic(lab, step, compactness, iterations):
    """SLIC with a list of centres and a float64 distance for every pixel of every window."""
    _, height, width = lab.shape
    down, across = max(1, height // step), max(1, width // step)
    centres = []
    for i in range(down):
        for j in range(across):
            y, x = (i + 0.5) * height / down, (j + 0.5) * width / across
            centres.append([*lab[:, int(y), int(x)], y, x])
    labels = np.full((height, width), -1)
    for _ in range(iterations):
        nearest, before = np.full((height, width), np.inf), labels.copy()
        for k, (light, a, b, cy, cx) in enumerate(centres):
            for y in range(max(0, int(cy - step)), min(height, int(cy + step))):
                for x in range(max(0, int(cx - step)), min(width, int(cx + step))):
                    colour = ((lab[:, y, x] - np.array([light, a, b])) ** 2).sum()
                    distance = colour + ((y - cy) ** 2 + (x - cx) ** 2) * (compactness / step) ** 2
                    if distance < nearest[y, x]:
                        nearest[y, x], labels[y, x] = distance, k
        if (labels == before).all():
            break
        for k in range(len(centres)):
            ys, xs = np.nonzero(labels == k)
            if len(ys):
                centres[k] = [*lab[:, ys, xs].mean(1), ys.mean(), xs.mean()]
    return labels


@pytest.mark.parametrize(("height", "width", "step"), [(30, 40, 8), (25, 9, 12), (7, 50, 10)])
def test_slic_is_its_definition(height, width, step):
    lab = to_lab(blocks(height, width) / np.float32(255))
    actual = regions.slic(lab, step, 20.0, 10)
    expected = naive_slic(lab.transpose(2, 0, 1).astype(np.float64), step, 20.0, 10)
    # float32 may resolve a tie between two centres differently from float64.
    assert (actual == expected).mean() > 0.995


@pytest.mark.parametrize("seed", range(3))
def test_joined_regions_are_connected_and_not_small(seed):
    labels = cv2.resize(np.random.default_rng(seed).integers(0, 4, (12, 15), np.uint8), (60, 48), interpolation=0)
    labels[np.random.default_rng(seed).random(labels.shape) < 0.1] = 7
    joined = regions.join(labels.astype(np.int32), 9)
    n = joined.max() + 1
    assert (np.unique(joined) == np.arange(n)).all()
    for k in range(n):
        assert cv2.connectedComponents((joined == k).astype(np.uint8), connectivity=4)[0] == 2  # background and one
        assert k == 0 or (joined == k).sum() > 9  # only the first region has none to merge into
    whole = regions.join(np.zeros((5, 6), np.int32), 100)
    assert (whole == 0).all()


def naive_join(labels, small):
    """Floods one region after the other, in scan order."""
    height, width = labels.shape
    joined, count = np.full((height, width), -1), 0
    for y0, x0 in np.ndindex(height, width):
        if joined[y0, x0] >= 0:
            continue
        neighbour = joined[y0 - 1, x0] if y0 else joined[y0, x0 - 1] if x0 else 0
        joined[y0, x0], region = count, [(y0, x0)]
        for y, x in region:
            for v, u in ((y, x - 1), (y - 1, x), (y, x + 1), (y + 1, x)):
                if 0 <= v < height and 0 <= u < width and joined[v, u] < 0 and labels[v, u] == labels[y, x]:
                    joined[v, u] = count
                    region.append((v, u))
        if len(region) <= small and count:
            for y, x in region:
                joined[y, x] = neighbour
        else:
            count += 1
    return joined


def random_labels(shape, kinds, seed):
    """Blocks of labels with single pixels of others between them."""
    rng = np.random.default_rng(seed)
    labels = cv2.resize(rng.integers(0, kinds, (7, 9), np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    labels[rng.random(labels.shape) < 0.15] = kinds
    return labels.astype(np.int32)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (45, 61)])
@pytest.mark.parametrize("small", [0, 5, 40])
def test_regions_are_those_of_flooding(shape, small):
    for seed in range(4):
        labels = random_labels(shape, 3, seed)
        actual = regions.join(labels, small)
        assert actual.dtype == np.int32
        np.testing.assert_array_equal(actual, naive_join(labels, small))


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (45, 61)])
@pytest.mark.parametrize("border", [1, 3, 50])
def test_measurements_are_those_of_numpy(shape, border):
    for seed in range(3):
        labels = np.unique(random_labels(shape, 6, seed), return_inverse=True)[1].reshape(shape).astype(np.int32)
        rgb, n = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8), int(labels.max()) + 1
        size, sums, touches, boundary = regions.measure(labels, rgb, n, border)
        flat = labels.ravel()
        np.testing.assert_array_equal(size, np.bincount(flat, minlength=n))
        planes = [*rgb.reshape(-1, 3).T, *np.divmod(np.arange(flat.size), shape[1])]
        np.testing.assert_array_equal(sums, np.stack([np.bincount(flat, plane, n) for plane in planes], 1))
        expected = np.eye(n, dtype=bool)
        expected[labels[:, :-1], labels[:, 1:]] = True
        expected[labels[:-1], labels[1:]] = True
        np.testing.assert_array_equal(touches, expected | expected.T)
        bands = (labels[:border], labels[-border:], labels[:, :border], labels[:, -border:])
        outer = np.unique(np.concatenate([band.ravel() for band in bands]))
        np.testing.assert_array_equal(np.flatnonzero(boundary), outer)


def test_sums_of_lab_are_exact_in_any_order():
    """`slic` adds and subtracts pixels in another order than a sum over the image; both must give the same bits."""
    colours = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    colours[:16, :16] = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    lab = to_lab(colours / np.float32(255)).astype(np.float64)
    assert np.abs(lab).max() < 2**8
    np.testing.assert_array_equal(lab * 2**31, np.round(lab * 2**31))
