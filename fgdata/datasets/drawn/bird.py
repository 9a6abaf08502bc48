"""Paints one bird: species x pose x individual -> colours and coverage.

Everything is painted flat at a multiple of the image's resolution, averaged to its size, then shaded like a relief.
Curves are in bird units (see pose.py).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .brush import Canvas, bezier, blur, circle, curve, fill, jitter, tone
from .plumage import COLOURS, Colour, Species
from .pose import HEAD, Pose

DARK = (26, 22, 22)
CREAM = (240, 230, 204)
MUTED = {  # back and head, belly: body colours of an individual, distinct from all colours of field marks
    "brown": ((126, 96, 68), (206, 188, 158)),
    "olive": ((114, 116, 76), (198, 194, 150)),
    "grey": ((128, 130, 134), (202, 202, 200)),
    "slate": ((86, 96, 108), (176, 180, 184)),
    "buff": ((176, 152, 116), (222, 206, 174)),
    "umber": ((92, 72, 58), (180, 156, 130)),
    "dove": ((158, 150, 146), (214, 206, 200)),
}
LEGS = ((70, 60, 56), (150, 110, 84), (110, 104, 100))
BARS = {"plain": (), "one-barred": ((0.36, 0.5),), "two-barred": ((0.25, 0.36), (0.47, 0.58))}


@dataclass(frozen=True)
class Individual:
    """Body colours of one bird, independent of its class."""

    back: Colour
    belly: Colour
    wing: Colour
    leg: Colour
    feathers: np.ndarray
    """(24, 72) float32 noise: light and dark feathers along the body."""


def random_individual(rng: np.random.Generator) -> Individual:
    back, belly = list(MUTED.values())[rng.integers(len(MUTED))]
    back = jitter(rng, back, 12)
    wing = tone(back, rng.uniform(0.66, 0.84))
    leg = LEGS[rng.integers(len(LEGS))]
    return Individual(back, jitter(rng, belly, 8), wing, leg, rng.standard_normal((24, 72), np.float32))


def paint(
    kind: Species, pose: Pose, one: Individual, rng: np.random.Generator, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Paints a bird -> (H, W, 3) float32 0-255, not premultiplied, and coverage (H, W) float32 in [0, 1].

    `rng` is the stream that may depend on the class: it places spots and streaks and varies the marks' colours.
    """
    marks = {part: jitter(rng, COLOURS[colour], 7) for part, (_, colour) in vars(kind).items() if colour}
    raised = pose.action != "perched"
    canvas = Canvas.blank(width, height, one.back)
    if raised:
        _wing(canvas, pose, one, kind.wing[0], marks.get("wing"), far=True, raised=True)
    _tail(canvas, pose, kind.tail[0], marks["tail"])
    if pose.action != "flying":
        _legs(canvas, pose, one)
    _body(canvas, pose, one)
    _breast(canvas, pose, kind.breast[0], marks["breast"], rng)
    wing = _wing(canvas, pose, one, kind.wing[0], marks.get("wing"), far=False, raised=raised)
    _head(canvas, pose, one)
    _crown(canvas, pose, kind.crown[0], marks["crown"])
    _beak(canvas, pose, kind.beak[0], marks["beak"])
    _eye(canvas, pose)
    rgb, cover = canvas.averaged()
    rgb *= _shade(cover, wing, pose, one)[..., None]
    return np.clip(rgb, 0, 255, out=rgb), cover


def _body(canvas: Canvas, pose: Pose, one: Individual) -> None:
    outline = [(0.5, -0.2), (0.52, 0.06), (0.36, 0.26), (0.04, 0.34), (-0.28, 0.22), (-0.56, 0.06), (-0.6, -0.06),
               (-0.4, -0.15), (-0.1, -0.25), (0.2, -0.31)]  # fmt: skip
    canvas.fill(pose.body(curve(outline)), one.back)
    neck = np.concatenate([pose.body(circle(0.27, -0.06, 0.23)), pose.head(circle(-0.02, 0.02, HEAD * 0.86))])
    canvas.fill(cv2.convexHull(neck.astype(np.float32))[:, 0], one.back)
    belly = [(0.5, -0.02), (0.52, 0.1), (0.34, 0.27), (0.04, 0.345), (-0.28, 0.225), (-0.5, 0.08), (-0.2, 0.1),
             (0.2, 0.04)]  # fmt: skip
    canvas.fill(pose.body(curve(belly)), one.belly, cover=False)


