"""The world around a drawn bird: backgrounds, perches, leaves in front, light. Nothing here sees the class.

Colours are RGB, 0-255; `px` is the number of image pixels to one pixel of a picture of 256.
"""

import cv2
import numpy as np

from .bird import Canvas, curve
from .pose import Pose

Palette = tuple[tuple[int, int, int], ...]
FOLIAGE: tuple[Palette, ...] = (  # dark, middle, light: high summer, spring, autumn, dusk, olive grove
    ((18, 40, 16), (62, 104, 38), (160, 186, 88)),
    ((40, 66, 28), (112, 152, 58), (206, 216, 134)),
    ((56, 32, 16), (150, 88, 30), (218, 170, 76)),
    ((16, 28, 34), (44, 72, 70), (110, 136, 122)),
    ((46, 50, 32), (102, 108, 74), (186, 184, 146)),
)
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
EARTH: tuple[Palette, ...] = (
    ((54, 44, 34), (122, 104, 82), (192, 176, 150)),
    ((62, 62, 62), (124, 124, 122), (198, 196, 190)),
    ((84, 56, 38), (158, 116, 80), (220, 188, 148)),
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


def background(rng: np.random.Generator, width: int, height: int, pose: Pose) -> np.ndarray:
    """(H, W, 3) uint8: a scene, clutter at two depths, and something for the bird to stand on."""
    px = max(width, height) / 256
    scene = (_foliage, _branches, _water, _sky, _bark, _ground, _meadow)[rng.integers(7)]
    image = scene(rng, width, height, px)
    if pose.action != "flying":
        grounded = scene in (_ground, _water, _meadow) and rng.random() < 0.7
        (_stand if grounded else _perch)(rng, image, pose)
    return image


def _foliage(rng, width, height, px):
    palette = _one(rng, FOLIAGE)
    image = tinted(fractal(rng, width, height, 3), palette)
    _bokeh(rng, image, palette, 14, px)
    image = _blur(image, 2.5 * px)
    _leaves(rng, image, palette, 36, (9, 20), px)
    image = _blur(image, 1.1 * px)
    _twigs(rng, image, 3, px)
    _leaves(rng, image, palette, 26, (7, 17), px)
    _berries(rng, image, 0.5, px)
    return image


def _branches(rng, width, height, px):
    palette = _one(rng, FOLIAGE)
    image = tinted(0.65 * fractal(rng, width, height, 2) + 0.25, palette)
    _bokeh(rng, image, palette, 8, px)
    _twigs(rng, image, 7, 1.5 * px)
    image = _blur(image, 2.0 * px)
    _twigs(rng, image, 7, px)
    _leaves(rng, image, palette, 14, (6, 13), px)
    _berries(rng, image, 0.6, px)
    return image


def _water(rng, width, height, px):
    palette = _one(rng, WATER)
    down = np.linspace(rng.uniform(0, 0.5), rng.uniform(0.3, 0.8), height, dtype=np.float32)[:, None]
    ripples = fractal(rng, width, height, 3, stretch=(0.8, 6.0))
    image = tinted(0.5 * down + 0.75 * ripples - 0.15, palette)
    for _ in range(16):  # glints, nearer ones longer
        y = rng.integers(height)
        x, half = rng.integers(width), int(px * rng.uniform(3, 8 + 16 * y / height))
        cv2.ellipse(image, (int(x), int(y)), (half, max(1, half // 9)), 0, 0, 360, palette[2], -1, cv2.LINE_AA)
    if rng.random() < 0.4:
        pads = _one(rng, FOLIAGE)
        for _ in range(9):
            at, wide = (int(rng.integers(width)), int(height * rng.uniform(0.3, 1))), int(px * rng.uniform(8, 20))
            cv2.ellipse(image, at, (wide, wide // 3), 0, 20, 340, _between(rng, pads), -1, cv2.LINE_AA)
    image = _blur(image, 0.8 * px)
    if rng.random() < 0.7:
        _blades(rng, image, _one(rng, FOLIAGE), 16, 0.9, px)
    return image


def _sky(rng, width, height, px):
    palette = _one(rng, SKY)
    down = np.linspace(0, 0.55, height, dtype=np.float32)[:, None]
    image = tinted(down + 0.6 * fractal(rng, width, height, 2, stretch=(1, 1.7)) - 0.1, palette)
    leaves = _one(rng, FOLIAGE)
    if rng.random() < 0.6:  # a treeline
        top = height * (rng.uniform(0.6, 0.85) - 0.16 * fractal(rng, width, 1, 8)[0])
        edge = np.stack([np.arange(width), top], -1)
        _fill(image, np.concatenate([edge, [(width, height), (0, height)]]), _between(rng, leaves[:2]))
        image = _blur(image, 1.6 * px)
    _twigs(rng, image, int(rng.integers(3, 7)), px)
    _leaves(rng, image, leaves, int(rng.integers(8, 30)), (6, 14), px)
    _berries(rng, image, 0.3, px)
    return image


def _bark(rng, width, height, px):
    palette = _one(rng, EARTH)
    image = tinted(fractal(rng, width, height, 4, stretch=(5.0, 0.9)), palette)
    for _ in range(22):  # cracks
        x, y = rng.uniform(0, width), rng.uniform(-0.2, 1) * height
        crack = np.cumsum(np.concatenate([[(x, y)], rng.normal(0, 2.2, (6, 2)) * px + [0, 9 * px]]), 0)
        _stroke(image, crack, tuple(int(c * 0.6) for c in palette[0]), rng.uniform(1, 3.4) * px)
    moss = _one(rng, FOLIAGE)
    for _ in range(int(rng.integers(0, 5))):
        at, wide = (int(rng.integers(width)), int(rng.integers(height))), int(px * rng.uniform(8, 26))
        cv2.ellipse(image, at, (wide // 2, wide), rng.uniform(-20, 20), 0, 360, _between(rng, moss), -1, cv2.LINE_AA)
    image = _blur(image, 0.9 * px)
    _leaves(rng, image, moss, int(rng.integers(6, 24)), (6, 15), px)
    _berries(rng, image, 0.3, px)
    return image


def _ground(rng, width, height, px):
    palette = _one(rng, EARTH)
    image = tinted(fractal(rng, width, height, 4), palette)
    for y in np.sort(rng.uniform(0, height, 110)):  # pebbles, nearer ones larger
        radius = px * rng.uniform(1.6, 3.0 + 7.5 * y / height)
        at, axes = (int(rng.uniform(0, width)), int(y)), (int(radius) + 1, int(radius * rng.uniform(0.5, 0.8)) + 1)
        colour, turn = _between(rng, palette), rng.uniform(-25, 25)
        cv2.ellipse(image, (at[0], at[1] + 1), axes, turn, 0, 360, tuple(int(c * 0.5) for c in colour), -1, cv2.LINE_AA)
        cv2.ellipse(image, at, axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
    if rng.random() < 0.6:
        _leaves(rng, image, _one(rng, FOLIAGE), 16, (6, 14), px)
    if rng.random() < 0.5:
        _blades(rng, image, _one(rng, FOLIAGE), 14, 0.35, px)
    _berries(rng, image, 0.4, px)
    return _blur(image, 0.6 * px)


def _meadow(rng, width, height, px):
    palette = _one(rng, FOLIAGE)
    image = tinted(0.8 * fractal(rng, width, height, 3) + 0.1, palette)
    _bokeh(rng, image, (*palette, _one(rng, BERRIES)), 12, px)
    _blades(rng, image, palette, 40, 1.0, 1.4 * px)
    image = _blur(image, 1.8 * px)
    _blades(rng, image, palette, 50, 0.75, px)
    _berries(rng, image, 0.8, px)
    return image


def _perch(rng: np.random.Generator, image: np.ndarray, pose: Pose) -> None:
    """A branch across the picture through the bird's feet."""
    height, width = image.shape[:2]
    foot = pose.world(pose.feet().mean(0)[None])[0] + [0, 0.055 * pose.unit]
    thick, slope = pose.unit * rng.uniform(0.10, 0.2), rng.normal(0, 0.16)
    bend = rng.normal(0, 0.1, 2) * width
    start, end = rng.choice([-0.1, 1.1], p=[0.5, 0.5]), rng.uniform(0.1, 0.9)
    left, right = (-0.1, 1.1) if rng.random() < 0.6 else sorted((float(start), float(end)))
    if not left * width < foot[0] < right * width:
        left, right = -0.1, 1.1
    xs = np.linspace(left, right, 24) * width
    u = (xs - foot[0]) / width
    middle = np.stack(
        [xs, foot[1] + 0.5 * thick + slope * (xs - foot[0]) + np.where(u < 0, bend[0], bend[1]) * u**2], -1
    )
    bark = np.array(_one(rng, BARK)) + rng.uniform(-14, 14, 3)
    across = np.stack([np.linspace(1.15, 0.85, 24), np.linspace(0.85, 1.15, 24)][rng.integers(2) :][:1])[0]
    for low, high, tone in ((-0.5, 0.5, 0.62), (-0.5, 0.28, 0.86), (-0.5, -0.02, 1.08), (-0.48, -0.3, 1.28)):
        rim = across * thick + rng.normal(0, 0.02 * thick, 24)
        upper, lower = middle + [0, 1] * (low * rim)[:, None], middle + [0, 1] * (high * rim)[:, None]
        _fill(image, np.concatenate([upper, lower[::-1]]), _rgb(bark * tone))
    for i in rng.integers(1, 22, 10):  # knots and cracks
        at = middle[i] + [0, rng.uniform(-0.3, 0.4) * thick]
        _stroke(image, np.stack([at, at + [rng.uniform(3, 12), rng.uniform(-1, 1)]]), _rgb(bark * 0.45), 0.05 * thick)
    px = max(width, height) / 256
    leaves = _one(rng, FOLIAGE)
    for i in rng.integers(0, 24, int(rng.integers(0, 9))):
        _leaf(image, middle[i], rng.uniform(8, 17) * px, rng.uniform(0, 2 * np.pi), _between(rng, leaves))


def _stand(rng: np.random.Generator, image: np.ndarray, pose: Pose) -> None:
    """A rock, or the ground itself, under the feet, and a soft shadow on it."""
    height, width = image.shape[:2]
    foot = pose.world(pose.feet().mean(0)[None])[0] + [0, 0.05 * pose.unit]
    if rng.random() < 0.6:
        top = foot + [rng.uniform(-0.15, 0.15) * pose.unit, -0.01 * pose.unit]
        w, h = pose.unit * rng.uniform(0.5, 0.9), max(height - top[1] + 8, pose.unit * 0.2)
        rock = np.array(_between(rng, _one(rng, EARTH)))
        outline = np.array(
            [(-1.25, 1), (-1, 0.3), (-0.8, 0.03), (-0.3, 0), (0.35, 0), (0.8, 0.04), (1, 0.35), (1.3, 1)]
        )
        outline = outline + rng.uniform(-0.06, 0.06, (8, 2)) * [1, 0.2]
        for tone, shrink in ((0.6, 1.0), (0.85, 0.88), (1.05, 0.72)):
            _fill(image, top + curve((outline * [w * shrink, h]).tolist()), _rgb(rock * tone))
        for _ in range(12):
            at = top + [rng.uniform(-0.8, 0.8) * w, rng.uniform(0.05, 0.6) * min(h, pose.unit)]
            cv2.circle(
                image,
                (int(at[0]), int(at[1])),
                int(rng.integers(1, 4)),
                _rgb(rock * rng.uniform(0.6, 1.2)),
                -1,
                cv2.LINE_AA,
            )
    yy, xx = np.ogrid[:height, :width]
    shadow = ((xx - foot[0]) / (0.55 * pose.unit)) ** 2 + ((yy - foot[1] - 0.04 * pose.unit) / (0.12 * pose.unit)) ** 2
    image[:] = image * (1 - 0.5 * np.exp(-1.5 * shadow.astype(np.float32)))[..., None]


def in_front(rng: np.random.Generator, width: int, height: int, pose: Pose) -> Canvas | None:
    """Sometimes a few leaves or blades of grass between the viewer and the lower part of the bird."""
    if rng.random() > 0.3:
        return None
    palette = _one(rng, FOLIAGE[:3])
    canvas = Canvas(width, height, palette[1])
    for _ in range(int(rng.integers(1, 4))):
        at = pose.world(np.array([[rng.uniform(-0.75, 0.25), rng.uniform(0.1, 0.45)]]))[0]
        colour, angle = _between(rng, palette), rng.uniform(0, 2 * np.pi)
        if rng.random() < 0.3:
            tip = at + [rng.normal(0, 0.1) * pose.unit, -rng.uniform(0.1, 0.3) * pose.unit]
            root = np.array([at[0] + rng.normal(0, 0.2) * pose.unit, height + 4.0])
            canvas.line(curve([root.tolist(), ((root + tip) / 2 + [4, 0]).tolist(), tip.tolist()], closed=False), colour,
                        0.035 * pose.unit, cover=True)  # fmt: skip
        else:
            outline, vein = _leaf_outline(at, rng.uniform(0.16, 0.3) * pose.unit, angle)
            canvas.fill(outline, colour)
            canvas.line(vein, _rgb(np.array(colour) * 1.25), 0.012 * pose.unit)
    return canvas


def light(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(H, W, 3) float32 gain over the whole picture: exposure, warmth, a falling-off to one side, dappled shade."""
    warmth = rng.normal(0, 0.07)
    colour = np.array([1 + warmth, 1.0, 1 - warmth]) * rng.uniform(0.72, 1.16)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.22)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    field = 1 + strength * (x * np.cos(angle) + y * np.sin(angle)) - 0.07 * (x * x + y * y)
    if rng.random() < 0.4:
        field = field * (1 + rng.uniform(0.2, 0.5) * (fractal(rng, width, height, 4, octaves=2) - 0.55))
    return (field[..., None] * colour).astype(np.float32)


def fractal(
    rng: np.random.Generator, width: int, height: int, cells: float, octaves: int = 4, stretch=(1.0, 1.0)
) -> np.ndarray:
    """(H, W) float32, about [0, 1]: value noise, `cells` to the long side in its first octave, times `stretch` in x, y."""
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
    """(H, W) in [0, 1] -> (H, W, 3) uint8 along the palette from dark to light."""
    steps = np.linspace(0, 255, len(palette))
    table = np.stack([np.interp(np.arange(256), steps, channel) for channel in zip(*palette)], -1)
    level = np.clip(field * 255, 0, 255).astype(np.uint8)
    return cv2.LUT(cv2.merge([level] * 3), table.astype(np.uint8)[None])


def _bokeh(rng, image, palette, count, px):
    height, width = image.shape[:2]
    layer = image.copy()
    for _ in range(count):
        at = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(layer, at, int(px * rng.uniform(6, 20)), _between(rng, palette), -1, cv2.LINE_AA)
    cv2.addWeighted(layer, 0.5, image, 0.5, 0, dst=image)


def _leaves(rng, image, palette, count, lengths, px):
    height, width = image.shape[:2]
    drift = rng.uniform(0, 2 * np.pi)
    for x, y in rng.uniform(-0.05, 1.05, (count, 2)) * [width, height]:
        angle = drift + rng.normal(0, 0.8)
        _leaf(image, np.array([x, y]), rng.uniform(*lengths) * px, angle, _between(rng, palette))


def _leaf(image, at, length, angle, colour):
    outline, vein = _leaf_outline(at, length, angle)
    _fill(image, outline, colour)
    _stroke(image, vein, _rgb(np.array(colour) * 1.22), 0.06 * length)


LEAF = curve([(-1, 0), (-0.4, -0.38), (0.3, -0.34), (1, 0), (0.3, 0.34), (-0.4, 0.38)], steps=3)


def _leaf_outline(at: np.ndarray, length: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    c, s = length * np.cos(angle), length * np.sin(angle)
    turn = np.array([[c, s], [-s, c]])
    return LEAF @ turn + at, np.array([(-1.2, 0), (0.8, 0)]) @ turn + at


def _twigs(rng, image, count, px):
    height, width = image.shape[:2]
    for _ in range(count):
        at, angle = rng.uniform(0, 1, 2) * [width, height], rng.uniform(0, 2 * np.pi)
        step = max(width, height) * rng.uniform(0.06, 0.16)
        angles = angle + np.cumsum(rng.normal(0, 0.22, 8))
        points = at + np.cumsum(np.stack([np.cos(angles), np.sin(angles)], -1) * step, 0)
        bark, thick = np.array(_one(rng, BARK)) * rng.uniform(0.6, 1.2), rng.uniform(1.0, 4.5) * px
        _stroke(image, points, _rgb(bark), thick)
        _stroke(image, points - [0, 0.25 * thick], _rgb(bark * 1.3), 0.35 * thick)


def _blades(rng, image, palette, count, tall, px):
    height, width = image.shape[:2]
    for x in rng.uniform(-0.1, 1.1, count) * width:
        tip = np.array([x + rng.normal(0, 0.12) * width, height * (1 - tall * rng.uniform(0.3, 1.0))])
        middle = np.array([x + 0.25 * (tip[0] - x), (height + tip[1]) / 2])
        _stroke(image, np.stack([[x, height + 2], middle, tip]), _between(rng, palette), rng.uniform(1, 2.6) * px)


def _berries(rng, image, chance, px):
    """Spots in the colours of field marks, so that a colour somewhere in the picture tells nothing."""
    if rng.random() > chance:
        return
    height, width = image.shape[:2]
    colour, radius = np.array(_one(rng, BERRIES)), rng.uniform(1.6, 4.2) * px
    for _ in range(int(rng.integers(2, 5))):
        centre = rng.uniform(0, 1, 2) * [width, height]
        for x, y in centre + rng.normal(0, 9 * px, (int(rng.integers(2, 7)), 2)):
            cv2.circle(
                image, (int(x), int(y)), max(1, int(radius)), _rgb(colour * rng.uniform(0.7, 1.05)), -1, cv2.LINE_AA
            )


def _one(rng, choices):
    return choices[rng.integers(len(choices))]


def _between(rng, palette) -> tuple[int, int, int]:
    """A colour somewhere along the palette."""
    at = rng.uniform(0, len(palette) - 1)
    i = min(int(at), len(palette) - 2)
    low, high = np.array(palette[i]), np.array(palette[i + 1])
    return _rgb(low + (high - low) * (at - i))


def _rgb(colour) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, int(channel))) for channel in colour)
    return red, green, blue


def _blur(image, sigma):
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _fill(image, points, colour):
    cv2.fillPoly(image, [np.round(points * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def _stroke(image, points, colour, width):
    cv2.polylines(image, [np.round(points * 16).astype(np.int32)], False, colour, max(1, round(width)), cv2.LINE_AA, 4)
