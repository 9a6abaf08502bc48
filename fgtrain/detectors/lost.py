"""`lost:WEIGHTS`: Simeoni et al., "Localizing Objects with Self-Supervised Transformers and no Labels", BMVC 2021.

Patches of the background correlate with more patches than those of an object. The seed is the patch whose key has a
positive product with the fewest others. Of the EXPAND patches with the fewest, those that have one with the seed join
it; the object is where the sum of the products with all of these is positive, connected with the seed.
"""

import numpy as np

from . import check_packages
from . import files as files
from .region import TAU as TAU
from .region import Region, around

EXPAND = 100
"""k of the paper, section 4.1."""


def detector(argument: str) -> Region:
    """Opens `WEIGHTS[,backbone=NAME][,size=N]` (weights.py)."""
    check_packages(f"lost:{argument}")
    from .weights import open_source

    return Region(open_source("lost", argument), {"expand": EXPAND}, find_region)


def find_region(keys: np.ndarray) -> np.ndarray:
    """(h, w, C) float64 -> (h, w) bool."""
    flat = keys.reshape(-1, keys.shape[-1])
    products = flat @ flat.T  # (n, n)
    positive = products > 0
    fewest = positive.sum(1).argsort(kind="stable")  # every patch has a positive product with itself
    seed, candidates = int(fewest[0]), fewest[:EXPAND]
    joined = candidates[positive[seed, candidates]]
    mask = (products[joined].sum(0) > 0).reshape(keys.shape[:2])
    return around(seed, mask)
