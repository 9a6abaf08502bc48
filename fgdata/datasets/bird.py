"""Paints one bird: species x pose x individual -> colours and coverage.

Everything is painted flat at twice the image's resolution, averaged down, then shaded as a relief. Curves are in bird
units (see pose.py).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .plumage import COLOURS, Colour, Species
from .pose import Pose

SCALE = 2  # supersampling
SHIFT = 4  # fractional bits of OpenCV's polygon corners
HEAD = 0.25  # radius of the head
DARK = (26, 22, 22)
CREAM = (240, 230, 204)
MUTED = {  # back and head, belly: the body colours of an individual, far from every colour of a field mark
    "brown": ((126, 96, 68), (206, 188, 158)),
    "olive": ((114, 116, 76), (198, 194, 150)),
    "grey": ((128, 130, 134), (202, 202, 200)),
    "slate": ((86, 96, 108), (176, 180, 184)),
    "buff": ((176, 152, 116), (222, 206, 174)),
    "umber": ((92, 72, 58), (180, 156, 130)),
    "dove": ((158, 150, 146), (214, 206, 200)),
}


@dataclass(frozen=True)
class Individual:
    """Body colours of one bird, drawn without its class."""

    back: Colour
    belly: Colour
    wing: Colour
    leg: Colour
    texture_seed: int


def random_individual(rng: np.random.Generator) -> Individual:
    back, belly = list(MUTED.values())[rng.integers(len(MUTED))]
    back = _jitter(rng, back, 12)
    leg = [(70, 60, 56), (150, 110, 84), (110, 104, 100)][rng.integers(3)]
    return Individual(back, _jitter(rng, belly, 8), _tone(back, rng.uniform(0.66, 0.84)), leg, int(rng.integers(2**31)))


@dataclass(frozen=True)
class Painted:
    """A bird on nothing, at the image's resolution."""

    rgb: np.ndarray
    """(H, W, 3) float32, 0-255, not premultiplied."""
    cover: np.ndarray
    """(H, W) float32 in [0, 1]."""


