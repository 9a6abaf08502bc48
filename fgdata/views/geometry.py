"""From boxes, image sizes and uniform draws to the numbers that a backend executes; shared by all backends.

A rectangle is (x, y, w, h) in whole pixels, int32. `compute` determines, for a batch and one view, where the patch is
cut (`source`, pixels of the image), where it is placed (`place`, pixels of the view), whose image is its background
(`partner`), and the flip, colour and blur. A backend resizes `source` to `place`, pastes it, and then applies, in this
order: colour, blur, one clamp to [0, 255], solarisation, flip, normalise. Colour and blur are linear, so a backend may
reorder them and the flip.

Brightness, contrast, saturation, hue (in any order) and grey are one affine map of RGB,

    out = A x + C m,    m = the mean RGB of the view before it,

because contrast's centre is the mean luma of the image at that point (as in torchvision), which is linear in m. There
is no clamp between the operations; torchvision clamps after each.
"""

from dataclasses import dataclass

import numpy as np

from .crops import CROPS, Samples
from .draws import BLUR, COUNT, FACTORS, FLIP, GRAY, GREY, JITTER, ORDER, SIGMA, SOLARIZE, partners, uniforms
from .spec import ViewSpec

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
    blend: np.ndarray  # (B,) bool, whether the patch is blended with its background by the matte
    grey: np.ndarray  # (B,) uint8, the level behind the patch if the spec asks for grey
    solarize: np.ndarray  # (B,) bool, whether values x >= 128 become 255 - x
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
    own: np.ndarray | None = None,
    cuts: np.ndarray | None = None,
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
        view: The view's stream of draws: its number, or for other shots of the batch another number.
        lenders: Number of background images of given sets. With 0, backgrounds are images of the batch.
        own: (B,) numbers of the samples among the lenders, if their set is one of the given ones.
        cuts: (B, 4) float boxes of the mattes in [0, 1], without area for a constant map.
    """
    spec = spec.of(view)
    u = uniforms(seed, epoch, samples, view, COUNT)
    crop = CROPS[spec.crop](
        Samples(sizes, boxes, u, cuts, lambda: partners(seed, epoch, batch, view, len(u)), lenders, own), spec
    )
    flip = u[:, FLIP] < spec.flip
    colour, centre = colour_map(u, spec)
    low, high = spec.sigma
    sigma = (low + (high - low) * u[:, SIGMA]) * spec.size / 224
    return Geometry(
        source=crop.source,
        place=crop.place,
        partner=np.arange(len(u), dtype=np.int32) if crop.partner is None else crop.partner,
        flip=flip,
        colour=colour.astype(np.float32),
        centre=centre.astype(np.float32),
        sigma=np.where(u[:, BLUR] < spec.chance("blur", view), sigma, 0).astype(np.float32),
        blend=np.zeros(len(u), bool) if crop.blend is None else crop.blend,
        grey=np.floor(256 * u[:, GREY]).astype(np.uint8),
        solarize=u[:, SOLARIZE] < spec.chance("solarize", view),
        mask=mirror(crop.mask, flip, spec.size),
    )


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
