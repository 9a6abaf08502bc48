"""Geodesic saliency: Wei, Wen, Zhu and Sun, "Geodesic Saliency Using Background Priors", ECCV 2012.

Background is what the image's boundary reaches by a path of small colour steps; saliency is the length of that path:

    S(p) = min over p_1 = p, ..., p_n, B of sum_i d(p_i, p_i+1),  d = max(0, colour difference - clip)     eqs. 1, 2

B stands for the boundary. An object that is cut off by the border would be taken for background, so a boundary
superpixel that differs from the rest of the boundary is not joined to B: the paper's one-dimensional saliency of the
boundary, with the contrast of Goferman et al., CVPR 2010. Constants are those of the superpixel version which the
authors of RBD published beside it; the superpixels are RBD's.
"""

import numpy as np

from . import superpixels
from .rbd import sigmas

NEAREST = 5
"""The contrast of a boundary superpixel is with so many of the most alike others, for every 200 in the image."""
POSITION_WEIGHT = 3.0
"""Contrast falls with distance along the boundary: colour / (1 + POSITION_WEIGHT position)."""
SALIENT = 0.5
"""A boundary superpixel of more than this contrast, scaled to [0, 1] over the boundary, is not background."""
LEAST_SPREAD = 1.0
"""All of the boundary is background when its contrasts differ by less (CIELAB units)."""
TOP = 0.02
"""The map is scaled so that the superpixel at this share from the top gets 1, and cut there."""

SETTINGS = superpixels.SETTINGS | {
    "nearest": NEAREST,
    "position_weight": POSITION_WEIGHT,
    "salient": SALIENT,
    "least_spread": LEAST_SPREAD,
    "top": TOP,
}

USES_SUPERPIXELS = True


def saliency_map(rgb: np.ndarray, graph: superpixels.Superpixels | None = None) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]; zeros for an image of one superpixel or without contrast.

    graph: the image's superpixels, where the caller has them already.
    """
    height, width = rgb.shape[:2]
    graph = superpixels.segment(rgb) if graph is None else graph
    return np.clip(graph.paint(saliency(graph), height, width), 0, 1)


def saliency(graph: superpixels.Superpixels) -> np.ndarray:
    """n superpixels -> (n,) in [0, 1]."""
    n = len(graph)
    distance = superpixels.pairwise(graph.colour)
    if not distance.any():
        return np.zeros(n)
    clip, _, _ = sigmas(distance, graph.touches, superpixels.two_ring(graph.touches))
    edges = np.full((n + 1, n + 1), np.inf)  # the last node is B
    edges[:n, :n] = np.where(graph.touches, np.maximum(distance - clip, 0), np.inf)
    background = np.flatnonzero(graph.boundary)[~salient_boundary(graph, distance)]
    edges[background, n] = edges[n, background] = 0
    far = superpixels.geodesic(edges, np.inf)[n, :n]
    top = np.sort(far)[-max(1, round(TOP * n))]
    return np.minimum(far / top, 1) if top > 0 else np.zeros(n)


def salient_boundary(graph: superpixels.Superpixels, distance: np.ndarray) -> np.ndarray:
    """n superpixels, (n, n) colour distances -> (b,) bool for those on the boundary: part of an object there."""
    edge = np.flatnonzero(graph.boundary)
    position = superpixels.pairwise(graph.position[edge])
    contrast = distance[np.ix_(edge, edge)] / (1 + POSITION_WEIGHT * position)
    np.fill_diagonal(contrast, np.inf)
    count = min(max(1, round(len(graph) / 200 * NEAREST)), len(edge) - 1)
    if count < 1:
        return np.zeros(len(edge), bool)
    unlike = np.sort(contrast, 1)[:, :count].mean(1)
    low, high = unlike.min(), unlike.max()
    if high - low <= LEAST_SPREAD:
        return np.zeros(len(edge), bool)
    return (unlike - low) / (high - low) > SALIENT
