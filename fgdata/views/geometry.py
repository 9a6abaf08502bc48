"""From boxes, image sizes and uniform draws to the numbers that a backend executes; shared by all backends.

A rectangle is (x, y, w, h) in whole pixels, int32. `compute` determines, for a batch and one view, where the patch is
cut (`source`, pixels of the image), where it is placed (`place`, pixels of the view), whose image is its background
(`partner`), and the flip, colour and blur. A backend resizes `source` to `place`, pastes it, and then applies, in this
order: colour, blur, one clamp to [0, 255], flip, normalise. Colour and blur are linear, so a backend may reorder them
and the flip.

Brightness, contrast, saturation, hue (in any order) and grey are one affine map of RGB,

    out = A x + C m,    m = the mean RGB of the view before it,

because contrast's centre is the mean luma of the image at that point (as in torchvision), which is linear in m. There
is no clamp between the operations; torchvision clamps after each.
"""

from dataclasses import dataclass

import numpy as np

from .draws import partners, uniforms
from .spec import ViewSpec

# Columns of a sample's draws. Append only: moving a column changes every view of every seed.
AREA, RATIO = slice(0, 10), slice(10, 20)
X, Y, PLACE_AREA, PLACE_X, PLACE_Y, FLIP, JITTER = range(20, 27)  # PLACE_* and LENDER: only with lenders
FACTORS, ORDER = slice(27, 31), slice(31, 35)
GRAY, BLUR, SIGMA, LENDER = range(35, 39)
COUNT = 39

LONGEST = 8
"""Crop centre: at most this multiple of the short side is read of the long side. A view shows 0.875 of it."""

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)
_GREY = np.tile(LUMA, (3, 1))


@dataclass(frozen=True)
class Geometry:
    """One view of each of B samples."""

    source: np.ndarray  # (B, 4) int32, pixels of the sample's image
    place: np.ndarray  # (B, 4) int32, pixels of the view before the flip; may overhang the view (crop centre)
    partner: np.ndarray  # (B,) int32, whose whole image is the background: a position in the batch (the sample's own
    # if no background shows), or with lenders a number among them
    flip: np.ndarray  # (B,) bool
    colour: np.ndarray  # (B, 3, 3) float32, A
    centre: np.ndarray  # (B, 3, 3) float32, C
    sigma: np.ndarray  # (B,) float32 pixels, 0 without blur
    mask: np.ndarray  # (B, 4) int32, pixels of the view after the flip; w or h is 0 if the object was cropped away


def compute(
    spec: ViewSpec,
    sizes: np.ndarray,
    boxes: np.ndarray,
    samples: np.ndarray,
    *,
    seed: int,
    epoch: int,
    batch: int,
    view: int,
    lenders: int = 0,
) -> Geometry:
    """Computes one view of each of B samples.

    Args:
        spec: The views.
        sizes: (B, 2) integer image (w, h) in pixels.
        boxes: (B, 4) float boxes (l, t, w, h) in [0, 1].
        samples: (B,) integer sample numbers within the split.
        seed: Key of the draws, 0 to 2^64 - 1.
        epoch: Key of the draws.
        batch: The batch's number over all ranks, the key of its partners.
        view: The view's number, 0 to spec.views - 1.
        lenders: Number of background images of other sets. With 0, saliency-swap is the paper's `swap` among the
            samples of the batch; otherwise it is `paste` over one of these.
    """
    u = uniforms(seed, epoch, samples, view, COUNT)
    own = np.arange(len(u), dtype=np.int32)
    view_pixels = np.tile(np.array([0, 0, spec.size, spec.size], np.int32), (len(u), 1))
    if spec.crop == "saliency-swap" and lenders:
        partner = np.floor(u[:, LENDER] * lenders).astype(np.int32)
        source, place = paste_place(patch(boxes, sizes, u, spec), u, spec)
        mask = place
    elif spec.crop == "saliency-swap":
        partner = partners(seed, epoch, batch, view, len(u))
        source = patch(boxes, sizes, u, spec)
        place = pixels(boxes[partner], np.full_like(sizes, spec.size))
        mask = place
    else:
        partner = own
        if spec.crop == "rrc":
            source, place = random_resized_crop(sizes, u, spec), view_pixels
        else:
            source, place = central(sizes, spec.size)
        mask = carry(boxes, sizes, source, place, spec.size)
    flip = u[:, FLIP] < spec.flip
    colour, centre = colour_map(u, spec)
    low, high = spec.sigma
    sigma = (low + (high - low) * u[:, SIGMA]) * spec.size / 224
    return Geometry(
        source=source,
        place=place,
        partner=partner,
        flip=flip,
        colour=colour.astype(np.float32),
        centre=centre.astype(np.float32),
        sigma=np.where(u[:, BLUR] < spec.blur, sigma, 0).astype(np.float32),
        mask=mirror(mask, flip, spec.size),
    )


