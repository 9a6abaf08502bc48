"""The draws of every crop, the same on every machine and in every version: stored digests of orders and geometries.

A change here changes the batches of every seed, and runs that others began cannot resume. Pixels are not in a digest,
because the vector instructions of libraries differ between processors; other tests compare them with a reference.
"""

import hashlib

import numpy as np
import pytest

from fgdata.views import ViewSpec, draws
from fgdata.views.crops import CROPS
from fgdata.views.geometry import compute

DIGESTS = {
    "rrc": "6738631ad5571012",
    "saliency-swap": "d12f092b6364acff",
    "contrastive": "6837fce4977fda38",
    "inside-box": "23d6d897b27b67c8",
    "paste": "68e4df54f7fb5ecf",
    "matte-paste": "9a6aa07e1395ef28",
    "object": "c33ee71ea25879a1",
    "centre": "0b4662c27c9a88e8",
    "saliency-swap, other sets": "d2eb6295006bed96",
}
ORDER = "55a9ea734f79d286"


def digest(*arrays: np.ndarray) -> str:
    """Of whole numbers, and of others to four decimals: a last bit of a logarithm may differ between processors."""
    sha256 = hashlib.sha256()
    for array in arrays:
        whole = np.round(1e4 * array.astype(np.float64)) if array.dtype.kind == "f" else array
        sha256.update(whole.astype("<i8").tobytes())
    return sha256.hexdigest()[:16]


def geometries(crop, **keys: int) -> list[np.ndarray]:
    """Every number of two views of 64 images of many sizes, with boxes and mattes inside them."""
    parts = (np.arange(64)[:, None] * [7, 11, 13, 17] % 40 + 20) / 128  # each coordinate from 0.16 to 0.46
    sizes = 80 + np.arange(64)[:, None] * [37, 53] % 400
    arrays = []
    for view in range(2):
        spec = ViewSpec(size=96, crop=crop, masks=True, solarize=(0.0, 0.2), matte_grey=crop == "matte-paste")
        shot = compute(spec, sizes, parts, np.arange(64), view=view, cuts=parts[::-1], seed=5, epoch=3, batch=2, **keys)
        arrays += list(vars(shot).values())
    return arrays


@pytest.mark.parametrize("crop", CROPS)
def test_draws_of_a_crop(crop: str):
    assert digest(*geometries(crop)) == DIGESTS[crop]


def test_draws_of_pastes_on_images_of_other_sets():
    assert digest(*geometries("saliency-swap", lenders=1000)) == DIGESTS["saliency-swap, other sets"]


def test_orders():
    whole, blocks = draws.permutation(5, 3, 1000), draws.block_permutation(5, 3, (100,) * 10, 3)
    assert digest(whole, blocks) == ORDER


def test_a_digest_notices_a_pixel_and_a_thousandth():
    arrays = geometries("rrc")
    for array in arrays:
        before, step = digest(array), np.array(1e-3 if array.dtype.kind == "f" else 1)
        changed = array.copy()
        changed.flat[5] = not changed.flat[5] if array.dtype == bool else changed.flat[5] + step.astype(array.dtype)
        assert digest(changed) != before
