"""The cells of a map and the best rectangle among all rectangles of cells; compiled, so slow to import.

A rectangle is (top, bottom, left, right) in cells, bottom and right exclusive.
"""

import numpy as np

from ..compiled import compiled


@compiled()
def average_cells(values, n):  # pragma: no cover (compiled)
    """(H, W) -> (n, n) float64: the exact mean of each cell; pixels are unit squares, H and W may be below n."""
    height, width = values.shape
    bands = np.zeros((n, width))
    for i in range(n):
        for y in range(i * height // n, -(-(i + 1) * height // n)):
            share = _common(y, i, height, n)
            for x in range(width):
                bands[i, x] += share * values[y, x]
    cells = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            for x in range(j * width // n, -(-(j + 1) * width // n)):
                cells[i, j] += _common(x, j, width, n) * bands[i, x]
            cells[i, j] /= height * width
    return cells


@compiled()
def _common(pixel, cell, pixels, cells):  # pragma: no cover (compiled)
    """The overlap of a pixel and a cell along one side, in units of 1 / (pixels cells), in which it is an integer."""
    return min((pixel + 1) * cells, (cell + 1) * pixels) - max(pixel * cells, cell * pixels)


@compiled()
def best_box(values, least):  # pragma: no cover (compiled)
    """(n, n) float64 -> the rectangle with the largest sum among those of at least `least` cells.

    For a pair of rows, let P[column] be the sum of the strip between them left of a column. The best rectangle that
    ends at `right` has the sum P[right] - min P[left] over left <= right - width, where width is the least that the
    height allows: O(n^3) for the O(n^4) rectangles. Strips of equal height have equal widths, so the innermost loop
    runs over them side by side, and the compiler vectorises it. Ties go to the smallest top, then bottom, right, left.
    """
    n = len(values)
    above = np.zeros((n + 1, n + 1))  # [column, row]: the sum of the cells left of the column and above the row
    for i in range(n):
        along = 0.0
        for j in range(n):
            along += values[i, j]
            above[j + 1, i + 1] = above[j + 1, i] + along
    best, best_top, best_bottom = -np.inf, 0, n
    strips, lowest, gain = np.empty((n + 1, n)), np.empty(n), np.empty(n)
    for height in range(1, n + 1):
        tops, width = n + 1 - height, -(-least // height)
        for column in range(n + 1):
            for top in range(tops):
                strips[column, top] = above[column, top + height] - above[column, top]
        lowest[:] = np.inf
        gain[:] = -np.inf
        for right in range(width, n + 1):
            start, end = strips[right - width], strips[right]
            for top in range(tops):
                lowest[top] = start[top] if start[top] < lowest[top] else lowest[top]
                gained = end[top] - lowest[top]
                gain[top] = gained if gained > gain[top] else gain[top]
        for top in range(tops):
            first = top < best_top or (top == best_top and top + height < best_bottom)
            if gain[top] > best or (gain[top] == best and first):
                best, best_top, best_bottom = gain[top], top, top + height
    width = -(-least // (best_bottom - best_top))
    strip = above[:, best_bottom] - above[:, best_top]
    best, minimum, left, best_left, best_right = -np.inf, np.inf, 0, 0, n
    for right in range(width, n + 1):
        if strip[right - width] < minimum:
            minimum, left = strip[right - width], right - width
        if strip[right] - minimum > best:
            best, best_left, best_right = strip[right] - minimum, left, right
    return best_top, best_bottom, best_left, best_right


def densest_box(values: np.ndarray, least: int) -> tuple[int, int, int, int]:
    """(n, n) float64 -> the rectangle with the highest mean among those of at least `least` cells.

    Dinkelbach: raise lambda to the mean of the rectangle that exceeds it most, until none exceeds it. Exact, in about
    five rounds. Among equal means it keeps the first found, which is the larger.
    """
    best, mean = (0, len(values), 0, len(values)), values.mean()
    while True:
        top, bottom, left, right = candidate = best_box(values - mean, least)
        candidate_mean = values[top:bottom, left:right].mean()
        if not candidate_mean > mean:
            return best
        best, mean = candidate, candidate_mean