def _breast(canvas: Canvas, pose: Pose, shape: str, colour: Colour, rng: np.random.Generator) -> None:
    region = [(0.5, -0.22), (0.66, -0.06), (0.6, 0.2), (0.36, 0.36), (0.04, 0.38), (-0.1, 0.26), (0.1, 0.1),
              (0.2, -0.04), (0.32, -0.2)]  # fmt: skip
    layer = canvas.overlay()
    layer.fill(pose.body(curve(region)), colour if shape == "plain" else CREAM)
    if shape == "spotted":
        for x, y in _scattered(rng, 0.135):
            layer.fill(pose.body(circle(x, y, 0.044)), colour, cover=False)
    elif shape == "streaked":
        streak = np.array([(0.075, -0.075), (0.01, 0.03), (-0.06, 0.075), (-0.01, -0.03)])
        for at in _scattered(rng, 0.115):
            layer.fill(pose.body(at + streak), colour, cover=False)
    elif shape == "banded":
        band = curve([(0.64, 0.06), (0.5, 0.1), (0.3, 0.02), (0.14, -0.12)], closed=False)
        layer.line(pose.body(band), colour, 0.15 * pose.unit)
    canvas.lay(layer)


def _scattered(rng: np.random.Generator, step: float) -> np.ndarray:
    """(N, 2) points in jittered, staggered rows over the breast."""
    rows, columns = np.mgrid[-2:6, -2:7]
    at = np.stack([columns + 0.5 * (rows % 2), rows], -1).reshape(-1, 2) * step
    return at - np.array([0.0, 0.1]) + rng.uniform(-0.014, 0.014, at.shape)


def _wing(
    canvas: Canvas, pose: Pose, one: Individual, shape: str, bar: Colour | None, far: bool, raised: bool
) -> np.ndarray:
    """Paints a wing and returns its outline. The point `at(t, s)` of a wing lies between shoulder (t 0) and tip (t 1)
    and between the leading (s 0) and the trailing edge (s 1)."""
    t = np.linspace(0, 1, 25)
    if raised:
        top = bezier((0.3, -0.14), (0.42, -0.78), (-0.42, -1.02), t)
        bottom = bezier((-0.3, -0.1), (-0.3, -0.48), (-0.42, -1.02), t)
        bottom -= 0.03 * np.abs(np.sin(t * np.pi * 6))[:, None] * [1, -0.4]  # tips of single feathers
    else:
        top = bezier((0.2, -0.2), (-0.1, -0.33), (-0.74, 0.0), t)
        bottom = bezier((0.24, -0.1), (0.1, 0.34), (-0.74, 0.0), t)
    turn = -0.5 if far else 0.0 if raised else pose.wing_droop
    c, s = np.cos(turn), np.sin(turn)
    top, bottom = ((edge - top[0]) @ np.array([[c, s], [-s, c]]) + top[0] for edge in (top, bottom))

    def at(t_: np.ndarray | float, s_: np.ndarray | float) -> np.ndarray:
        t_, s_ = np.broadcast_arrays(t_, s_)
        a = np.stack([np.interp(t_, t, top[:, k]) for k in (0, 1)], -1)
        b = np.stack([np.interp(t_, t, bottom[:, k]) for k in (0, 1)], -1)
        return pose.body(a + (b - a) * s_[..., None])

    base = tone(one.wing, 0.8) if far else one.wing
    outline = np.concatenate([at(t, 0.0), at(t[::-1], 1.0)])
    canvas.fill(outline, base)
    across = np.linspace(0, 1, 9)
    primaries = np.concatenate([at(0.58 + 0.1 * across, across), at(1.0, 0.0)[None]])
    canvas.fill(primaries, tone(base, 0.82), cover=False)
    for s in np.linspace(0.14, 0.86, 5):  # flight feathers
        canvas.line(at(np.linspace(0.5, 1.0, 6), s), tone(base, 0.62), 0.012 * pose.unit)
    s = np.linspace(0.04, 0.96, 41)
    for row, t_row in enumerate(() if raised else (0.08, 0.16, 0.24)):  # coverts, as rows of scales
        scales = at(t_row + 0.05 * np.abs(np.sin((s * 5 + row / 2) * np.pi)), s)
        canvas.line(scales, tone(base, 0.78), 0.02 * pose.unit)
        canvas.line(scales - [0, 0.016 * pose.unit], tone(base, 1.16), 0.01 * pose.unit)
    slant = 0.05 * np.sin(across * np.pi)
    for start, end in BARS[shape]:
        stripe = np.concatenate([at(start + slant, across), at(end + slant[::-1], across[::-1])])
        canvas.fill(stripe, bar or base, cover=False)
    return outline


