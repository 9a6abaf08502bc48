"""Crops: where each view is cut from its image, where it is placed, and what is behind it; `CROPS` has one by name.

A crop takes the samples of a batch and the draws of one view, and returns rectangles (x, y, w, h) in whole pixels,
int32. A rectangle of the image is inside it; a place is a rectangle of the view.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np

from ..errors import InputError
from .draws import AREA, MATTE, PLACE_AREA, PLACE_SIDE, PLACE_X, PLACE_Y, RATIO, X, Y, lender
from .spec import ViewSpec

CENTRE_BOX = np.array([0.25, 0.25, 0.5, 0.5])
"""The box of SimCCrop."""
MARGIN = 1.15
"""Crop object: the square's side over the longer side of the box."""
LONGEST = 8
"""Crop centre: at most this multiple of the short side is read of the long side. A view shows 0.875 of it."""


@dataclass(frozen=True)
class Samples:
    """The samples of a batch and their draws for one view."""

    sizes: np.ndarray  # (B, 2) int, width and height of the images
    boxes: np.ndarray  # (B, 4) float32 in [0, 1]
    u: np.ndarray  # (B, COUNT) float64 in [0, 1)
    cuts: np.ndarray | None  # (B, 4) float32 in [0, 1], the boxes of the mattes; None without mattes
    partners: Callable[[], np.ndarray]  # another sample of the batch for each: (B,) int32 positions
    lenders: int  # images of given sets that may be backgrounds; 0: backgrounds are the batch's own images
    own: np.ndarray | None = None  # (B,) the samples' own numbers among the lenders; None if they are not among them

    def backgrounds(self) -> np.ndarray:
        """(B,) int32: whose image is behind each sample's patch."""
        if self.lenders:
            return lender(self.u, self.lenders, self.own)
        return self.partners()


@dataclass(frozen=True)
class Crop:
    """What a crop chose for each sample."""

    source: np.ndarray  # (B, 4) int32, pixels of the image
    place: np.ndarray  # (B, 4) int32, pixels of the view
    mask: np.ndarray  # (B, 4) int32, the object in pixels of the view
    partner: np.ndarray | None = None  # (B,) int32, as of `Samples.backgrounds`; None if no background shows
    blend: np.ndarray | None = None  # (B,) bool, whether the matte decides what is pasted; None if it never does


def rrc(samples: Samples, spec: ViewSpec) -> Crop:
    """A random resized crop."""
    return _fill(random_resized_crop(samples.sizes, samples.u, spec), samples, spec)


def saliency_swap(samples: Samples, spec: ViewSpec) -> Crop:
    """A patch of each box: over the partner's box (CVSA's `swap`), or with lenders anywhere (its `paste`)."""
    sizes, partner = samples.sizes, samples.backgrounds()
    source = patch(samples.boxes, sizes, samples.u, spec)
    if samples.lenders:
        source, place = paste_place(source, samples.u, spec)
    else:
        place = pixels(samples.boxes[partner], np.full_like(sizes, spec.size))
    return Crop(source, place, place, partner)


def centre(samples: Samples, spec: ViewSpec) -> Crop:
    """The central square at test time."""
    source, place = central(samples.sizes, spec.size)
    return Crop(source, place, carry(samples.boxes, samples.sizes, source, place, spec.size))


def paste(samples: Samples, spec: ViewSpec) -> Crop:
    """A random resized crop at a random place over the whole image of another sample (InsLoc, Yang et al. 2021).

    It keeps its aspect and is as large as fits into a width and a height, each uniform from half the view to 2 pixels
    less than the view. The authors' code fits its longer side into the longer of the two: with aspects of 0.5 to 2 it
    then covers 45 % of the view on average, here 39 %.
    """
    u, low, high = samples.u, spec.size // 2, spec.size - 2
    source = random_resized_crop(samples.sizes, u, spec)
    limit = low + np.floor(u[:, [PLACE_AREA, PLACE_SIDE]] * (high - low + 1))  # (B, 2)
    scale = (limit / source[:, 2:]).min(1, keepdims=True)
    shape = np.maximum(1, np.rint(source[:, 2:] * scale))
    start = np.floor(u[:, [PLACE_X, PLACE_Y]] * (spec.size - shape + 1))
    place = np.concatenate([start, shape], 1).astype(np.int32)
    return Crop(source, place, place, samples.backgrounds())


def matte_paste(samples: Samples, spec: ViewSpec) -> Crop:
    """DiLo (Zhao et al. 2021): with probability `matte` the object's matte over another image, else `rrc`.

    Its rectangle is that of the matte, its area and place are ours (`paste_place`). A constant map gives `rrc`.
    """
    if samples.cuts is None:
        raise ValueError("matte-paste needs mattes")
    crop, u = rrc(samples, spec), samples.u
    blend = (u[:, MATTE] < spec.matte) & (samples.cuts[:, 2] > 0)
    source, place = paste_place(pixels(samples.cuts, samples.sizes), u, spec)
    pasted = blend[:, None]
    return Crop(
        np.where(pasted, source, crop.source),
        np.where(pasted, place, crop.place),
        np.where(pasted, place, crop.mask),
        None if spec.grey else samples.backgrounds(),
        blend,
    )


