"""The last step of a view in one pass over its pixels: colour, clamp, solarisation, flip, normalise; bytes to planes.

OpenCV needs six calls for this. Each releases the GIL and waits for it again, which took a third of the time with two
threads on small images.
"""

import numpy as np

from ..compiled import compiled
from .spec import ViewSpec


def finish(
    view: np.ndarray,
    colour: np.ndarray,
    shift: np.ndarray,
    flip: bool,
    spec: ViewSpec,
    out: np.ndarray,
    solarize: bool = False,
) -> None:
    """(S, S, 3) uint8 -> (3, S, S) float32 into `out`: (clamp(A x + shift, 0, 255) / 255 - mean) / std per pixel.

    With `solarize`, a clamped value x >= 128 becomes 255 - x.
    """
    affine = np.column_stack([colour, shift]).astype(np.float32)
    std = np.array(spec.std, np.float32)
    _finish(view, affine, 1 / (255 * std), -np.array(spec.mean, np.float32) / std, bool(flip), bool(solarize), out)


@compiled(fastmath={"contract"}, error_model="numpy")
def _finish(view, affine, scale, offset, flip, solarize, out):
    height, width = view.shape[:2]
    low, high = np.float32(0), np.float32(255)
    middle = np.float32(128) if solarize else np.float32(256)  # 256: never
    line = np.empty((3, width), np.float32)  # one row as planes, so the compiler vectorises the rest
    red, green, blue = line[0], line[1], line[2]
    for y in range(height):
        if flip:
            for x in range(width):
                red[width - 1 - x], green[width - 1 - x], blue[width - 1 - x] = view[y, x]
        else:
            for x in range(width):
                red[x], green[x], blue[x] = view[y, x]
        for c in range(3):
            target = out[c, y]
            from_red, from_green, from_blue, shift = affine[c, 0], affine[c, 1], affine[c, 2], affine[c, 3]
            times, plus = scale[c], offset[c]
            for x in range(width):
                value = from_red * red[x] + from_green * green[x] + from_blue * blue[x] + shift
                value = min(max(value, low), high)
                target[x] = (high - value if value >= middle else value) * times + plus