def _tail(canvas: Canvas, pose: Pose, shape: str, colour: Colour) -> None:
    outlines = {
        "short": [[(0.1, -0.09), (-0.3, -0.1), (-0.33, 0.0), (-0.31, 0.1), (0.1, 0.09)]],
        "long": [
            [(0.1, -0.08), (-0.45, -0.08), (-0.64, -0.05), (-0.68, 0.0), (-0.64, 0.06), (-0.45, 0.09), (0.1, 0.09)]
        ],
        "forked": [
            [(0.1, -0.08), (-0.2, -0.1), (-0.6, -0.25), (-0.28, 0.0), (0.1, 0.04)],
            [(0.1, 0.08), (-0.2, 0.1), (-0.6, 0.25), (-0.28, 0.0), (0.1, -0.04)],
        ],
        "fanned": [[(0.1, -0.06), (-0.3, -0.3), (-0.42, -0.17), (-0.47, 0.0), (-0.42, 0.17), (-0.3, 0.3), (0.1, 0.06)]],
    }[shape]
    for outline in outlines:
        canvas.fill(pose.tail(np.array(outline)), colour)
    x, y, feathers = {
        "short": (0.3, 0.05, 3),
        "long": (0.6, 0.04, 3),
        "forked": (0.48, 0.18, 2),
        "fanned": (0.42, 0.2, 5),
    }[shape]
    for side in np.linspace(-1, 1, feathers):
        canvas.line(pose.tail(np.array([(0.0, 0.03 * side), (-x, y * side)])), tone(colour, 0.72), 0.014 * pose.unit)


def _legs(canvas: Canvas, pose: Pose, one: Individual) -> None:
    for hip, foot in zip(pose.body(np.array([(-0.06, 0.2), (0.06, 0.22)])), pose.feet()):
        ankle = pose.world(foot[None])[0]
        canvas.line(np.stack([hip, ankle]), one.leg, 0.034 * pose.unit, cover=True)
        for toe in pose.world(foot + np.array([(0.09, 0.02), (0.05, 0.045), (-0.07, 0.02)])):
            canvas.line(np.stack([ankle, toe]), one.leg, 0.028 * pose.unit, cover=True)


def _head(canvas: Canvas, pose: Pose, one: Individual) -> None:
    canvas.fill(pose.head(circle(0, 0, HEAD)), one.back)
    cheek = curve([(0.22, 0.02), (0.12, 0.17), (-0.06, 0.17), (-0.13, 0.04), (0.02, 0.0)])
    canvas.fill(pose.head(cheek), one.belly, cover=False)
    canvas.line(pose.head(np.array([(0.23, 0.0), (0.1, -0.03), (-0.14, 0.0)])), tone(one.back, 0.6), 0.03 * pose.unit)


