"""`tokencut:WEIGHTS`: Wang et al., "Self-Supervised Transformers for Unsupervised Object Discovery Using Normalized
Cut", CVPR 2022.

The patches of an image are a graph, whose edge i, j has the weight 1 if the keys of the last block of a ViT have a
cosine above tau, else eps. The normalised cut (Shi and Malik 2000) divides it by the second smallest eigenvector y of

    (D - E) y = lambda D y,    D = diag(sum_j E_ij)

at the mean of y. The object is the side that holds the patch with the largest |y|, of which the connected region of
that patch is kept.
"""

import cv2
import numpy as np
from scipy.linalg import eigh

from ..networks.keys import check_has_keys, last_keys
from .weights import Source, one_thread, open_source

SIZE = 480
"""Side of the input in pixels (ours): 30 x 30 patches of 16. The authors keep the image's own size."""
CUT, EPS = 0.2, 1e-5
"""tau and eps of the paper, section 4.1."""
TAU = 0.1
"""Of max-excess (ours): with it the box is that of the region. Not chosen by figures, since none were measured."""


class TokenCut:
    """A detector (fgdata/saliency/__init__.py)."""

    TAU = TAU

    def __init__(self, source: Source) -> None:
        check_has_keys(source.encoder, source.name)
        self._source = source
        self.SETTINGS = {**source.settings, "cut": CUT, "eps": EPS}

    def saliency_map(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]: 1 in the object; zeros if all patches are equally alike."""
        with one_thread():
            keys = last_keys(self._source.encoder, self._source.input(rgb))[0]  # (h, w, C)
        region = np.zeros(keys.shape[:2], np.float32)
        y = eigenvector(keys.flatten(0, 1).double().numpy())
        if y is not None:
            region[:] = connected(y.reshape(region.shape))
        return cv2.resize(region, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def eigenvector(keys: np.ndarray) -> np.ndarray | None:
    """(n, C) float64 keys of patches -> y (n,), of unit length under D; None if all edges have the same weight."""
    norms = np.linalg.norm(keys, axis=1, keepdims=True)
    unit = keys / np.maximum(norms, 1e-12)
    edges = np.where(unit @ unit.T > CUT, 1, EPS)  # (n, n)
    if edges.min() == edges.max():
        return None
    degree = edges.sum(1)
    _, y = eigh(np.diag(degree) - edges, np.diag(degree), subset_by_index=(1, 1))
    return y[:, 0]


def connected(y: np.ndarray) -> np.ndarray:
    """(h, w) eigenvector -> (h, w) bool: the object. It does not depend on the sign of y."""
    seed = np.unravel_index(np.abs(y).argmax(), y.shape)
    side = (y > y.mean()) == (y[seed] > y.mean())
    _, labels = cv2.connectedComponents(side.astype(np.uint8), connectivity=4)
    return labels == labels[seed]


def detector(argument: str) -> TokenCut:
    """Opens `WEIGHTS[,backbone=NAME][,size=N]` (weights.py)."""
    return TokenCut(open_source("tokencut", argument, SIZE))
