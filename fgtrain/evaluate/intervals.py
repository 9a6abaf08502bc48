"""Means over trials or seeds, and their 95 % intervals by Student's t."""

import math
from collections.abc import Sequence


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """n values -> mean and half width t s / sqrt(n) of its 95 % interval; None for one value, which has none."""
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, t_quantile(n - 1) * math.sqrt(variance / n)


def t_quantile(freedom: int, inside: float = 0.95) -> float:
    """Degrees of freedom -> the t with P(|T| <= t) = inside, to 1e-9, by bisection."""
    low, high = 0.0, 1.0
    while _inside(high, freedom) < inside:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < inside else (low, middle)
    return high


def _inside(t: float, freedom: int) -> float:
    """P(|T| <= t): the finite trigonometric series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0))


def percent(values: Sequence[float]) -> str:
    """Shares of one -> "64.3 ± 1.2", or "64.3" for a single value."""
    mean, half = mean_interval(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")
