"""Curves, colours and fills of the drawn dataset. Colours are RGB, 0-255; points (N, 2) are x, y in pixels."""

from dataclasses import dataclass

import cv2
import numpy as np

from .plumage import Colour

SCALE = 2  # supersampling of a Canvas
FRACTION = 4  # fractional bits of the coordinates passed to OpenCV


@dataclass
class Canvas:
    """Flat colours and their coverage at SCALE times the image's size. `fill` and `line` take image pixels."""

    rgb: np.ndarray
    """(H, W, 3) uint8."""
    cover: np.ndarray
    """(H, W) uint8."""

    @classmethod
    def blank(cls, width: int, height: int, ground: Colour) -> "Canvas":
        """An empty canvas: silhouettes blend into `ground`, so it must be a colour of the painted object."""
        rgb = np.empty((height * SCALE, width * SCALE, 3), np.uint8)
        cv2.rectangle(rgb, (0, 0), (width * SCALE, height * SCALE), ground, cv2.FILLED)
        return cls(rgb, np.zeros(rgb.shape[:2], np.uint8))

    def overlay(self) -> "Canvas":
        """A canvas with the same colours and no coverage."""
        return Canvas(self.rgb.copy(), np.zeros_like(self.cover))

    def lay(self, over: "Canvas") -> None:
        """Takes the colours of `over` where both have coverage."""
        cv2.copyTo(over.rgb, cv2.min(over.cover, self.cover), self.rgb)

    def fill(self, points: np.ndarray, colour: Colour, cover: bool = True) -> None:
        corners = _fixed(points * SCALE)
        cv2.fillPoly(self.rgb, [corners], colour, cv2.LINE_AA, FRACTION)
        if cover:
            cv2.fillPoly(self.cover, [corners], (255,), cv2.LINE_AA, FRACTION)

    def line(self, points: np.ndarray, colour: Colour, width: float, cover: bool = False) -> None:
        """Strokes an open line; `width` in image pixels."""
        corners, thick = _fixed(points * SCALE), max(1, round(width * SCALE))
        cv2.polylines(self.rgb, [corners], False, colour, thick, cv2.LINE_AA, FRACTION)
        if cover:
            cv2.polylines(self.cover, [corners], False, (255,), thick, cv2.LINE_AA, FRACTION)

    def averaged(self) -> tuple[np.ndarray, np.ndarray]:
        """The canvas at the image's resolution -> (H, W, 3) float32 0-255, coverage (H, W) float32 0-1."""
        size = (self.cover.shape[1] // SCALE, self.cover.shape[0] // SCALE)
        rgb, cover = (cv2.resize(layer, size, interpolation=cv2.INTER_AREA) for layer in (self.rgb, self.cover))
        return rgb.astype(np.float32), cover.astype(np.float32) / 255


def fill(image: np.ndarray, points: np.ndarray, colour: Colour) -> None:
    cv2.fillPoly(image, [_fixed(points)], colour, cv2.LINE_AA, FRACTION)


def stroke(image: np.ndarray, points: np.ndarray, colour: Colour, width: float) -> None:
    cv2.polylines(image, [_fixed(points)], False, colour, max(1, round(width)), cv2.LINE_AA, FRACTION)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixels -> OpenCV's fixed-point coordinates, in which pixel centres are integers."""
    return np.round((points - 0.5) * 2**FRACTION).astype(np.int32)


def curve(points: list, closed: bool = True, steps: int = 8) -> np.ndarray:
    """Catmull-Rom curve through N points: (N * steps, 2), or ((N - 1) * steps + 1, 2) if open."""
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
    return out if closed else np.concatenate([out, np.asarray(points[-1:], np.float64)])


def circle(x: float, y: float, radius: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], -1)


def bezier(a: tuple, b: tuple, c: tuple, t: np.ndarray) -> np.ndarray:
    t = t[:, None]
    return (1 - t) ** 2 * np.array(a) + 2 * t * (1 - t) * np.array(b) + t**2 * np.array(c)


def jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    return rounded(np.array(colour) + rng.uniform(-amount, amount, 3) + rng.uniform(-amount, amount))


def tone(colour: Colour, factor: float) -> Colour:
    return rounded(np.array(colour) * factor)


def between(rng: np.random.Generator, palette: tuple[Colour, ...]) -> Colour:
    """A random colour along the palette."""
    at = rng.uniform(0, len(palette) - 1)
    i = min(int(at), len(palette) - 2)
    low, high = np.array(palette[i]), np.array(palette[i + 1])
    return rounded(low + (high - low) * (at - i))


def rounded(colour: np.ndarray) -> Colour:
    red, green, blue = (max(0, min(255, int(channel))) for channel in colour)
    return red, green, blue
