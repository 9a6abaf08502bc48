"""Geodesic saliency against plain loops and the authors' maps; VSF against OpenCV."""

import cv2
import numpy as np
import pytest

from fgdata.images import decode
from fgdata.saliency import gs, superpixels, vsf


def naive_gs(colour, position, touches, boundary):
    """The published steps, superpixel by superpixel; shortest paths by relaxing every edge until nothing changes."""
    n = len(colour)

    def apart(points, i, j):
        return np.sqrt(((points[i] - points[j]) ** 2).sum())

    ring = [[j for j in range(n) if touches[i, j] and j != i] for i in range(n)]
    second = [{k for j in ring[i] for k in ring[j]} | set(ring[i]) - {i} for i in range(n)]
    clip = np.mean([min(apart(colour, i, j) for j in second[i] - {i}) for i in range(n)])
    edge = [i for i in range(n) if boundary[i]]
    contrast = []
    for i in edge:
        values = sorted(apart(colour, i, j) / (1 + 3 * apart(position, i, j)) for j in edge if j != i)
        contrast.append(np.mean(values[: max(1, round(n / 200 * 5))]))
    low, high = min(contrast), max(contrast)
    kept = [i for i, value in zip(edge, contrast) if high - low <= 1 or (value - low) / (high - low) <= 0.5]
    far = [0.0 if i in kept else np.inf for i in range(n)]
    changed = True
    while changed:
        changed = False
        for i in range(n):
            for j in {*ring[i]} | ({*edge} if boundary[i] else set()):
                through = far[j] + max(0, apart(colour, i, j) - clip)
                if through < far[i]:
                    far[i], changed = through, True
    top = sorted(far)[-max(1, round(0.02 * n))]
    return np.minimum(np.array(far) / top, 1), len(edge) - len(kept)


@pytest.mark.parametrize(("seed", "cut_off"), [(0, False), (1, False), (2, True), (3, True)])
def test_gs_is_its_definition_on_a_grid_of_superpixels(seed, cut_off):
    rng = np.random.default_rng(seed)
    rows, columns = np.divmod(np.arange(60), 10)
    position = np.stack([(rows + 0.5) / 6, (columns + 0.5) / 10], 1)
    colour = rng.normal((50, 0, 0), 3, (60, 3))
    colour[(abs(rows - (5 if cut_off else 2.5)) < 2) & (abs(columns - 4) < 1.5)] += (10, 40, 20)
    touches = (abs(rows[:, None] - rows) + abs(columns[:, None] - columns)) <= 1
    boundary = (rows == 0) | (rows == 5) | (columns == 0) | (columns == 9)
    graph = superpixels.Superpixels(np.zeros((1, 1), np.int32), (0, 0, 0, 0), colour, position, touches, boundary)
    expected, dropped = naive_gs(colour, position, touches, boundary)
    assert dropped or not cut_off
    np.testing.assert_allclose(gs.saliency(graph), expected, atol=1e-12)


@pytest.mark.parametrize(("prefix", "correlation"), [("msra_", 0.98), ("pascals_", 0.85)])
def test_gs_is_as_good_as_the_authors_own_maps(real_data, prefix, correlation):
    """The pascals_ maps were made with other superpixels: a lower correlation is expected, but no larger error."""
    folder, scores = real_data / "saliency-reference", []
    for file in sorted((folder / "images").glob(f"{prefix}*.jpg")):
        actual = gs.saliency_map(decode(file.read_bytes(), file.name)).astype(np.float64)
        (mask,) = (folder / "masks").glob(f"{file.stem}.*")
        others = (folder / "gs" / f"{file.stem}.png", mask)
        authors, mask = (decode(other.read_bytes(), other.name)[..., 0] for other in others)
        authors, mask = authors / 255, mask > 127
        likeness = np.corrcoef(actual.ravel(), authors.ravel())[0, 1]
        scores.append((likeness, np.abs(actual - mask).mean(), np.abs(authors - mask).mean()))
    likeness, error, theirs = np.mean(scores, axis=0)
    print(f"{prefix}: n {len(scores)}, correlation {likeness:.4f}, error {error:.4f}, the authors' {theirs:.4f}")
    assert likeness >= correlation
    assert abs(error - theirs) <= 0.01


def test_vsf_is_opencvs_on_a_small_image():
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (160, 120))
    _, theirs = cv2.saliency.StaticSaliencyFineGrained.create().computeSaliency(image[..., ::-1].copy())
    np.testing.assert_array_equal(vsf.saliency_map(image), theirs)
    large = vsf.saliency_map(cv2.resize(image, (1600, 1200), interpolation=cv2.INTER_NEAREST))
    small = cv2.resize(large, (160, 120), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), vsf.saliency_map(image).ravel())[0, 1] > 0.5
