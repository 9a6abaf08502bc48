"""Whether images of one set can be told from those of others without looking at objects (Wu et al., BMVC 2022, appendix
A: foreground against background): how well a linear layer does it on thumbnails of 8 x 8 pixels.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec

from ..settings.common import Config
from .loading import load_images

SIDE, MOST = 8, 1024
"""Pixels of a thumbnail's side; images of each kind that are looked at."""
HIGH = 0.9
"""Accuracy from which a run warns."""


def check_leak(
    config: Config, views: ViewSpec, shards: ShardSet, say: Callable[[str], None], stop: Callable[[], bool]
) -> dict[str, float] | None:
    """Draws up to MOST views of the set and as many lent ones, and says how well they can be told apart -> accuracy on
    the half that was not fitted, its standard error and number of views; None if `stop()`, or below 8 of each kind."""
    ours, lent, wanted = [], [], min(MOST, len(shards.split(config.data.split)))
    whole = {"rank": 0, "world_size": 1}  # each process looks at the same images
    options = {"batch_size": min(64, wanted), "shuffle_block": None, "cache": None, **whole}
    with load_images(config, shards, views, torch.device("cpu"), **options) as loader:
        for batch in loader:
            ours.append(thumbnails(batch["views"][0]))
            lent.append(thumbnails(batch["lent"]))
            if stop():
                return None
            if sum(map(len, ours)) >= wanted:
                break
    if sum(map(len, ours)) < 8:
        return None
    right = told_apart(torch.cat(ours), torch.cat(lent))
    p, n = right.double().mean().item(), len(right)
    error = math.sqrt(p * (1 - p) / n)
    advice = "; the network may learn this instead of objects: use sets of similar photographs" if p > HIGH else ""
    say(
        f"leak check: a linear layer on thumbnails of {SIDE} x {SIDE} pixels distinguishes the two kinds of images "
        f"with an accuracy of {p:.1%} (+/- {error:.1%}, n = {n:,}; chance 50 %){advice}"
    )
    return {"accuracy": p, "standard_error": error, "n": n}


def thumbnails(x: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, 3 * 8 * 8) float64 means."""
    return F.adaptive_avg_pool2d(x.double(), SIDE).flatten(1).cpu()


def told_apart(first: Tensor, second: Tensor) -> Tensor:
    """(n, d), (n, d) -> (m,) bool: which rows of odd number a linear layer classifies right that was fitted to the even
    ones by ridge regression on -1 and 1, with a penalty of a tenth of a standardised feature's sum of squares."""
    x = torch.cat([first[::2], second[::2]])
    y = torch.cat([torch.ones(len(first[::2])), -torch.ones(len(second[::2]))]).to(x)
    mean, spread = x.mean(0), x.std(0, correction=0)
    spread = spread.where(spread > 0, 1)
    z = (x - mean) / spread
    penalty = 0.1 * len(z) * torch.eye(z.shape[1], dtype=z.dtype)
    w = torch.linalg.solve(z.T @ z + penalty, z.T @ (y - y.mean()))
    score_1, score_2 = ((rows[1::2] - mean) / spread @ w + y.mean() for rows in (first, second))
    return torch.cat([score_1 > 0, score_2 < 0])
