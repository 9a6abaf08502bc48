"""Robust background detection: Zhu, Liang, Wei and Sun, "Saliency Optimization from Robust Background Detection",
CVPR 2014.

Written from the published algorithm and the constants of the authors' code; symbols as in the paper:

    BndCon(p) = Len_bnd(p) / sqrt(Area(p))           eq. 3: share of p's geodesic neighbourhood on the image boundary
    w_bg = 1 - exp(-BndCon^2 / 2)                     eq. 4
    wCtr(p) = sum_i d_app(p, i) w_spa(p, i) w_bg(i)   eq. 6: contrast, weighted by background probability
    min_s sum w_bg s^2 + sum w_fg (s - 1)^2 + sum w_ij (s_i - s_j)^2      eq. 9: a linear system
"""

import numpy as np

from ..compiled import compiled
from . import superpixels

POSITION_SIGMA = 0.4
"""Sigma of w_spa, as a share of the image's sides."""
BOUNDARY_SIGMA = 1.0
"""Sigma that turns BndCon into w_bg."""
CERTAIN, CERTAIN_WEIGHT = 3.0, 1000.0
"""A superpixel whose BndCon exceeds CERTAIN gets the background weight CERTAIN_WEIGHT, whatever its contrast."""
BACKGROUND_WEIGHT = 5.0
"""Weight of eq. 9's background term relative to its foreground term."""
TOUCHING_WEIGHT = 0.1
"""mu, added to w_ij of adjacent superpixels: smooths cluttered regions."""
CUT = 3.0
"""Every Gaussian weight is zero beyond this many sigmas."""

TAU = 0.4
"""Of max-excess; chosen on the even-numbered images of cub50 (docs/saliency.md)."""

SETTINGS = superpixels.SETTINGS | {
    "position_sigma": POSITION_SIGMA,
    "boundary_sigma": BOUNDARY_SIGMA,
    "certain": [CERTAIN, CERTAIN_WEIGHT],
    "background_weight": BACKGROUND_WEIGHT,
    "touching_weight": TOUCHING_WEIGHT,
    "cut": CUT,
}

USES_SUPERPIXELS = True


def saliency_map(rgb: np.ndarray, graph: superpixels.Superpixels | None = None) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]; zeros for an image of one superpixel or without contrast.

    graph: the image's superpixels; computed if None.
    """
    return superpixels.draw(saliency, rgb, graph)


def saliency(graph: superpixels.Superpixels) -> np.ndarray:
    """n superpixels -> (n,) in [0, 1]."""
    distance = superpixels.pairwise(graph.colour)
    return optimise(*cues(graph, distance)) if distance.any() else np.zeros(len(graph))


def cues(graph: superpixels.Superpixels, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n superpixels, (n, n) colour distances -> w_bg (n,), unscaled wCtr (n,), w_ij (n, n)."""
    near = superpixels.two_ring(graph.touches)
    clip, geodesic_sigma, smooth_sigma = sigmas(distance, graph.touches, near)
    both_boundary = graph.boundary[:, None] & graph.boundary

    edges = np.where(graph.touches | both_boundary, np.maximum(distance - clip, 0), np.inf)
    reach = gaussian(superpixels.geodesic(edges, CUT * geodesic_sigma), geodesic_sigma)
    connectivity = reach[:, graph.boundary].sum(1) / np.sqrt(reach.sum(1))
    probability = 1 - np.exp(-(connectivity**2) / (2 * BOUNDARY_SIGMA**2))
    background = np.where(connectivity > CERTAIN, CERTAIN_WEIGHT, probability)

    nearby = gaussian(superpixels.pairwise(graph.position), POSITION_SIGMA)
    contrast = (distance * nearby * probability).sum(1)
    smooth = np.where(near | both_boundary, gaussian(distance, smooth_sigma), 0) + TOUCHING_WEIGHT * graph.touches
    return background, contrast, smooth


def optimise(background: np.ndarray, contrast: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """w_bg (n,), a foreground cue (n,) of any scale, w_ij (n, n) -> s of eq. 9, (n,) scaled to [0, 1]."""
    foreground = stretch(contrast)
    foreground[foreground < otsu(foreground)] = 0
    system = np.diag(smooth.sum(1) + BACKGROUND_WEIGHT * background + foreground) - smooth
    return np.clip(stretch(_solve(system, foreground)), 0, 1)


def sigmas(distance: np.ndarray, touches: np.ndarray, near: np.ndarray) -> tuple[float, float, float]:
    """(n, n) colour distances, neighbours, two-ring -> clip, sigma of the geodesic, sigma of the smoothness term."""
    others = ~np.eye(len(distance), dtype=bool)
    first = np.where(touches & others, distance, np.inf).min(1).mean()
    second = np.where(near & others, distance, np.inf).min(1).mean()
    ordered = np.sort(distance[touches & others])
    top = ordered[-max(1, round(0.01 * len(ordered))) :].mean()
    return second, max(5.0, min(10.0, 3 * first, top / 10)), min(3 * first, 0.2 * top, 20.0)


def gaussian(distance: np.ndarray, sigma: float) -> np.ndarray:
    """exp(-d^2 / 2 sigma^2), zero beyond CUT sigmas. With sigma 0: 1 where d is 0, else 0."""
    if sigma == 0:
        return (distance == 0).astype(np.float64)
    return np.where(distance > CUT * sigma, 0, np.exp(-(distance**2) / (2 * sigma**2)))


def stretch(values: np.ndarray) -> np.ndarray:
    """(n,) -> (n,) scaled from minimum 0 to maximum 1; zeros if all are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def otsu(values: np.ndarray) -> float:
    """(n,) in [0, 1] -> Otsu's threshold on 256 levels; the mean of several equally good ones."""
    share = np.bincount(np.floor(values * 255 + 0.5).astype(int), minlength=256) / len(values)
    below, mean = share.cumsum(), (share * np.arange(256)).cumsum()
    weight = below * (1 - below)
    between = np.divide((mean[-1] * below - mean) ** 2, weight, out=np.zeros(256), where=weight > 1e-12)
    return float(np.flatnonzero(between == between.max()).mean()) / 255


@compiled()
def _solve(system, right):  # pragma: no cover (compiled)
    """(n, n) symmetric positive definite, (n,) -> (n,) by elimination without pivoting.

    BLAS is avoided: for about 200 unknowns its threads cost a hundred times the solution and change its last digits.
    """
    n = len(right)
    rows, solution = system.copy(), right.copy()
    for k in range(n):
        pivot = rows[k]
        for i in range(k + 1, n):
            factor = rows[i, k] / pivot[k]
            if factor != 0.0:
                row = rows[i]
                for j in range(k + 1, n):
                    row[j] -= factor * pivot[j]
                solution[i] -= factor * solution[k]
    for k in range(n - 1, -1, -1):
        total = solution[k]
        for j in range(k + 1, n):
            total -= rows[k, j] * solution[j]
        solution[k] = total / rows[k, k]
    return solution