def random_resized_crop(sizes: np.ndarray, u: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """(B, 2), (B, COUNT) -> (B, 4). torchvision's RandomResizedCrop.get_params: the first of ten attempts that fits."""
    width, height = sizes[:, :1].astype(float), sizes[:, 1:].astype(float)
    area = width * height * (spec.area[0] + (spec.area[1] - spec.area[0]) * u[:, AREA])  # (B, 10)
    ratio = _log_uniform(spec.aspect, u[:, RATIO])
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = np.argmax(fits, 1)[:, None]
    w, h = np.take_along_axis(w, first, 1)[:, 0], np.take_along_axis(h, first, 1)[:, 0]
    width, height, any_fits = width[:, 0], height[:, 0], fits.any(1)
    # Without a fit: the whole image, trimmed to the nearest allowed aspect.
    centre_w = np.clip(np.rint(height * spec.aspect[1]), 1, width)
    centre_h = np.clip(np.rint(width / spec.aspect[0]), 1, height)
    x = np.where(any_fits, np.floor(u[:, X] * (width - w + 1)), (width - centre_w) // 2)
    y = np.where(any_fits, np.floor(u[:, Y] * (height - h + 1)), (height - centre_h) // 2)
    return np.stack([x, y, np.where(any_fits, w, centre_w), np.where(any_fits, h, centre_h)], 1).astype(np.int32)


def patch(boxes: np.ndarray, sizes: np.ndarray, u: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """(B, 4), (B, 2), (B, COUNT) -> (B, 4). A random rectangle inside each box (CVSA 2.1).

    Its share a of the box's area is uniform in [patch_area, 1]. Its aspect relative to the box's is log-uniform,
    clipped to [a, 1 / a] so that a rectangle of exactly that share fits in the box.
    """
    x, y, w, h = pixels(boxes, sizes).T
    share = spec.patch_area + (1 - spec.patch_area) * u[:, AREA.start]
    ratio = np.clip(_log_uniform(spec.aspect, u[:, RATIO.start]), share, 1 / share)
    patch_w = np.clip(np.rint(w * np.sqrt(share * ratio)), 1, w)
    patch_h = np.clip(np.rint(h * np.sqrt(share / ratio)), 1, h)
    left = x + np.floor(u[:, X] * (w - patch_w + 1))
    top = y + np.floor(u[:, Y] * (h - patch_h + 1))
    return np.stack([left, top, patch_w, patch_h], 1).astype(np.int32)


def paste_place(source: np.ndarray, u: np.ndarray, spec: ViewSpec) -> tuple[np.ndarray, np.ndarray]:
    """(B, 4) patches, (B, COUNT) -> patches (B, 4), places (B, 4) anywhere in the view. Area and place are ours.

    The place has the patch's aspect and a share of the view's area uniform in [paste_area, 1]. If it is wider or taller
    than the view, the excess is cut off both sides of the patch equally, which keeps its scale and reduces its share.
    """
    x, y, w, h = source.T.astype(float)
    share = spec.paste_area + (1 - spec.paste_area) * u[:, PLACE_AREA]
    wide, tall = spec.size * np.sqrt(share * w / h), spec.size * np.sqrt(share * h / w)
    place_w, place_h = np.clip(np.rint([wide, tall]), 1, spec.size)
    cut_w = np.clip(np.rint(w * np.minimum(1, spec.size / wide)), 1, w)
    cut_h = np.clip(np.rint(h * np.minimum(1, spec.size / tall)), 1, h)
    left = np.floor(u[:, PLACE_X] * (spec.size - place_w + 1))
    top = np.floor(u[:, PLACE_Y] * (spec.size - place_h + 1))
    source = np.stack([x + (w - cut_w) // 2, y + (h - cut_h) // 2, cut_w, cut_h], 1)
    return source.astype(np.int32), np.stack([left, top, place_w, place_h], 1).astype(np.int32)


def central(sizes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, 2) -> sources (B, 4), places (B, 4): the whole image, placed so that the view shows its centre. torchvision's
    Resize and CenterCrop.

    If the long side exceeds LONGEST times the short one, its two ends are cut off equally, so that the resized image
    does not take hundreds of megabytes. Its scale is then rounded, by 1/16 pixel at the view's edge.
    """
    short = round(size * 256 / 224)
    least = sizes.min(1, keepdims=True)
    scaled = short * sizes // least
    start = -np.rint((scaled - size) / 2)
    cut = np.maximum(0, sizes - LONGEST * least) // 2  # pixels of the image
    cut_scaled = np.rint(cut * scaled / sizes)  # pixels of the view
    source = np.concatenate([cut, sizes - 2 * cut], 1)
    return source.astype(np.int32), np.concatenate([start + cut_scaled, scaled - 2 * cut_scaled], 1).astype(np.int32)


def pixels(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(B, 4) boxes in [0, 1], (B, 2) sizes -> (B, 4) rectangles. Edges are rounded to pixel edges; at least one pixel,
    inside the image."""
    low, high = boxes[:, :2].astype(float), boxes[:, :2].astype(float) + boxes[:, 2:]
    start = np.clip(np.floor(low * sizes + 0.5), 0, sizes - 1)
    end = np.clip(np.floor(high * sizes + 0.5), start + 1, sizes)
    return np.concatenate([start, end - start], 1).astype(np.int32)


def carry(boxes: np.ndarray, sizes: np.ndarray, source: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """Boxes -> their rectangles in the view when `source` is resized to `place`: (B, 4), clipped, may be empty."""
    scale = place[:, 2:] / source[:, 2:]
    low = place[:, :2] + (boxes[:, :2] * sizes - source[:, :2]) * scale
    high = low + boxes[:, 2:] * sizes * scale
    start, end = np.clip(np.floor(low + 0.5), 0, size), np.clip(np.floor(high + 0.5), 0, size)
    return np.concatenate([start, end - start], 1).astype(np.int32)


def mirror(rectangles: np.ndarray, flip: np.ndarray, size: int) -> np.ndarray:
    """(B, 4), (B,) bool -> (B, 4), mirrored left to right within the view where flip is True."""
    mirrored = rectangles.copy()
    mirrored[flip, 0] = size - rectangles[flip, 0] - rectangles[flip, 2]
    return mirrored


def colour_map(u: np.ndarray, spec: ViewSpec) -> tuple[np.ndarray, np.ndarray]:
    """(B, COUNT) -> A (B, 3, 3), C (B, 3, 3) of out = A x + C m, float64."""
    n = len(u)
    identity = np.eye(3)
    strength = np.array([spec.brightness, spec.contrast, spec.saturation, spec.hue])
    spread = strength * (2 * u[:, FACTORS] - 1)
    brightness, contrast, saturation = 1 + spread[:, :3].T[..., None, None]
    steps = np.stack(  # the linear part of each operation, (B, 4, 3, 3)
        [
            brightness * identity,
            contrast * identity,
            saturation * identity + (1 - saturation) * _GREY,
            hue_rotation(2 * np.pi * spread[:, 3]),
        ],
        1,
    )
    order = np.argsort(u[:, ORDER], 1, kind="stable")
    a, c = np.tile(identity, (n, 1, 1)), np.zeros((n, 3, 3))
    for step in order.T:
        linear = steps[np.arange(n), step]
        towards_mean = np.where((step == 1)[:, None, None], (1 - contrast) * _GREY @ (a + c), 0)
        a, c = linear @ a, linear @ c + towards_mean
    jitter = (u[:, JITTER] < spec.jitter)[:, None, None]
    a, c = np.where(jitter, a, identity), np.where(jitter, c, 0)
    grey = (u[:, GRAY] < spec.grayscale)[:, None, None]
    return np.where(grey, _GREY @ a, a), np.where(grey, _GREY @ c, c)


def hue_rotation(angle: np.ndarray) -> np.ndarray:
    """(B,) radians -> (B, 3, 3): RGB to YIQ, rotation of the (I, Q) plane, back to RGB."""
    turn = np.tile(np.eye(3), (len(angle), 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = np.sin(angle), -np.sin(angle)  # red towards green, as torchvision's positive hue
    return _RGB @ turn @ _YIQ


def _log_uniform(span: tuple[float, float], u: np.ndarray) -> np.ndarray:
    return span[0] * (span[1] / span[0]) ** u
