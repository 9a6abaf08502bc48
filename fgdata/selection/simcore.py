"""SimCore (Kim, Bae, Yun, CVPR 2023): the part S of a pool U that is nearest to a target set X.

With unit features z and c_1 ... c_k the centres of X (k-means),

    f(S) = sum over j of max over u in S of <z_u, c_j>

is largest when S holds the nearest pool image of every centre. A round takes these; the next round does the same among
the images that are left, until the budget is spent. The similarity of a round is the mean over the centres of that of
the images it takes.

Ties go to the image with the lower number. The last round takes its most similar images first if the budget does not
cover all (ours; the authors' code draws among them).
"""

import math
from collections.abc import Iterable

import numpy as np

CENTRES = 100
"""Of the paper and its code."""
MOST_STEPS = 300
"""Of k-means, if it does not converge."""


def unit(features: np.ndarray) -> np.ndarray:
    """(N, n) -> the rows divided by their lengths, float64; a row of zeros stays."""
    x = features.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def find_centres(target: np.ndarray, count: int = CENTRES, seed: int = 0) -> np.ndarray:
    """(N, n) unit rows -> up to (count, n) unit centres of their k-means; the rows themselves if they are no more."""
    return target if len(target) <= count else unit(k_means(target, count, seed))


def k_means(target: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(N, n) -> (count, n) means of groups: every row is in the group with the nearest mean.

    Lloyd's algorithm from k-means++ (Arthur and Vassilvitskii, 2007), by squared distance. A mean without members
    moves to the row that is farthest from its own mean. With fewer than `count` different rows some remain without
    members; they are left out.
    """
    centres, nearest = _spread(target, count, np.random.default_rng(seed)), np.full(len(target), -1)
    for _ in range(MOST_STEPS):
        distance = _squared(target, centres)  # (N, count)
        before, nearest = nearest, distance.argmin(1)
        if (nearest == before).all():
            break
        own = distance[np.arange(len(target)), nearest]
        for empty in np.flatnonzero(np.bincount(nearest, minlength=count) == 0):
            farthest = own.argmax()
            nearest[farthest], own[farthest] = empty, 0
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, target)
        centres = sums / np.maximum(1, np.bincount(nearest, minlength=count))[:, None]
    return centres[np.bincount(nearest, minlength=count) > 0]


def _spread(target: np.ndarray, count: int, draws: np.random.Generator) -> np.ndarray:
    """The first centres of k-means++: rows drawn with probability proportional to the squared distance from the rows
    drawn before; of several draws the one that leaves the smallest sum of distances, as scikit-learn does."""
    chosen, trials = [int(draws.random() * len(target))], 2 + int(math.log(count))
    distance = _squared(target, target[chosen])[:, 0]
    while len(chosen) < count:
        total = np.cumsum(distance)
        rows = np.searchsorted(total, draws.random(trials) * total[-1], side="right").clip(max=len(target) - 1)
        after = np.minimum(distance[:, None], _squared(target, target[rows]))  # (N, trials)
        best = after.sum(0).argmin()
        chosen.append(int(rows[best]))
        distance = after[:, best]
    return target[chosen]


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, n), (k, n) -> squared distances (N, k), 0 or more."""
    return np.maximum(0, (a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1))


def count_bytes(target: int, pool: int, centres: int, budget: int) -> int:
    """Bytes of memory that `find_centres`, or `similarities` and `choose`, need beside the features of the target."""
    distances = 3 * 8 * target * centres if target > centres else 0  # of k-means, with what is computed on the way
    return max(distances, 4 * min(target, centres) * (pool + budget))


def similarities(pool: Iterable[np.ndarray], centres: np.ndarray, count: int) -> np.ndarray:
    """Batches of features (B, n) of `count` images, (k, n) unit centres -> cosines (k, count) float32."""
    cosines, start = np.empty((len(centres), count), np.float32), 0
    for batch in pool:
        cosines[:, start : start + len(batch)] = centres @ unit(batch).T
        start += len(batch)
    if start != count:
        raise ValueError(f"the encoder gave {start:,} features for {count:,} images")
    return cosines


def choose(cosines: np.ndarray, budget: int, stop: float = 0) -> tuple[np.ndarray, list[float]]:
    """(k, N) cosines -> the numbers of at most `budget` images, ascending, and the similarity of every round.

    stop: end before the first round whose similarity is below this share of the first round's; 0: spend the budget.
    """
    # A centre passes at most the images that were taken before, so its `budget` best suffice.
    order = np.empty((len(cosines), budget), np.int32)
    for j, row in enumerate(cosines):
        order[j] = np.argsort(-row, kind="stable")[:budget]
    taken = np.zeros(cosines.shape[1], bool)
    at, rounds = np.zeros(len(cosines), int), []
    while (left := budget - int(taken.sum())) > 0:
        picks = np.empty(len(cosines), int)
        for j, row in enumerate(order):
            while taken[row[at[j]]]:
                at[j] += 1
            picks[j] = row[at[j]]
        value = cosines[np.arange(len(cosines)), picks].astype(np.float64)
        if stop and rounds and value.mean() < stop * rounds[0]:
            break
        rounds.append(float(value.mean()))
        best = dict(sorted(zip(picks.tolist(), value.tolist()), key=lambda pick: pick[1]))  # the highest of an image
        ranked = sorted(best, key=lambda number: (-best[number], number))
        taken[ranked[:left]] = True
    return np.flatnonzero(taken), rounds
