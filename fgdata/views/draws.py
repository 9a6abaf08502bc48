"""Random numbers as a pure function of (seed, epoch, sample): Philox4x32-10 (Salmon et al., SC 2011), vectorised.

A counter-based generator has no state to keep, share or save: every thread, process, backend and resumed run gets the
same draws for a sample. The published algorithm fixes the stream, so no NumPy release changes it.
"""

from collections.abc import Sequence

import numpy as np

# Columns of a sample's draws. Append only: moving a column changes every view of every seed.
AREA, RATIO = slice(0, 10), slice(10, 20)
X, Y, PLACE_AREA, PLACE_X, PLACE_Y, FLIP, JITTER = range(20, 27)
FACTORS, ORDER = slice(27, 31), slice(31, 35)
GRAY, BLUR, SIGMA, LENDER, SOLARIZE, PLACE_SIDE, MATTE, GREY = range(35, 43)
COUNT = 43

_WORD = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_ORDER, _PARTNERS, _TARS = 1 << 31, 1 << 30, 3 << 30  # streams; a view's stream is its number
LENT = 1 << 29
"""The stream of the view of another set's image."""


def philox(counter: np.ndarray, key: int) -> np.ndarray:
    """(..., 4) 32-bit words and a 64-bit key -> (..., 4) 32-bit words, as uint64."""
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & _WORD
        c2, c3 = (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], -1)


def uniforms(seed: int, epoch: int, samples: np.ndarray, view: int, count: int) -> np.ndarray:
    """(B,) sample numbers -> (B, count) float64, uniform in [0, 1)."""
    return _words(seed, epoch, np.asarray(samples), view, count) * 2.0**-32


def lender(u: np.ndarray, lenders: int, own: np.ndarray | None = None) -> np.ndarray:
    """(B, COUNT) draws -> (B,) int32, one of `lenders` images each, uniformly.

    own: (B,) numbers of the samples' own images among the lenders, which they do not get; None if none is among them.
    """
    if own is None:
        return np.floor(u[:, LENDER] * lenders).astype(np.int32)
    chosen = np.floor(u[:, LENDER] * (lenders - 1)).astype(np.int32)
    return chosen + (chosen >= own)


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of an epoch: (n,) int64."""
    return np.argsort(_words(seed, epoch, np.zeros(1, int), _ORDER, n)[0], kind="stable")


def block_permutation(seed: int, epoch: int, tars: Sequence[int], block: int) -> np.ndarray:
    """The order of an epoch by blocks: (n,) int64. The tars, of which `tars` has the numbers of samples, are put into a
    random order; each `block` of them in turn are a block, whose samples are shuffled. One block of all tars is
    `permutation`."""
    order = np.argsort(_words(seed, epoch, np.zeros(1, int), _TARS, len(tars))[0], kind="stable")
    place = np.empty(len(tars), np.int64)
    place[order] = np.arange(len(tars))
    words = _words(seed, epoch, np.zeros(1, int), _ORDER, sum(tars))[0]
    return np.lexsort((words, np.repeat(place // block, tars)))


def partners(seed: int, epoch: int, batch: int, view: int, n: int) -> np.ndarray:
    """For each of n samples another one: (n,) int32, a random cycle, so a permutation without fixed points."""
    order = np.argsort(_words(seed, epoch, np.array([batch]), _PARTNERS + view, n)[0], kind="stable")
    partner = np.empty(n, np.int32)
    partner[order] = np.roll(order, 1)
    return partner


def _words(seed: int, epoch: int, samples: np.ndarray, stream: int, count: int) -> np.ndarray:
    counter = np.empty((len(samples), -(-count // 4), 4), np.uint64)
    counter[..., 0] = np.arange(counter.shape[1])
    counter[..., 1] = stream
    counter[..., 2] = samples[:, None]
    counter[..., 3] = epoch
    return philox(counter, seed).reshape(len(samples), -1)[:, :count]
