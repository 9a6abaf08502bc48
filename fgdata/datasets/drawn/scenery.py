"""Seven kinds of backgrounds for drawn birds. All are independent of the class.

Each scene is painted from far to near and blurred in between, like a lens does. `px` as in clutter.py.
"""

import cv2
import numpy as np

from .brush import between, blur, fill, stroke, tone
from .clutter import BERRIES, EARTH, FOLIAGE, Palette, berries, blades, bokeh, fractal, leaves, pick, tinted, twigs

WATER: tuple[Palette, ...] = (
    ((20, 52, 70), (58, 108, 128), (158, 190, 196)),
    ((30, 46, 40), (82, 98, 78), (168, 172, 140)),
    ((44, 62, 84), (110, 134, 158), (214, 220, 222)),
    ((60, 48, 50), (148, 116, 96), (236, 200, 158)),
)
SKY: tuple[Palette, ...] = (
    ((96, 142, 196), (156, 188, 220), (238, 242, 244)),
    ((132, 144, 156), (176, 184, 190), (226, 228, 228)),
    ((122, 116, 150), (212, 170, 150), (250, 222, 178)),
)


def background(rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, bool]:
    """Paints a random scene -> (H, W, 3) uint8, and whether birds stand on its ground rather than perch."""
    scene = (_foliage, _branches, _water, _sky, _bark, _ground, _meadow)[rng.integers(7)]
    image = scene(rng, width, height, max(width, height) / 256)
    return image, scene in (_water, _ground, _meadow)


def _foliage(rng, width, height, px):
    palette = pick(rng, FOLIAGE)
    image = tinted(fractal(rng, width, height, 3), palette)
    bokeh(rng, image, palette, 14, px)
    image = blur(image, 2.5 * px)
    leaves(rng, image, palette, 36, (9, 20), px)
    image = blur(image, 1.1 * px)
    twigs(rng, image, 3, px)
    leaves(rng, image, palette, 26, (7, 17), px)
    berries(rng, image, 0.5, px)
    return image


def _branches(rng, width, height, px):
    palette = pick(rng, FOLIAGE)
    image = tinted(0.65 * fractal(rng, width, height, 2) + 0.25, palette)
    bokeh(rng, image, palette, 8, px)
    twigs(rng, image, 7, 1.5 * px)
    image = blur(image, 2.0 * px)
    twigs(rng, image, 7, px)
    leaves(rng, image, palette, 14, (6, 13), px)
    berries(rng, image, 0.6, px)
    return image


def _water(rng, width, height, px):
    palette = pick(rng, WATER)
    down = np.linspace(rng.uniform(0, 0.5), rng.uniform(0.3, 0.8), height, dtype=np.float32)[:, None]
    ripples = fractal(rng, width, height, 3, stretch=(0.8, 6.0))
    image = tinted(0.5 * down + 0.75 * ripples - 0.15, palette)
    for _ in range(16):  # glints, nearer ones longer
        y = rng.integers(height)
        x, half = rng.integers(width), int(px * rng.uniform(3, 8 + 16 * y / height))
        cv2.ellipse(image, (int(x), int(y)), (half, max(1, half // 9)), 0, 0, 360, palette[2], -1, cv2.LINE_AA)
    if rng.random() < 0.4:
        pads = pick(rng, FOLIAGE)
        for _ in range(9):
            at, wide = (int(rng.integers(width)), int(height * rng.uniform(0.3, 1))), int(px * rng.uniform(8, 20))
            cv2.ellipse(image, at, (wide, wide // 3), 0, 20, 340, between(rng, pads), -1, cv2.LINE_AA)
    image = blur(image, 0.8 * px)
    if rng.random() < 0.7:
        blades(rng, image, pick(rng, FOLIAGE), 16, 0.9, px)
    return image


def _sky(rng, width, height, px):
    palette = pick(rng, SKY)
    down = np.linspace(0, 0.55, height, dtype=np.float32)[:, None]
    image = tinted(down + 0.6 * fractal(rng, width, height, 2, stretch=(1, 1.7)) - 0.1, palette)
    green = pick(rng, FOLIAGE)
    if rng.random() < 0.6:  # a treeline
        top = height * (rng.uniform(0.6, 0.85) - 0.16 * fractal(rng, width, 1, 8)[0])
        edge = np.stack([np.arange(width), top], -1)
        fill(image, np.concatenate([edge, [(width, height), (0, height)]]), between(rng, green[:2]))
        image = blur(image, 1.6 * px)
    twigs(rng, image, int(rng.integers(3, 7)), px)
    leaves(rng, image, green, int(rng.integers(8, 30)), (6, 14), px)
    berries(rng, image, 0.3, px)
    return image


def _bark(rng, width, height, px):
    palette = pick(rng, EARTH)
    image = tinted(fractal(rng, width, height, 4, stretch=(5.0, 0.9)), palette)
    for _ in range(22):  # cracks
        x, y = rng.uniform(0, width), rng.uniform(-0.2, 1) * height
        crack = np.cumsum(np.concatenate([[(x, y)], rng.normal(0, 2.2, (6, 2)) * px + [0, 9 * px]]), 0)
        stroke(image, crack, tone(palette[0], 0.6), rng.uniform(1, 3.4) * px)
    moss = pick(rng, FOLIAGE)
    for _ in range(int(rng.integers(0, 5))):
        at, wide = (int(rng.integers(width)), int(rng.integers(height))), int(px * rng.uniform(8, 26))
        cv2.ellipse(image, at, (wide // 2, wide), rng.uniform(-20, 20), 0, 360, between(rng, moss), -1, cv2.LINE_AA)
    image = blur(image, 0.9 * px)
    leaves(rng, image, moss, int(rng.integers(6, 24)), (6, 15), px)
    berries(rng, image, 0.3, px)
    return image


def _ground(rng, width, height, px):
    palette = pick(rng, EARTH)
    image = tinted(fractal(rng, width, height, 4), palette)
    for y in np.sort(rng.uniform(0, height, 110)):  # pebbles, nearer ones larger
        radius = px * rng.uniform(1.6, 3.0 + 7.5 * y / height)
        at, axes = (int(rng.uniform(0, width)), int(y)), (int(radius) + 1, int(radius * rng.uniform(0.5, 0.8)) + 1)
        colour, turn = between(rng, palette), rng.uniform(-25, 25)
        cv2.ellipse(image, (at[0], at[1] + 1), axes, turn, 0, 360, tone(colour, 0.5), -1, cv2.LINE_AA)
        cv2.ellipse(image, at, axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
    if rng.random() < 0.6:
        leaves(rng, image, pick(rng, FOLIAGE), 16, (6, 14), px)
    if rng.random() < 0.5:
        blades(rng, image, pick(rng, FOLIAGE), 14, 0.35, px)
    berries(rng, image, 0.4, px)
    return blur(image, 0.6 * px)


def _meadow(rng, width, height, px):
    palette = pick(rng, FOLIAGE)
    image = tinted(0.8 * fractal(rng, width, height, 3) + 0.1, palette)
    bokeh(rng, image, (*palette, pick(rng, BERRIES)), 12, px)
    blades(rng, image, palette, 40, 1.0, 1.4 * px)
    image = blur(image, 1.8 * px)
    blades(rng, image, palette, 50, 0.75, px)
    berries(rng, image, 0.8, px)
    return image
