"""The views in plain NumPy, float64, one image at a time: the reference that every backend is tested against.

It follows the equations, without rounding and without regard for speed. The backends round to 8 bits between steps; the
tests state the tolerance.
"""

import numpy as np

from .geometry import Geometry
from .spec import ViewSpec


def view(
    image: np.ndarray,
    geometry: Geometry,
    i: int,
    spec: ViewSpec,
    background: np.ndarray | None = None,
    alpha: np.ndarray | None = None,
) -> np.ndarray:
    """(H, W, 3) image of sample i of a geometry, its partner's image `background`, its matte (SIDE, SIDE) in [0, 1] ->
    its view, (3, S, S) normalised."""
    x, y, w, h = geometry.source[i]
    left, top, width, height = geometry.place[i]
    patch = resize(image[y : y + h, x : x + w], width, height)
    background = resize(background, spec.size, spec.size) if background is not None else None
    pasted = paste(patch, left, top, background, spec.size)
    if geometry.blend[i] and alpha is not None and background is not None:
        weight = place_matte(alpha, image.shape, geometry, i, spec)
        pasted = weight * pasted + (1 - weight) * background
    image = pasted
    mean = image.mean((0, 1))
    image = recolour(image, geometry.colour[i], geometry.centre[i], mean)
    if geometry.sigma[i] > 0:
        image = blur(image, float(geometry.sigma[i]))
    image = np.clip(image, 0, 255)
    if geometry.solarize[i]:
        image = np.where(image >= 128, 255 - image, image)
    return normalise(image[:, ::-1] if geometry.flip[i] else image, spec)


def mask(geometry: Geometry, i: int, size: int) -> np.ndarray:
    """(1, S, S): 1 where the object is."""
    x, y, w, h = geometry.mask[i]
    painted = np.zeros((1, size, size))
    painted[:, y : y + h, x : x + w] = 1
    return painted


def matte(alpha: np.ndarray, shape: tuple[int, ...], geometry: Geometry, i: int, spec: ViewSpec) -> np.ndarray:
    """(SIDE, SIDE) in [0, 1], the image's (H, W, ...) -> (1, S, S), the matte in the view."""
    placed = place_matte(alpha, shape, geometry, i, spec)
    return (placed[:, ::-1] if geometry.flip[i] else placed).transpose(2, 0, 1)


def place_matte(alpha: np.ndarray, shape: tuple[int, ...], geometry: Geometry, i: int, spec: ViewSpec) -> np.ndarray:
    """As `matte`, before the flip: (S, S, 1)."""
    x, y, w, h = geometry.source[i]
    left, top, width, height = geometry.place[i]
    whole = resize(alpha[..., None], shape[1], shape[0])
    return paste(resize(whole[y : y + h, x : x + w], width, height), left, top, None, spec.size)


def plain(image: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """(H, W, 3) -> (3, S, S): the whole image, resized and normalised."""
    return normalise(resize(image, spec.size, spec.size), spec)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 3) -> (height, width, 3) by the antialiased triangle filter."""
    rows, columns = triangle(image.shape[0], height), triangle(image.shape[1], width)
    return np.einsum("yi,ijc,xj->yxc", rows, image.astype(float), columns, optimize=True)


def triangle(n: int, m: int) -> np.ndarray:
    """Weights (m, n) that resample n pixels to m.

    A triangle around each output pixel's centre. Its half width is one pixel of the coarser of the two grids; it is
    truncated at the edge and normalised to sum 1.
    """
    centres = (np.arange(m) + 0.5) * n / m - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(n) - centres[:, None]) / max(1, n / m))
    return weights / weights.sum(1, keepdims=True)


def paste(patch: np.ndarray, left: int, top: int, background: np.ndarray | None, size: int) -> np.ndarray:
    """A patch with its corner at (left, top) of the view, over the background; clipped to the view."""
    view = np.zeros((size, size, patch.shape[2])) if background is None else background.copy()
    for y in range(max(0, top), min(size, top + len(patch))):
        for x in range(max(0, left), min(size, left + patch.shape[1])):
            view[y, x] = patch[y - top, x - left]
    return view


def recolour(image: np.ndarray, colour: np.ndarray, centre: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """A x + C m for every pixel x, unclamped."""
    return image @ colour.T.astype(float) + centre.astype(float) @ mean


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian over 2 ceil(3 sigma) + 1 pixels along each axis, weights summing to 1; edges reflected about their
    pixel."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (0, 1):
        margin = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        wide = np.pad(image, margin, mode="reflect")
        shifted = [np.take(wide, np.arange(image.shape[axis]) + k, axis) for k in range(2 * radius + 1)]
        image = np.tensordot(weights, np.stack(shifted), 1)
    return image


def normalise(image: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """(S, S, 3) in [0, 255] -> (3, S, S)."""
    return ((image / 255 - spec.mean) / spec.std).transpose(2, 0, 1)
