"""Elements of scenes: noise, leaves, twigs, grass, berries. All are independent of the class.

Colours are RGB, 0-255; `px` is the number of image pixels per pixel of an image of 256.
"""

import cv2
import numpy as np

from .brush import between, curve, fill, rounded, stroke
from .plumage import Colour

Palette = tuple[Colour, ...]
FOLIAGE: tuple[Palette, ...] = (  # dark, middle, light: high summer, spring, autumn, dusk, olive grove
    ((18, 40, 16), (62, 104, 38), (160, 186, 88)),
    ((40, 66, 28), (112, 152, 58), (206, 216, 134)),
    ((56, 32, 16), (150, 88, 30), (218, 170, 76)),
    ((16, 28, 34), (44, 72, 70), (110, 136, 122)),
    ((46, 50, 32), (102, 108, 74), (186, 184, 146)),
)
BARK = ((58, 46, 38), (96, 80, 66), (112, 106, 98), (124, 92, 64))
BERRIES = (
    (206, 34, 40),
    (246, 190, 30),
    (240, 236, 226),
    (120, 60, 180),
    (238, 120, 40),
    (60, 110, 210),
    (236, 130, 170),
)
EARTH: tuple[Palette, ...] = (
    ((54, 44, 34), (122, 104, 82), (192, 176, 150)),
    ((62, 62, 62), (124, 124, 122), (198, 196, 190)),
    ((84, 56, 38), (158, 116, 80), (220, 188, 148)),
)


def fractal(
    rng: np.random.Generator, width: int, height: int, cells: float, octaves: int = 4, stretch=(1.0, 1.0)
) -> np.ndarray:
    """(H, W) float32, about [0, 1]: value noise; first octave `cells` per long side, times `stretch` in x, y."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        across = cells * 2.0**octave / max(width, height)
        shape = [int(np.ceil(n * across * s)) + 1 for n, s in ((height, stretch[1]), (width, stretch[0]))]
        total += (
            cv2.resize(rng.random(shape, np.float32), (width, height), interpolation=cv2.INTER_CUBIC) * 0.55**octave
        )
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def tinted(field: np.ndarray, palette: Palette) -> np.ndarray:
    """(H, W) in [0, 1] -> (H, W, 3) uint8, colours along the palette from dark to light."""
    steps = np.linspace(0, 255, len(palette))
    table = np.stack([np.interp(np.arange(256), steps, channel) for channel in zip(*palette)], -1)
    level = np.clip(field * 255, 0, 255).astype(np.uint8)
    return cv2.LUT(cv2.merge([level] * 3), table.astype(np.uint8)[None])


def bokeh(rng, image, palette, count, px):
    height, width = image.shape[:2]
    layer = image.copy()
    for _ in range(count):
        at = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(layer, at, int(px * rng.uniform(6, 20)), between(rng, palette), -1, cv2.LINE_AA)
    cv2.addWeighted(layer, 0.5, image, 0.5, 0, dst=image)


def leaves(rng, image, palette, count, lengths, px):
    height, width = image.shape[:2]
    drift = rng.uniform(0, 2 * np.pi)
    for x, y in rng.uniform(-0.05, 1.05, (count, 2)) * [width, height]:
        angle = drift + rng.normal(0, 0.8)
        leaf(image, np.array([x, y]), rng.uniform(*lengths) * px, angle, between(rng, palette))


def leaf(image, at, length, angle, colour):
    outline, vein = leaf_outline(at, length, angle)
    fill(image, outline, colour)
    stroke(image, vein, rounded(np.array(colour) * 1.22), 0.06 * length)


LEAF = curve([(-1, 0), (-0.4, -0.38), (0.3, -0.34), (1, 0), (0.3, 0.34), (-0.4, 0.38)], steps=3)


def leaf_outline(at: np.ndarray, length: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    c, s = length * np.cos(angle), length * np.sin(angle)
    turn = np.array([[c, s], [-s, c]])
    return LEAF @ turn + at, np.array([(-1.2, 0), (0.8, 0)]) @ turn + at


def twigs(rng, image, count, px):
    height, width = image.shape[:2]
    for _ in range(count):
        at, angle = rng.uniform(0, 1, 2) * [width, height], rng.uniform(0, 2 * np.pi)
        step = max(width, height) * rng.uniform(0.06, 0.16)
        angles = angle + np.cumsum(rng.normal(0, 0.22, 8))
        points = at + np.cumsum(np.stack([np.cos(angles), np.sin(angles)], -1) * step, 0)
        bark, thick = np.array(pick(rng, BARK)) * rng.uniform(0.6, 1.2), rng.uniform(1.0, 4.5) * px
        stroke(image, points, rounded(bark), thick)
        stroke(image, points - [0, 0.25 * thick], rounded(bark * 1.3), 0.35 * thick)


def blades(rng, image, palette, count, tall, px):
    height, width = image.shape[:2]
    for x in rng.uniform(-0.1, 1.1, count) * width:
        tip = np.array([x + rng.normal(0, 0.12) * width, height * (1 - tall * rng.uniform(0.3, 1.0))])
        middle = np.array([x + 0.25 * (tip[0] - x), (height + tip[1]) / 2])
        stroke(image, np.stack([[x, height + 2], middle, tip]), between(rng, palette), rng.uniform(1, 2.6) * px)


def berries(rng, image, chance, px):
    """Spots in the colours of field marks, so that a colour alone does not indicate the class."""
    if rng.random() > chance:
        return
    height, width = image.shape[:2]
    colour, radius = np.array(pick(rng, BERRIES)), rng.uniform(1.6, 4.2) * px
    for _ in range(int(rng.integers(2, 5))):
        centre = rng.uniform(0, 1, 2) * [width, height]
        for x, y in centre + rng.normal(0, 9 * px, (int(rng.integers(2, 7)), 2)):
            cv2.circle(
                image, (int(x), int(y)), max(1, int(radius)), rounded(colour * rng.uniform(0.7, 1.05)), -1, cv2.LINE_AA
            )


def pick(rng, choices):
    return choices[rng.integers(len(choices))]