def contrastive(samples: Samples, spec: ViewSpec) -> Crop:
    """A random resized crop whose centre is Beta(alpha, alpha)-distributed inside a box (Peng et al., CVPR 2022).

    Its centre can only be where the crop fits into the image. The box of the whole image and alpha 1 give `rrc`.
    """
    sizes, u = samples.sizes, samples.u[:, [X, Y]]
    boxes = CENTRE_BOX[None] if spec.crop_box == "centre" else samples.boxes.astype(float)
    shape, fits = crop_shape(sizes, samples.u, spec, sizes)
    low = np.clip(np.floor(boxes[:, :2] * sizes) - shape // 2, 0, sizes - shape)
    high = np.clip(np.floor((boxes[:, :2] + boxes[:, 2:]) * sizes) - shape // 2, 0, sizes - shape)
    if spec.crop_alpha != 1:
        u = beta_quantile(u, spec.crop_alpha)
    start = np.where(fits, np.minimum(low + np.floor(u * (high - low + 1)), high), (sizes - shape) // 2)
    return _fill(np.concatenate([start, shape], 1).astype(np.int32), samples, spec)


def inside_box(samples: Samples, spec: ViewSpec) -> Crop:
    """A random resized crop inside each box (ours). Its area is a share of the image's, as in `rrc`."""
    within = pixels(samples.boxes, samples.sizes)
    return _fill(random_resized_crop(samples.sizes, samples.u, spec, within), samples, spec)


def object_square(samples: Samples, spec: ViewSpec) -> Crop:
    """The square around each box, grown by MARGIN and moved into the image (ours). Where the image is smaller than the
    square, all of that side; it is then stretched."""
    sizes, box = samples.sizes, pixels(samples.boxes, samples.sizes)
    shape = np.minimum(sizes, np.rint(MARGIN * box[:, 2:].max(1, keepdims=True)).astype(sizes.dtype))
    start = np.clip(box[:, :2] + (box[:, 2:] - shape) // 2, 0, sizes - shape)
    return _fill(np.concatenate([start, shape], 1).astype(np.int32), samples, spec)


CROPS: dict[str, Callable[[Samples, ViewSpec], Crop]] = {
    "rrc": rrc,
    "saliency-swap": saliency_swap,
    "contrastive": contrastive,
    "inside-box": inside_box,
    "paste": paste,
    "matte-paste": matte_paste,
    "object": object_square,
    "centre": centre,
}
"""Every value of `ViewSpec.crop`."""


def random_resized_crop(
    sizes: np.ndarray, u: np.ndarray, spec: ViewSpec, within: np.ndarray | None = None
) -> np.ndarray:
    """(B, 2), (B, COUNT) -> (B, 4), uniform inside the rectangles `within` (B, 4); by default the whole images."""
    within = np.concatenate([np.zeros_like(sizes), sizes], 1) if within is None else within
    shape, fits = crop_shape(sizes, u, spec, within[:, 2:])
    room = within[:, 2:] - shape
    start = within[:, :2] + np.where(fits, np.floor(u[:, [X, Y]] * (room + 1)), room // 2)
    return np.concatenate([start, shape], 1).astype(np.int32)


def crop_shape(sizes: np.ndarray, u: np.ndarray, spec: ViewSpec, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, 2), (B, COUNT), (B, 2) -> width and height (B, 2), whether an attempt fitted (B, 1).

    torchvision's RandomResizedCrop.get_params: the first of ten attempts that fits into `limit`, else all of it,
    trimmed to the nearest allowed aspect.
    """
    low, high = cast("tuple[float, float]", spec.area)  # of one view: `ViewSpec.of`
    area = sizes.prod(1, keepdims=True) * (low + (high - low) * u[:, AREA])  # (B, 10)
    ratio = _log_uniform(spec.aspect, u[:, RATIO])
    attempts = np.rint(np.sqrt([area * ratio, area / ratio]))  # (2, B, 10)
    fits = np.logical_and.reduce((attempts >= 1) & (attempts <= limit.T[..., None]))  # (B, 10)
    first = np.take_along_axis(attempts, np.argmax(fits, 1)[None, :, None], 2)[..., 0].T
    widest = np.rint(np.stack([limit[:, 1] * spec.aspect[1], limit[:, 0] / spec.aspect[0]], 1))
    whole = np.minimum(limit, np.maximum(1, widest))
    fitted = np.logical_or.reduce(fits, 1)[:, None]
    return np.where(fitted, first, whole), fitted


def beta_quantile(u: np.ndarray, alpha: float) -> np.ndarray:
    """The quantile function of Beta(alpha, alpha) of numbers in [0, 1), any shape.

    Linear between the nodes of a table, except in its first and last step: there the function is too steep, and 2 in
    4,096 crops would lie anywhere between the tail and the edge of the box.
    """
    ends = np.abs(u - 0.5) > 0.5 - 1 / 4096
    values = np.interp(u, np.linspace(0, 1, 4097), _beta_table(alpha))
    if ends.any():
        values[ends] = _betaincinv(alpha, u[ends])
    return values


@lru_cache
def _beta_table(alpha: float) -> np.ndarray:
    return _betaincinv(alpha, np.linspace(0, 1, 4097))


def _betaincinv(alpha: float, u: np.ndarray) -> np.ndarray:
    try:
        from scipy.special import betaincinv
    except ModuleNotFoundError:
        raise InputError("The crop contrastive needs SciPy, which is not installed: pip install scipy") from None
    return betaincinv(alpha, alpha, u)


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


def _fill(source: np.ndarray, samples: Samples, spec: ViewSpec) -> Crop:
    """A crop that fills the view."""
    place = np.tile(np.array([0, 0, spec.size, spec.size], np.int32), (len(source), 1))
    return Crop(source, place, carry(samples.boxes, samples.sizes, source, place, spec.size))


def _log_uniform(span: tuple[float, float], u: np.ndarray) -> np.ndarray:
    return span[0] * (span[1] / span[0]) ** u
