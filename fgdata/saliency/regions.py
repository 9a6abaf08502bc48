"""Compiled loops over pixels: SLIC labels, connected regions, and what is measured of each region.

    CIELAB --slic--> labels --join--> connected regions --measure--> size, sums, neighbours, boundary

A run is a stretch of equal labels in one row. Regions have few runs and many pixels, so `join` and `measure` work on
runs. Every sum below is exact, whatever its order: of whole numbers, or of CIELAB values, which OpenCV rounds to
multiples of 2^-31 below 2^8 and which a float64 adds without an error for up to 2^14 pixels.
"""

import numpy as np

from ..compiled import compiled


@compiled()
def slic(lab, step, compactness, iterations):  # pragma: no cover (compiled)
    """(h, w, 3) float32 CIELAB -> (h, w) int32 labels, not necessarily connected; -1 outside every window.

    A pixel takes the label of the centre within +-step of it with the least dLab^2 + dxy^2 (compactness / step)^2. A
    centre is the mean of its pixels; its sums change only with the pixels that change their label.
    """
    height, width, _ = lab.shape
    planes = np.empty((3, height, width), np.float32)
    for y in range(height):
        for x in range(width):
            planes[0, y, x], planes[1, y, x], planes[2, y, x] = lab[y, x, 0], lab[y, x, 1], lab[y, x, 2]
    down, across = max(1, height // step), max(1, width // step)
    centres = np.empty((down * across, 5), np.float32)  # L, a, b, row, column
    for k in range(down * across):
        y, x = ((k // across) + 0.5) * height / down, ((k % across) + 0.5) * width / across
        centres[k, :3] = lab[int(y), int(x)]
        centres[k, 3], centres[k, 4] = y, x
    weight = np.float32((compactness / step) ** 2)
    labels = np.full((height, width), -1, np.int32)
    before = labels.copy()
    nearest = np.empty((height, width), np.float32)
    aside = np.empty(width, np.float32)
    sums, pixel = np.zeros((down * across, 6)), np.ones(6)
    for _ in range(iterations):
        nearest[:] = np.inf
        for k in range(len(centres)):
            cl, ca, cb, cy, cx = centres[k]
            left, right = max(0, int(cx - step)), min(width, int(cx + step))
            for i in range(right - left):
                aside[i] = (np.float32(left + i) - cx) ** 2 * weight
            for y in range(max(0, int(cy - step)), min(height, int(cy + step))):
                rise = (np.float32(y) - cy) ** 2 * weight
                light, a, b = planes[0, y, left:right], planes[1, y, left:right], planes[2, y, left:right]
                best, owner = nearest[y, left:right], labels[y, left:right]
                for i in range(right - left):
                    d = (light[i] - cl) ** 2 + (a[i] - ca) ** 2 + (b[i] - cb) ** 2 + (rise + aside[i])
                    closer = d < best[i]
                    best[i] = d if closer else best[i]
                    owner[i] = k if closer else owner[i]
        moved = False
        for y in range(height):
            for x in range(width):
                k, old = labels[y, x], before[y, x]
                if k == old:
                    continue
                moved = True
                before[y, x] = k
                pixel[0], pixel[1], pixel[2] = planes[0, y, x], planes[1, y, x], planes[2, y, x]
                pixel[3], pixel[4] = y, x
                for c in range(6):
                    sums[k, c] += pixel[c]
                if old >= 0:
                    for c in range(6):
                        sums[old, c] -= pixel[c]
        if not moved:
            break
        for k in range(len(centres)):
            if sums[k, 5] > 0:
                for c in range(5):
                    centres[k, c] = sums[k, c] / sums[k, 5]
    return labels


@compiled()
def join(labels, small):  # pragma: no cover (compiled)
    """(h, w) labels -> (h, w) int32 labels 0..n - 1 of 4-connected regions, in scan order.

    A region of at most `small` pixels is merged into an earlier one: the upper or left neighbour of its first pixel.
    Union-find over runs: a region's root is its first run in scan order.
    """
    height, width = labels.shape
    start, row, parent = np.empty((3, height * width + 1), np.int32)
    count, above = 0, 0  # of runs; the first run of the row above
    for y in range(height):
        first = count
        for x in range(width):
            if x == 0 or labels[y, x] != labels[y, x - 1]:
                start[count], row[count], parent[count] = x, y, count
                count += 1
        if y > 0:
            upper, lower = above, first
            while upper < first and lower < count:
                upper_end = start[upper + 1] if upper + 1 < first else width
                lower_end = start[lower + 1] if lower + 1 < count else width
                if labels[y - 1, start[upper]] == labels[y, start[lower]]:
                    one, other = _root(parent, upper), _root(parent, lower)
                    parent[max(one, other)] = min(one, other)
                if upper_end <= lower_end:
                    upper += 1
                if lower_end <= upper_end:
                    lower += 1
        above = first
    size = np.zeros(count, np.int32)
    for run in range(count):
        same_row = run + 1 < count and row[run + 1] == row[run]
        size[_root(parent, run)] += (start[run + 1] if same_row else width) - start[run]
    joined = np.empty((height, width), np.int32)
    name = np.empty(count, np.int32)
    regions = 0
    for run in range(count):
        y, x = row[run], start[run]
        root = _root(parent, run)
        if root == run:
            if size[run] > small or regions == 0:
                name[run] = regions
                regions += 1
            else:
                name[run] = joined[y - 1, x] if y > 0 else joined[y, x - 1]
        same_row = run + 1 < count and row[run + 1] == y
        joined[y, x : start[run + 1] if same_row else width] = name[root]
    return joined


@compiled()
def _root(parent, run):  # pragma: no cover (compiled)
    """The first run of a run's region. Halves the path on the way."""
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@compiled()
def measure(labels, rgb, n, border):  # pragma: no cover (compiled)
    """(h, w) labels 0..n - 1, (h, w, 3) uint8 -> what one pass over the pixels finds of each label.

    Returns the size (n,); the sums (n, 5) of red, green, blue, row and column; (n, n) bool, whether two labels share a
    pixel edge, True on the diagonal; (n,) bool, whether a label occurs in the outer `border` pixels.
    """
    height, width = labels.shape
    size = np.zeros(n, np.int64)
    sums = np.zeros((n, 5), np.int64)
    touches = np.zeros((n, n), np.bool_)
    boundary = np.zeros(n, np.bool_)
    for k in range(n):
        touches[k, k] = True
    for y in range(height):
        in_band = y < border or y >= height - border
        x = 0
        while x < width:
            k, left = labels[y, x], x
            red, green, blue = 0, 0, 0
            other = k
            while x < width and labels[y, x] == k:
                red += rgb[y, x, 0]
                green += rgb[y, x, 1]
                blue += rgb[y, x, 2]
                if y > 0 and labels[y - 1, x] != other:
                    other = labels[y - 1, x]
                    touches[k, other] = touches[other, k] = True
                x += 1
            if x < width:
                touches[k, labels[y, x]] = touches[labels[y, x], k] = True
            length = x - left
            size[k] += length
            sums[k, 0] += red
            sums[k, 1] += green
            sums[k, 2] += blue
            sums[k, 3] += y * length
            sums[k, 4] += (left + x - 1) * length // 2
            boundary[k] |= in_band or left < border or x > width - border
    return size, sums, touches, boundary
