"""Retrieval: every test image is a query against all other test images, ranked by the cosine of their features.

Ties count against the encoder: an image as similar as a positive is ranked before it. Therefore the order of the
gallery has no effect, a constant encoder gains nothing, and average precision equals scikit-learn's (a step at each
distinct similarity).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fgdata.errors import InputError

CELLS = 1 << 23
"""Similarities in memory at once."""


@dataclass(frozen=True)
class Retrieval:
    """Results of Q queries; an image that is the only one of its class is not a query."""

    first: np.ndarray  # (Q,) int, rank of the first image of the query's class, from 1
    precision: np.ndarray  # (Q,) average precision over the full ranking
    chance: np.ndarray  # (Q,) expected average precision of a random ranking

    def rank(self, k: int) -> np.ndarray:
        """(Q,) bool: whether one of the first k images is of the query's class."""
        return self.first <= k


def retrieve(features: Tensor, labels: Tensor) -> Retrieval:
    """(N, n) features, (N,) labels -> each image as a query against the N - 1 others, exact over the full ranking.

    The rank of a positive p is the number of images at least as similar as p, so a sort and one binary search per
    positive give all ranks. InputError when no class has two images.
    """
    order = labels.argsort(stable=True)
    x = F.normalize(features[order], dim=1)
    _, counts = labels.unique(return_counts=True)  # ascending, as `order` is
    ends = np.repeat(counts.cumsum(0).numpy(), counts)
    starts = ends - np.repeat(counts.numpy(), counts)  # images starts[i] to ends[i] are of image i's class
    n = len(x)
    queries = np.flatnonzero(ends - starts > 1)
    if not len(queries):
        raise InputError(
            "Retrieval needs a class with two test images, but this set has none. Name another set with --shards."
        )
    first, precision = np.empty(n, np.int64), np.empty(n)
    for rows in torch.arange(n).split(max(1, CELLS // n)):
        similarity = (x[rows] @ x.T).cpu().numpy()  # (R, N)
        similarity[np.arange(len(rows)), rows] = -np.inf  # a query does not retrieve itself
        ranked = np.sort(similarity, 1)
        for row, i in enumerate(rows.tolist()):
            if ends[i] - starts[i] < 2:
                continue
            own = np.sort(similarity[row, starts[i] : ends[i]])[1:]  # (P,) positives; the first is the query's own -inf
            ranks = n - np.searchsorted(ranked[row], own)  # images at least as similar, including positives
            positives = len(own) - np.searchsorted(own, own)
            first[i] = ranks[-1] - positives[-1] + 1
            precision[i] = (positives / ranks).mean()
    return Retrieval(first[queries], precision[queries], random_precision((ends - starts - 1)[queries], n - 1))


def random_precision(positives: np.ndarray, n: int) -> np.ndarray:
    """(Q,) numbers R >= 1 of positives among n -> (Q,) expected average precision of a random ranking.

    Rank k holds a positive with probability R / n; then (R - 1) / (n - 1) of the k - 1 ranks before it do:
    E = 1 / n sum over k of (1 + (k - 1) (R - 1) / (n - 1)) / k, and sum 1 / k = H.
    """
    h = (1 / np.arange(1, n + 1)).sum()
    return ((positives - 1) / max(1, n - 1) * (n - h) + h) / n
