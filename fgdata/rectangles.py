"""The best rectangle of a grid among all of them, compiled: apart from boxes.py, which stays light to import.

A rectangle is (top, bottom, left, right) in cells, bottom and right exclusive.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def best_box(values, least):
    """(n, n) float64 -> the rectangle of the largest sum among those of at least `least` cells.

    For a pair of rows, with P the sums of the strip between them left of each column, the best rectangle that ends at
    `right` is P[right] - min P[left] over left <= right - width, width being the least that the height allows: O(n^3)
    for the O(n^4) rectangles. Ties go to the smallest top, then bottom, then right, then left.
    """
    n = len(values)
    integral = np.zeros((n + 1, n + 1))
    for i in range(n):
        along = 0.0
        for j in range(n):
            along += values[i, j]
            integral[i + 1, j + 1] = integral[i, j + 1] + along
    best, found = -np.inf, (0, n, 0, n)
    for top in range(n):
        for bottom in range(top + 1, n + 1):
            strip = integral[bottom] - integral[top]
            width = -(-least // (bottom - top))
            lowest, left = np.inf, 0
            for right in range(width, n + 1):
                if strip[right - width] < lowest:
                    lowest, left = strip[right - width], right - width
                if strip[right] - lowest > best:
                    best, found = strip[right] - lowest, (top, bottom, left, right)
    return found


def densest_box(values: np.ndarray, least: int) -> tuple[int, int, int, int]:
    """(n, n) float64 -> the rectangle of the highest mean among those of at least `least` cells.

    Dinkelbach: raise lambda to the mean of the rectangle that gains most over it until none gains. Exact, in about five
    rounds. Among equal means it keeps the one it met first, which is the larger.
    """
    found, mean = (0, len(values), 0, len(values)), values.mean()
    while True:
        top, bottom, left, right = candidate = best_box(values - mean, least)
        reached = values[top:bottom, left:right].mean()
        if not reached > mean:
            return found
        found, mean = candidate, reached
