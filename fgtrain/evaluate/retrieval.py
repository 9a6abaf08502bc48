"""Retrieval: every test image asks for its class among all the other test images, by cosine of the features.

A tie counts against the encoder: an image as similar as the one asked for stands before it. So the order of the
gallery decides nothing, an encoder that answers the same everywhere gains nothing from it, and average precision is
scikit-learn's (a step at each distinct similarity).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fgdata.errors import InputError

CELLS = 1 << 23
"""Similarities held at once."""


@dataclass(frozen=True)
class Retrieval:
    """What each of Q queries found; Q leaves out the images that are the only one of their class."""

    first: np.ndarray  # (Q,) int, place of the first image of the query's class, from 1
    precision: np.ndarray  # (Q,) average precision over the full ranking
    chance: np.ndarray  # (Q,) what the average precision of a random ranking is on average

    def rank(self, k: int) -> np.ndarray:
        """(Q,) bool: whether one of the first k is of the query's class."""
        return self.first <= k


def retrieve(features: Tensor, labels: Tensor) -> Retrieval:
    """(N, n), (N,) -> each image as a query against the N - 1 others, exact over the full ranking.

    The place of a positive p is the number of images at least as similar as p, so sorted similarities and one binary
    search each give all places; no ranking is written down. InputError when no class has two images.
    """
    order = labels.argsort(stable=True)
    x = F.normalize(features[order], dim=1)
    _, counts = labels.unique(return_counts=True)  # ascending, as `order` is
    ends = np.repeat(counts.cumsum(0).numpy(), counts)
    starts = ends - np.repeat(counts.numpy(), counts)  # images starts[i] to ends[i] are of the class of image i
    n = len(x)
    asked = np.flatnonzero(ends - starts > 1)
    if not len(asked):
        raise InputError("Retrieval needs two test images of a class, and no class of this set has them.")
    first, precision = np.empty(n, np.int64), np.empty(n)
    for rows in torch.arange(n).split(max(1, CELLS // n)):
        similarity = (x[rows] @ x.T).cpu().numpy()  # (R, N)
        similarity[np.arange(len(rows)), rows] = -np.inf  # never retrieves itself
        ranked = np.sort(similarity, 1)
        for row, i in enumerate(rows.tolist()):
            if ends[i] - starts[i] < 2:
                continue
            own = np.sort(similarity[row, starts[i] : ends[i]])[1:]  # (P,) positives; the query's own -inf was first
            places = n - np.searchsorted(ranked[row], own)  # images at least as similar, positives among them
            found = len(own) - np.searchsorted(own, own)
            first[i] = places[-1] - found[-1] + 1
            precision[i] = (found / places).mean()
    return Retrieval(first[asked], precision[asked], random_precision((ends - starts - 1)[asked], n - 1))


def random_precision(positives: np.ndarray, n: int) -> np.ndarray:
    """(Q,) numbers R >= 1 of positives among n -> (Q,) expected average precision of a ranking by lot.

    Each place k holds a positive with probability R / n, and then (R - 1) / (n - 1) of the k - 1 places before it do:
    E = 1 / n sum over k of (1 + (k - 1) (R - 1) / (n - 1)) / k, and sum 1 / k = H.
    """
    h = (1 / np.arange(1, n + 1)).sum()
    return ((positives - 1) / max(1, n - 1) * (n - h) + h) / n
