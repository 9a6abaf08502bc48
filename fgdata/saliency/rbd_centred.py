"""RBD for photographs of one object: a centre prior, a second pass, a threshold (ours). `rbd` is the published one.

Adds three steps to those of rbd.py; symbols as there:

    centre(p) = exp(-|p - middle|^2 / 2 sigma^2)
    s1 = optimise(w_bg, wCtr centre, w_ij)                     the prior weights the cue, not the result: eq. 9
                                                               still spreads it over whole objects, up to the border
    object(p) = sum_i like(p, i) s1(i) centre(i) size(i),      colours of the first pass's object and of the rest
    ground(p) = sum_i like(p, i) (1 - s1(i)) (1 - centre(i) / 2) size(i),    like = exp(-d^2 / 2 sigma_like^2)
    s = optimise(w_bg, object / (object + ground) centre, w_ij) / FULL, clipped to 1

Each sum is divided by the sum of its weights. Strong boundary connectivity does not make a superpixel certain
background here (w_bg is at most 1), because in such photographs the object often reaches the border. The constants were
chosen on every second image of cub50 and on duts300; docs/saliency.md has the figures for the other half.
"""

import numpy as np

from . import rbd, superpixels

CENTRE_SIGMA = 0.3
"""Sigma of the centre prior, as a share of the image's sides."""
LIKE_SIGMA = 12.0
"""Sigma of colour similarity, in CIELAB units."""
FULL = 0.5
"""Values from here up become 1: a part of the object that is half certain belongs in its box."""

TAU = 0.5
"""Of max-excess; chosen on the even-numbered images of cub50 (docs/saliency.md)."""

SETTINGS = rbd.SETTINGS | {"centre_sigma": CENTRE_SIGMA, "like_sigma": LIKE_SIGMA, "full": FULL}
del SETTINGS["certain"]

USES_SUPERPIXELS = True


def saliency_map(rgb: np.ndarray, graph: superpixels.Superpixels | None = None) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]; zeros for an image of one superpixel or without contrast.

    graph: the image's superpixels; computed if None.
    """
    return superpixels.draw(saliency, rgb, graph)


def saliency(graph: superpixels.Superpixels) -> np.ndarray:
    """n superpixels -> (n,) in [0, 1]."""
    distance = superpixels.pairwise(graph.colour)
    if not distance.any():
        return np.zeros(len(graph))
    background, contrast, smooth = rbd.cues(graph, distance)
    background = np.minimum(background, 1)
    centre = np.exp(-((graph.position - 0.5) ** 2).sum(1) / (2 * CENTRE_SIGMA**2))
    first = rbd.optimise(background, rbd.stretch(contrast) * centre, smooth)

    like = np.exp(-(distance**2) / (2 * LIKE_SIGMA**2))
    size = np.bincount(graph.labels.ravel(), minlength=len(graph))
    inside, outside = first * centre * size, (1 - first) * (1 - centre / 2) * size
    if not (inside.any() and outside.any()):
        return first
    object_ = (like * inside).sum(1) / inside.sum()
    ground = (like * outside).sum(1) / outside.sum()
    share = np.divide(object_, object_ + ground, out=np.zeros_like(object_), where=object_ + ground > 0)
    return np.minimum(rbd.optimise(background, share * centre, smooth) / FULL, 1)
