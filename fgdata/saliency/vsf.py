"""Fine-grained visual saliency, VSF: Montabone and Soto, "Human detection using a mobile platform and novel features
derived from a visual saliency mechanism", Image and Vision Computing 2010.

The sum of centre-surround differences of the grey image at six scales, bright on dark and dark on bright. It responds
to edges and small contrasts rather than to whole objects. The computation is OpenCV's `StaticSaliencyFineGrained`,
which has two traps. It takes 8-bit images only: it reads the bytes of a float image as if they were 8-bit. And its
surrounds are 12 to 112 pixels wide whatever the image's size, so the image is first shrunk to a working size (ours).
"""

import cv2
import numpy as np

from ..images import shrink

LONG_SIDE = 256
"""Images with a longer side are shrunk to it, in pixels; none is enlarged."""

TAU = 0.9
"""Of max-excess; chosen on the even-numbered images of cub50 (docs/saliency.md)."""

SETTINGS = {"long_side": LONG_SIDE}


def saliency_map(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]; zeros for an image without contrast."""
    height, width = rgb.shape[:2]
    bgr = cv2.cvtColor(shrink(rgb, LONG_SIDE), cv2.COLOR_RGB2BGR)
    _, working = cv2.saliency.StaticSaliencyFineGrained.create().computeSaliency(bgr)
    # Before OpenCV 3.4.3 the map was uint8 in 0..255; since then it is float32 in [0, 1].
    working = np.asarray(working, np.float32)
    return np.clip(cv2.resize(working, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