def _crown(canvas: Canvas, pose: Pose, shape: str, colour: Colour) -> None:
    arc = np.radians(np.linspace(-14, -178, 14))
    cap = np.stack([np.cos(arc), np.sin(arc)], -1) * (HEAD * 1.04)
    cap = np.concatenate([cap, [(-0.16, -0.06), (0.06, -0.1)]])
    rays = np.radians(np.linspace(-25, -165, 12))
    crests = {
        "capped": [],
        "peaked": [curve([(0.2, -0.14), (0.06, -0.34), (-0.3, -0.5), (-0.24, -0.3), (-0.25, -0.04), (0.0, -0.1)])],
        "spiked": [
            [(x + 0.07, -0.16), (1.5 * x - 0.16, -0.5 + 0.6 * abs(x + 0.03)), (x - 0.07, -0.12)]
            for x in (-0.17, -0.09, -0.01, 0.07, 0.14)
        ],
        "fan-crested": [
            [(0.2, -0.1), *np.stack([0.34 * np.cos(rays) - 0.03, 0.36 * np.sin(rays) - 0.12], -1), (-0.24, -0.04)]
        ],
        "plumed": [
            curve([(0.06, -0.2), (0.05, -0.34), (0.14, -0.44), (0.3, -0.46), (0.34, -0.36), (0.24, -0.33),
                   (0.14, -0.34), (0.12, -0.2)])
        ],
    }[shape]  # fmt: skip
    for crest in crests:
        canvas.fill(pose.head(np.asarray(crest)), colour)
    canvas.fill(pose.head(cap), colour)
    if shape == "fan-crested":
        for a in np.radians(np.linspace(-45, -145, 5)):
            ray = np.array([(0.15 * np.cos(a), 0.15 * np.sin(a)), (0.34 * np.cos(a), 0.36 * np.sin(a))])
            canvas.line(pose.head(ray - [0.03, 0.11]), tone(colour, 0.7), 0.016 * pose.unit)


def _beak(canvas: Canvas, pose: Pose, shape: str, colour: Colour) -> None:
    upper, lower = {
        "cone": (
            [(0.19, -0.12), (0.32, -0.08), (0.45, 0.03), (0.2, 0.04)],
            [(0.2, 0.02), (0.44, 0.03), (0.2, 0.12)],
        ),
        "needle": (
            curve([(0.2, -0.05), (0.45, -0.05), (0.68, 0.09), (0.45, 0.02), (0.2, 0.03)]),
            [(0.2, 0.0), (0.4, 0.0), (0.2, 0.04)],
        ),
        "hook": (
            curve([(0.18, -0.13), (0.34, -0.12), (0.45, 0.0), (0.41, 0.16), (0.35, 0.05), (0.2, 0.04)]),
            [(0.2, 0.02), (0.34, 0.05), (0.3, 0.1), (0.19, 0.12)],
        ),
        "dagger": (
            [(0.2, -0.09), (0.34, -0.055), (0.68, 0.03), (0.2, 0.03)],
            [(0.2, 0.02), (0.67, 0.03), (0.34, 0.075), (0.2, 0.09)],
        ),
    }[shape]
    canvas.fill(pose.head(np.asarray(lower)), tone(colour, 0.72))
    canvas.fill(pose.head(np.asarray(upper)), colour)


def _eye(canvas: Canvas, pose: Pose) -> None:
    for x, y, radius, colour in (
        (0.1, -0.03, 0.062, CREAM),
        (0.1, -0.03, 0.05, DARK),
        (0.116, -0.048, 0.016, CREAM),
    ):
        canvas.fill(pose.head(circle(x, y, radius)), colour, cover=False)


def _shade(cover: np.ndarray, wing: np.ndarray, pose: Pose, one: Individual) -> np.ndarray:
    """(H, W) float32 gain. The blurred silhouettes of bird, wing and head form a relief that is lit from above; its
    slope gives the shade. The relief is smooth, so a quarter of the resolution is enough."""
    height, width = cover.shape
    size, unit = (max(1, width // 4), max(1, height // 4)), pose.unit / 4
    relief = blur(cv2.resize(cover, size, interpolation=cv2.INTER_AREA), 0.16 * unit)
    for outline, rise, sigma in ((wing, 0.25, 0.05), (pose.head(circle(0, 0, HEAD)), 0.35, 0.09)):
        mound = np.zeros(relief.shape, np.float32)
        fill(mound, outline / 4, (1, 1, 1))
        relief += rise * blur(mound, sigma * unit)
    slope = cv2.Sobel(relief, cv2.CV_32F, 0, 1) + 0.3 * cv2.Sobel(relief, cv2.CV_32F, 1, 0)
    shade = cv2.resize(slope * (0.1 * unit), (width, height), interpolation=cv2.INTER_LINEAR)
    corners = np.array([[0, 0], [72, 0], [0, 24]], np.float32)
    place = pose.body(np.array([[-0.9, -0.7], [0.8, -0.7], [-0.9, 0.5]])).astype(np.float32)
    warp = cv2.getAffineTransform(corners, place)
    feathers = cv2.warpAffine(
        one.feathers, warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    shade += 0.07 * feathers
    shade += 1.04
    return np.clip(shade, 0.45, 1.5, out=shade)
