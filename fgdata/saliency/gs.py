"""Geodesic saliency: Wei, Wen, Zhu and Sun, "Geodesic Saliency Using Background Priors", ECCV 2012.

The background is connected to the image's boundary by paths of small colour steps; saliency is the shortest such path:

    S(p) = min over p_1 = p, ..., p_n, B of sum_i d(p_i, p_i+1),  d = max(0, colour difference - clip)     eqs. 1, 2

B is a virtual node for the boundary. An object that the border cuts off must not count as background, so a
boundary superpixel that differs from the rest of the boundary is not linked to B: the paper's one-dimensional saliency
of the boundary, with the contrast of Goferman et al., CVPR 2010. The constants are those of the superpixel version that
the authors of RBD published with their code, as is one step: all boundary superpixels are linked to each other. The
superpixels are RBD's.
"""

import numpy as np

from . import superpixels
from .rbd import sigmas

NEAREST = 5
"""Number of most similar boundary superpixels that a contrast averages over, per 200 superpixels of the image."""
POSITION_WEIGHT = 3.0
"""Contrast decreases with distance: colour / (1 + POSITION_WEIGHT position)."""
SALIENT = 0.5
"""A boundary superpixel whose contrast, scaled to [0, 1] over the boundary, exceeds this is not background."""
LEAST_SPREAD = 1.0
"""If the contrasts of the boundary differ by no more than this (CIELAB units), all of it is background."""
TOP = 0.02
"""The map is divided by the value at this share from the top, and clipped to 1."""

VERSION = 2
"""Version of the algorithm: 1 did not link the boundary superpixels."""

TAU = 0.8
"""Of max-excess; chosen on the even-numbered images of cub50 (docs/saliency.md)."""

SETTINGS = superpixels.SETTINGS | {
    "version": VERSION,
    "nearest": NEAREST,
    "position_weight": POSITION_WEIGHT,
    "salient": SALIENT,
    "least_spread": LEAST_SPREAD,
    "top": TOP,
}

USES_SUPERPIXELS = True


def saliency_map(rgb: np.ndarray, graph: superpixels.Superpixels | None = None) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]; zeros for an image of one superpixel or without contrast.

    graph: the image's superpixels; computed if None.
    """
    return np.clip(superpixels.draw(saliency, rgb, graph), 0, 1)


def saliency(graph: superpixels.Superpixels) -> np.ndarray:
    """n superpixels -> (n,) in [0, 1]."""
    n = len(graph)
    distance = superpixels.pairwise(graph.colour)
    if not distance.any():
        return np.zeros(n)
    clip, _, _ = sigmas(distance, graph.touches, superpixels.two_ring(graph.touches))
    both_boundary = graph.boundary[:, None] & graph.boundary
    edges = np.where(graph.touches | both_boundary, np.maximum(distance - clip, 0), np.inf)
    to_background = np.full(n, np.inf)  # the weights of the edges to B
    to_background[np.flatnonzero(graph.boundary)[~salient_boundary(graph, distance)]] = 0
    length = superpixels.from_sources(edges, to_background)
    top = np.sort(length)[-max(1, round(TOP * n))]
    return np.minimum(length / top, 1) if top > 0 else np.zeros(n)


def salient_boundary(graph: superpixels.Superpixels, distance: np.ndarray) -> np.ndarray:
    """n superpixels, (n, n) colour distances -> (b,) bool for the b on the boundary: True if not background."""
    edge = np.flatnonzero(graph.boundary)
    position = superpixels.pairwise(graph.position[edge])
    contrast = distance[np.ix_(edge, edge)] / (1 + POSITION_WEIGHT * position)
    np.fill_diagonal(contrast, np.inf)
    count = min(max(1, round(len(graph) / 200 * NEAREST)), len(edge) - 1)
    if count < 1:
        return np.zeros(len(edge), bool)
    mean = np.sort(contrast, 1)[:, :count].mean(1)
    low, high = mean.min(), mean.max()
    if high - low <= LEAST_SPREAD:
        return np.zeros(len(edge), bool)
    return (mean - low) / (high - low) > SALIENT
