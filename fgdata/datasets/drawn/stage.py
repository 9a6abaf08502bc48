"""The surroundings of a drawn bird: its perch, leaves in front of it, the light. All are independent of the class."""

from math import cos, sin

import cv2
import numpy as np

from .brush import Canvas, between, blur, curve, fill, rounded, stroke, tone
from .clutter import BARK, EARTH, FOLIAGE, fractal, leaf, leaf_outline, pick, tinted
from .plumage import Colour
from .pose import Pose


def perch(rng: np.random.Generator, image: np.ndarray, pose: Pose, grounded: bool) -> None:
    """Paints a perch under the feet into (H, W, 3) uint8; on standing ground mostly a rock or a shadow."""
    if pose.action == "flying":
        return
    foot = pose.world(pose.feet().mean(0)[None])[0] + np.array([0, 0.05 * pose.unit])
    if not grounded or rng.random() > 0.7:
        _branch(rng, image, foot, pose.unit)
        return
    if rng.random() < 0.6:
        _rock(rng, image, foot, pose.unit)
    height, width = image.shape[:2]
    y, x = np.ogrid[:height, :width]
    shadow = ((x - foot[0]) / (0.55 * pose.unit)) ** 2 + ((y - foot[1] - 0.04 * pose.unit) / (0.12 * pose.unit)) ** 2
    image[:] = image * (1 - 0.5 * np.exp(-1.5 * shadow.astype(np.float32)))[..., None]


def _branch(rng: np.random.Generator, image: np.ndarray, foot: np.ndarray, unit: float) -> None:
    height, width = image.shape[:2]
    thick, slope, bend = unit * rng.uniform(0.10, 0.2), rng.normal(0, 0.16), rng.normal(0, 0.1, 2)
    left, right = -0.1 * width, 1.1 * width
    if rng.random() < 0.35:  # it ends inside the image, a little beyond the bird
        if rng.random() < 0.5:
            left = foot[0] - unit * rng.uniform(0.4, 1.0)
        else:
            right = foot[0] + unit * rng.uniform(0.4, 1.0)
    x = np.linspace(left, right, 24)
    u = (x - foot[0]) / width
    middle = foot[1] + 0.5 * thick + slope * (x - foot[0]) + width * np.where(u < 0, bend[0], bend[1]) * u * u
    taper = np.linspace(*((1.15, 0.85) if rng.random() < 0.5 else (0.85, 1.15)), 24) * thick
    bark: Colour = rounded(np.array(pick(rng, BARK)) + rng.uniform(-14, 14, 3))
    for low, high, shade in ((-0.5, 0.5, 0.62), (-0.5, 0.28, 0.86), (-0.5, -0.02, 1.08), (-0.48, -0.3, 1.28)):
        rim = taper + rng.normal(0, 0.02 * thick, 24)
        upper, lower = np.stack([x, middle + low * rim], -1), np.stack([x, middle + high * rim], -1)
        fill(image, np.concatenate([upper, lower[::-1]]), tone(bark, shade))
    for i in rng.integers(1, 22, 10):  # knots and cracks
        at = np.array([x[i], middle[i] + rng.uniform(-0.3, 0.4) * thick])
        crack = np.array([(0, 0), (rng.uniform(0.03, 0.12), rng.uniform(-0.01, 0.01))])
        stroke(image, at + crack * unit, tone(bark, 0.45), 0.05 * thick)
    foliage = pick(rng, FOLIAGE)
    for i in rng.integers(0, 24, int(rng.integers(0, 9))):
        at, length = np.array([x[i], middle[i]]), rng.uniform(0.03, 0.07) * max(width, height)
        leaf(image, at, length, rng.uniform(0, 2 * np.pi), between(rng, foliage))


def _rock(rng: np.random.Generator, image: np.ndarray, foot: np.ndarray, unit: float) -> None:
    height, width = image.shape[:2]
    top = foot + np.array([rng.uniform(-0.3, 0.3), -0.01]) * unit
    below = (height - top[1]) / unit
    wide, tall = unit * rng.uniform(0.9, 1.8), unit * (rng.uniform(0.5, 0.9) if below > 1.8 else 0.55 * below + 0.2)
    angle = np.radians(np.linspace(0, 360, 15, endpoint=False))
    rim = np.stack([np.cos(angle), np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.7], -1)
    rim *= 1 + rng.uniform(-0.07, 0.07, (15, 1)) * (np.sin(angle) > -0.5)[:, None]
    outline = top + np.array([0, tall]) + curve((rim * [wide, tall]).tolist(), steps=4)
    mask = np.zeros((height, width), np.uint8)
    fill(mask, outline, (255, 255, 255))
    cover = mask.astype(np.float32)[..., None] / 255
    mound = cv2.Sobel(blur(cover[..., 0], 0.2 * unit), cv2.CV_32F, 0, 1) * (0.2 * unit)
    grain = fractal(rng, width, height, 9, octaves=5)
    stone = tinted(np.clip(1.1 * grain - 0.2 + mound, 0, 1), pick(rng, EARTH))
    image[:] = image + cover * (stone.astype(np.float32) - image)


def in_front(rng: np.random.Generator, width: int, height: int, pose: Pose) -> Canvas | None:
    """A few leaves or blades of grass in front of the lower part of the bird, or None in most images."""
    if rng.random() > 0.3:
        return None
    foliage = pick(rng, FOLIAGE[:3])
    canvas = Canvas.blank(width, height, foliage[1])
    for _ in range(int(rng.integers(1, 4))):
        at = pose.world(rng.uniform((-0.75, 0.1), (0.25, 0.45))[None])[0]
        colour, angle = between(rng, foliage), rng.uniform(0, 2 * np.pi)
        if rng.random() < 0.3:
            tip = at + np.array([rng.normal(0, 0.1), -rng.uniform(0.1, 0.3)]) * pose.unit
            root = np.array([at[0] + rng.normal(0, 0.2) * pose.unit, height + 4.0])
            blade = curve([root, (root + tip) / 2 + np.array([0.04 * pose.unit, 0]), tip], closed=False)
            canvas.line(blade, colour, 0.035 * pose.unit, cover=True)
        else:
            outline, vein = leaf_outline(at, rng.uniform(0.16, 0.3) * pose.unit, angle)
            canvas.fill(outline, colour)
            canvas.line(vein, tone(colour, 1.25), 0.012 * pose.unit)
    return canvas


def light(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(H, W, 3) float32 gain over the whole image: exposure, warmth, a gradient to one side, dappled shade."""
    warmth = rng.normal(0, 0.07)
    colour = np.array([1 + warmth, 1.0, 1 - warmth], np.float32) * rng.uniform(0.72, 1.16)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.22)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    field = 1 + strength * (x * cos(angle) + y * sin(angle)) - 0.07 * (x * x + y * y)
    if rng.random() < 0.4:
        field = field * (1 + rng.uniform(0.2, 0.5) * (fractal(rng, width, height, 4, octaves=2) - 0.55))
    return field[..., None] * colour