class Canvas:
    """Flat colour and coverage at SCALE times the image. `fill` takes curves in image pixels."""

    def __init__(self, width: int, height: int, ground: Colour):
        self.rgb = np.empty((height * SCALE, width * SCALE, 3), np.uint8)
        self.rgb[:] = ground  # antialiased silhouettes blend into this, so it must be a colour of the bird
        self.cover = np.zeros(self.rgb.shape[:2], np.uint8)

    def fill(self, points: np.ndarray, colour: Colour, cover: bool = True) -> None:
        corners = _fixed(points)
        cv2.fillPoly(self.rgb, [corners], colour, cv2.LINE_AA, SHIFT)
        if cover:
            cv2.fillPoly(self.cover, [corners], 255, cv2.LINE_AA, SHIFT)

    def line(self, points: np.ndarray, colour: Colour, width: float, cover: bool = False) -> None:
        """`width` in image pixels."""
        corners, thick = _fixed(points), max(1, round(width * SCALE))
        cv2.polylines(self.rgb, [corners], False, colour, thick, cv2.LINE_AA, SHIFT)
        if cover:
            cv2.polylines(self.cover, [corners], False, 255, thick, cv2.LINE_AA, SHIFT)

    def averaged(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """-> (H, W, 3) float32 0-255 and coverage (H, W) float32 0-1 at the image's resolution."""
        rgb = cv2.resize(self.rgb, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        cover = cv2.resize(self.cover, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        return rgb, cover


def paint(kind: Species, pose: Pose, one: Individual, rng: np.random.Generator, width: int, height: int) -> Painted:
    """`rng` is the class-bound stream: it places spots and streaks and wobbles the marks' colours."""
    canvas = Canvas(width, height, one.back)
    marks = {part: _jitter(rng, COLOURS[mark[1]], 7) for part, mark in vars(kind).items() if mark[1]}
    raised = pose.action != "perched"
    if raised:
        _wing(canvas, pose, one, kind.wing[0], marks.get("wing"), far=True, raised=True)
    _tail(canvas, pose, kind.tail[0], marks["tail"])
    _legs(canvas, pose, one)
    _body(canvas, pose, one)
    _breast(canvas, pose, kind.breast[0], marks["breast"], rng)
    relief = canvas.cover.copy()
    _wing(canvas, pose, one, kind.wing[0], marks.get("wing"), far=False, raised=raised)
    _head(canvas, pose, one)
    _crown(canvas, pose, kind.crown[0], marks["crown"])
    _beak(canvas, pose, kind.beak[0], marks["beak"])
    _eye(canvas, pose)
    return _shaded(canvas, pose, one, relief, width, height)


def _body(canvas: Canvas, pose: Pose, one: Individual) -> None:
    outline = curve([(0.5, -0.2), (0.52, 0.06), (0.36, 0.26), (0.04, 0.34), (-0.28, 0.22), (-0.56, 0.06), (-0.6, -0.06),
                     (-0.4, -0.15), (-0.1, -0.25), (0.2, -0.31)])  # fmt: skip
    canvas.fill(pose.body(outline), one.back)
    neck = np.concatenate([pose.body(circle(0.27, -0.06, 0.23)), pose.head(circle(-0.02, 0.02, HEAD * 0.86))])
    canvas.fill(cv2.convexHull(neck.astype(np.float32))[:, 0], one.back)
    belly = curve([(0.5, -0.02), (0.52, 0.1), (0.34, 0.27), (0.04, 0.345), (-0.28, 0.225), (-0.5, 0.08), (-0.2, 0.1),
                   (0.2, 0.04)])  # fmt: skip
    canvas.fill(pose.body(belly), one.belly, cover=False)


def _breast(canvas: Canvas, pose: Pose, shape: str, colour: Colour, rng: np.random.Generator) -> None:
    region = curve([(0.5, -0.22), (0.66, -0.06), (0.6, 0.2), (0.36, 0.36), (0.04, 0.38), (-0.1, 0.26), (0.1, 0.1),
                    (0.2, -0.04), (0.32, -0.2)])  # fmt: skip
    layer = Canvas.__new__(Canvas)
    layer.rgb, layer.cover = canvas.rgb.copy(), np.zeros_like(canvas.cover)
    layer.fill(pose.body(region), colour if shape == "plain" else CREAM)
    if shape == "spotted":
        for x, y in _scatter(rng, 0.135):
            layer.fill(pose.body(circle(x, y, 0.044)), colour, cover=False)
    elif shape == "streaked":
        for x, y in _scatter(rng, 0.115):
            streak = np.array(
                [(x + 0.075, y - 0.075), (x + 0.01, y + 0.03), (x - 0.06, y + 0.075), (x - 0.01, y - 0.03)]
            )
            layer.fill(pose.body(streak), colour, cover=False)
    elif shape == "banded":
        layer.line(pose.body(curve([(0.64, 0.06), (0.5, 0.1), (0.3, 0.02), (0.14, -0.12)], closed=False)), colour,
                   0.15 * pose.unit)  # fmt: skip
    cv2.copyTo(layer.rgb, cv2.min(layer.cover, canvas.cover), canvas.rgb)


def _scatter(rng: np.random.Generator, step: float) -> np.ndarray:
    """(N, 2) jittered staggered rows over the breast."""
    rows, columns = np.mgrid[-2:6, -2:7]
    at = np.stack([columns + 0.5 * (rows % 2), rows], -1).reshape(-1, 2) * step
    return at + [0.0, -0.1] + rng.uniform(-0.014, 0.014, at.shape)


def _wing(canvas: Canvas, pose: Pose, one: Individual, shape: str, bar: Colour | None, far: bool, raised: bool) -> None:
    """A wing is ribs between two edges: `at(t, s)` runs from the shoulder (t 0) to the tip (t 1) and from the leading
    edge (s 0) to the trailing one (s 1)."""
    t = np.linspace(0, 1, 25)
    if raised:
        top = _bezier((0.3, -0.14), (0.42, -0.78), (-0.42, -1.02), t)
        bottom = _bezier((-0.3, -0.1), (-0.3, -0.48), (-0.42, -1.02), t)
        bottom -= 0.03 * np.abs(np.sin(t * np.pi * 6))[:, None] * [1, -0.4]  # tips of single feathers
    else:
        top = _bezier((0.2, -0.2), (-0.1, -0.33), (-0.74, 0.0), t)
        bottom = _bezier((0.24, -0.1), (0.1, 0.34), (-0.74, 0.0), t)
    if far:
        top, bottom = top + [0.16, 0.02], bottom + [0.16, 0.02]
    elif not raised:
        c, s = np.cos(pose.wing_droop), np.sin(pose.wing_droop)
        top, bottom = ((edge - top[0]) @ np.array([[c, s], [-s, c]]) + top[0] for edge in (top, bottom))

    def at(t_: np.ndarray | float, s_: np.ndarray | float) -> np.ndarray:
        t_, s_ = np.broadcast_arrays(t_, s_)
        a = np.stack([np.interp(t_, t, top[:, k]) for k in (0, 1)], -1)
        b = np.stack([np.interp(t_, t, bottom[:, k]) for k in (0, 1)], -1)
        return pose.body(a + (b - a) * s_[..., None])

    base = _tone(one.wing, 0.8) if far else one.wing
    canvas.fill(np.concatenate([at(t, 0.0), at(t[::-1], 1.0)]), base)
    cross = np.linspace(0, 1, 9)
    canvas.fill(np.concatenate([at(0.6 + 0.0 * cross, cross), at(1 - 0.4 * cross, 0.0)]), _tone(base, 0.8), cover=False)
    for s in np.linspace(0.14, 0.86, 5):  # flight feathers
        canvas.line(at(np.linspace(0.45, 1.0, 6), s), _tone(base, 0.62), 0.012 * pose.unit)
    for row, t_row in enumerate((0.1, 0.2)):  # coverts, as scallops
        s = np.linspace(0.08, 0.92, 19)
        canvas.line(at(t_row + 0.035 * np.abs(np.sin((s + row / 8) * 13)), s), _tone(base, 1.22), 0.012 * pose.unit)
    bars = {"plain": (), "one-barred": ((0.36, 0.5),), "two-barred": ((0.25, 0.36), (0.47, 0.58))}[shape]
    for start, end in bars:
        slant = 0.05 * np.sin(cross * np.pi)
        canvas.fill(
            np.concatenate([at(start + slant, cross), at(end + slant[::-1], cross[::-1])]), bar or base, cover=False
        )


def _tail(canvas: Canvas, pose: Pose, shape: str, colour: Colour) -> None:
    outlines = {
        "short": [[(0.1, -0.09), (-0.3, -0.1), (-0.32, 0.09), (0.1, 0.09)]],
        "long": [[(0.1, -0.08), (-0.45, -0.075), (-0.66, 0.0), (-0.45, 0.085), (0.1, 0.09)]],
        "forked": [
            [(0.1, -0.08), (-0.2, -0.1), (-0.6, -0.25), (-0.28, 0.0), (0.1, 0.04)],
            [(0.1, 0.08), (-0.2, 0.1), (-0.6, 0.25), (-0.28, 0.0), (0.1, -0.04)],
        ],
        "fanned": [[(0.1, -0.06), (-0.3, -0.3), (-0.42, -0.17), (-0.47, 0.0), (-0.42, 0.17), (-0.3, 0.3), (0.1, 0.06)]],
    }[shape]
    for outline in outlines:
        canvas.fill(pose.tail(np.array(outline)), colour)
    ends = {"short": (0.3, 0.05), "long": (0.55, 0.05), "forked": (0.48, 0.18), "fanned": (0.44, 0.22)}[shape]
    for y in np.linspace(-1, 1, 5 if shape == "fanned" else 3 if shape != "forked" else 2):
        canvas.line(
            pose.tail(np.array([(0.0, 0.03 * y), (-ends[0], ends[1] * y)])), _tone(colour, 0.72), 0.014 * pose.unit
        )


def _legs(canvas: Canvas, pose: Pose, one: Individual) -> None:
    if pose.action == "flying":
        return
    hips = pose.body(np.array([(-0.06, 0.2), (0.06, 0.22)]))
    for hip, foot in zip(hips, pose.feet()):
        ankle = pose.world(foot[None])[0]
        canvas.line(np.stack([hip, ankle]), one.leg, 0.034 * pose.unit, cover=True)
        for toe in ((0.09, 0.02), (0.05, 0.045), (-0.07, 0.02)):
            canvas.line(np.stack([ankle, pose.world((foot + toe)[None])[0]]), one.leg, 0.028 * pose.unit, cover=True)


def _head(canvas: Canvas, pose: Pose, one: Individual) -> None:
    canvas.fill(pose.head(circle(0, 0, HEAD)), one.back)
    canvas.fill(
        pose.head(curve([(0.22, 0.02), (0.12, 0.17), (-0.06, 0.17), (-0.13, 0.04), (0.02, 0.0)])),
        one.belly,
        cover=False,
    )


def _crown(canvas: Canvas, pose: Pose, shape: str, colour: Colour) -> None:
    arc = np.radians(np.linspace(-14, -178, 14))
    cap = np.concatenate([np.stack([np.cos(arc), np.sin(arc)], -1) * (HEAD * 1.04), [(-0.16, -0.06), (0.06, -0.1)]])
    crests = {
        "capped": [],
        "peaked": [[(0.16, -0.18), (0.0, -0.34), (-0.22, -0.52), (-0.2, -0.3), (-0.25, -0.06)]],
        "spiked": [[(x + 0.07, -0.16), (1.5 * x - 0.05, -0.47 + abs(x) * 0.5), (x - 0.06, -0.14)]
                   for x in (-0.2, -0.12, -0.03, 0.06, 0.14)],
        "fan-crested": [[(0.2, -0.1), *((0.34 * np.cos(a) - 0.03, 0.36 * np.sin(a) - 0.12)
                                        for a in np.radians(np.linspace(-25, -165, 12))), (-0.24, -0.04)]],
        "plumed": [curve([(0.06, -0.2), (0.05, -0.34), (0.14, -0.44), (0.3, -0.46), (0.34, -0.36), (0.24, -0.33), (0.14, -0.34),
                          (0.12, -0.2)])],
    }[shape]  # fmt: skip
    for crest in crests:
        canvas.fill(pose.head(np.asarray(crest)), colour)
    canvas.fill(pose.head(cap), colour)
    if shape == "fan-crested":
        for a in np.radians(np.linspace(-45, -145, 5)):
            ray = np.array(
                [(0.15 * np.cos(a) - 0.03, 0.15 * np.sin(a) - 0.1), (0.34 * np.cos(a) - 0.03, 0.36 * np.sin(a) - 0.12)]
            )
            canvas.line(pose.head(ray), _tone(colour, 0.7), 0.016 * pose.unit)


def _beak(canvas: Canvas, pose: Pose, shape: str, colour: Colour) -> None:
    upper, lower = {
        "cone": ([(0.19, -0.12), (0.32, -0.07), (0.44, 0.03), (0.2, 0.04)], [(0.2, 0.02), (0.43, 0.03), (0.2, 0.12)]),
        "needle": (curve([(0.2, -0.05), (0.45, -0.04), (0.68, 0.09), (0.45, 0.01), (0.2, 0.02)]), None),
        "hook": (curve([(0.18, -0.13), (0.34, -0.12), (0.45, 0.0), (0.41, 0.16), (0.35, 0.05), (0.2, 0.04)]),
                 [(0.2, 0.02), (0.34, 0.05), (0.3, 0.1), (0.19, 0.12)]),
        "dagger": ([(0.2, -0.09), (0.34, -0.055), (0.68, 0.03), (0.2, 0.03)], [(0.2, 0.02), (0.67, 0.03), (0.34, 0.075), (0.2, 0.09)]),
    }[shape]  # fmt: skip
    if lower is not None:
        canvas.fill(pose.head(np.asarray(lower)), _tone(colour, 0.76))
    canvas.fill(pose.head(np.asarray(upper)), colour)


def _eye(canvas: Canvas, pose: Pose) -> None:
    canvas.fill(pose.head(circle(0.1, -0.03, 0.064)), (236, 228, 210), cover=False)
    canvas.fill(pose.head(circle(0.1, -0.03, 0.05)), DARK, cover=False)
    canvas.fill(pose.head(circle(0.116, -0.048, 0.016)), (250, 250, 250), cover=False)


def _shaded(canvas: Canvas, pose: Pose, one: Individual, inner: np.ndarray, width: int, height: int) -> Painted:
    """Average down, then light from above: the blurred silhouette is the relief, its slope the shade."""
    size = (width, height)
    rgb, cover = canvas.averaged(width, height)
    relief = cv2.GaussianBlur(cover, (0, 0), 0.16 * pose.unit)
    slope = cv2.Sobel(relief, cv2.CV_32F, 0, 1) * (0.10 * pose.unit) + cv2.Sobel(relief, cv2.CV_32F, 1, 0) * (
        0.03 * pose.unit
    )
    noise = np.random.Generator(np.random.Philox(key=one.texture_seed)).standard_normal((24, 72), np.float32)
    place = np.float32([[-0.9, -0.7], [0.8, -0.7], [-0.9, 0.5]])
    corners = np.float32([[0, 0], [72, 0], [0, 24]])
    warp = cv2.getAffineTransform(corners, pose.body(place).astype(np.float32))
    feathers = cv2.warpAffine(noise, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    rgb *= np.clip(1.04 + slope + 0.045 * feathers, 0.45, 1.5)[..., None]
    return Painted(np.clip(rgb, 0, 255), cover)


def curve(points: list, closed: bool = True, steps: int = 8) -> np.ndarray:
    """Catmull-Rom curve through the points: (N, 2) -> (N * steps, 2), or (N - 1) * steps + 1 when open."""
    p = np.asarray(points, np.float64)
    if closed:
        before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        end = np.concatenate([p[:1], p, p[-1:]])
        before, p, after, beyond = end[:-3], end[1:-2], end[2:-1], end[3:]
    u = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (x[:, None] for x in (before, p, after, beyond))
    out = 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)
    out = out.reshape(-1, 2)
    return out if closed else np.concatenate([out, np.asarray(points, np.float64)[-1:]])


def circle(x: float, y: float, radius: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], -1)


def _bezier(a: tuple, b: tuple, c: tuple, t: np.ndarray) -> np.ndarray:
    t = t[:, None]
    return (1 - t) ** 2 * np.array(a) + 2 * t * (1 - t) * np.array(b) + t**2 * np.array(c)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Image pixels -> OpenCV's fixed point on the supersampled canvas, pixel centres at whole numbers."""
    return np.round((points * SCALE - 0.5) * 2**SHIFT).astype(np.int32)


def _jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    red, green, blue = np.clip(
        np.array(colour) + rng.uniform(-amount, amount, 3) + rng.uniform(-amount, amount), 0, 255
    )
    return int(red), int(green), int(blue)


def _tone(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue
