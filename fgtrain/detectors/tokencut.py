"""`tokencut:WEIGHTS`: Wang et al., "Self-Supervised Transformers for Unsupervised Object Discovery Using Normalized
Cut", CVPR 2022.

The patches of an image are a graph. The edge between two of them has the weight 1 if the cosine of their keys is above
CUT, else EPS. The normalised cut (Shi and Malik 2000) divides it by the second smallest eigenvector y of

    (D - E) y = lambda D y,    D = diag(sum_j E_ij)

at the mean of y. The object is the side that contains the patch with the largest |y|; of it, the connected region
around that patch is kept.
"""

import numpy as np

from . import check_packages
from . import files as files
from .region import TAU as TAU
from .region import Region, around

CUT, EPS = 0.2, 1e-5
"""tau and epsilon of the paper, section 4.1."""


def detector(argument: str) -> Region:
    """Opens `WEIGHTS[,backbone=NAME][,size=N]` (weights.py)."""
    check_packages(f"tokencut:{argument}")
    from .weights import open_source

    return Region(open_source("tokencut", argument), {"cut": CUT, "eps": EPS}, find_region)


def find_region(keys: np.ndarray) -> np.ndarray:
    """(h, w, C) float64 -> (h, w) bool; all False if every edge has the same weight."""
    edges = make_edges(keys.reshape(-1, keys.shape[-1]))
    if edges.min() == edges.max():
        return np.zeros(keys.shape[:2], bool)
    y = cut(edges).reshape(keys.shape[:2])
    seed = int(np.abs(y).argmax())
    return around(seed, (y > y.mean()) == (y.flat[seed] > y.mean()))  # whichever sign the eigenvector has


def make_edges(keys: np.ndarray) -> np.ndarray:
    """(n, C) -> E (n, n)."""
    unit = keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
    return np.where(unit @ unit.T > CUT, 1, EPS)


def cut(edges: np.ndarray) -> np.ndarray:
    """E (n, n) -> y (n,), with y' D y = 1."""
    from scipy.linalg import eigh

    degree = np.diag(edges.sum(1))
    return eigh(degree - edges, degree, subset_by_index=(1, 1))[1][:, 0]
