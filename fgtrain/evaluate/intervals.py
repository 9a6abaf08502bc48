"""Means over trials or seeds, and their 95 % intervals by Student's t."""

import math
from collections.abc import Sequence

from scipy.special import stdtrit


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """n >= 1 values -> their mean, and t s / sqrt(n), half the width of its 95 % interval; None when n is 1."""
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)


def percent(values: Sequence[float]) -> str:
    """Fractions of one -> "64.3 ± 1.2", or "64.3" for a single value."""
    mean, half = mean_interval(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")
