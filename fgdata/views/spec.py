"""The description of a view, which every backend executes.

    fgdata.ViewSpec(size=96, crop="saliency-swap", masks=True)
    fgdata.ViewSpec.evaluation(96)

A value out of its range raises InputError. Docstrings of the class and its fields are the help of the flags.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, Literal, get_args

from tyro.conf import Suppress

from ..errors import InputError

CropName = Literal["rrc", "saliency-swap", "contrastive", "inside-box", "paste", "matte-paste", "object", "centre"]

FACTORS = ("brightness", "contrast", "saturation", "hue")
"""Of the jitter."""
LEAST_SIGMA = 0.01


def _need(ok: bool, field: str, value: object, allowed: str) -> None:
    if not ok:
        raise InputError(f"{field} is {value!r}; allowed: {allowed}.")


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and _is_number(value, least, most)


def _is_number(value: object, least: float, most: float) -> bool:
    """Whether a value is a Python number in a range, and so can be written as JSON. False for NaN and bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _are_numbers(value: object, count: int, least: float, most: float) -> bool:
    return isinstance(value, tuple) and len(value) == count and all(_is_number(x, least, most) for x in value)


def _is_range(value: Any, least: float, most: float) -> bool:
    return _are_numbers(value, 2, least, most) and value[0] <= value[1]


def _is_share(value: object) -> bool:
    return _is_number(value, 0, 1)


def _is_area(value: Any) -> bool:
    return _is_range(value, 0, 1) and value[0] > 0


@dataclass(frozen=True)
class Local:
    """Small views of each image beside the others (multi-crop, Caron et al. 2020), for methods that use them. They have
    the same flip, jitter and grey as the others, and no solarisation."""

    count: int = 0
    """Small views per image, each with its own draws; 0 to 64. DINO has 8."""
    size: int = 96
    """Side of a local crop in pixels, 8 to 4096."""
    area: tuple[float, float] = (0.05, 0.14)
    """Range of its share of the image's area."""
    blur: float = 0.5
    """Probability of a Gaussian blur, whose standard deviation in pixels is that of the other views."""
    inside_box: bool = False
    """Draw it inside the sample's box, as the crop inside-box does (ours)."""

    def __post_init__(self) -> None:
        _need(_is_whole(self.count, 0, 64), "views.local.count", self.count, "a whole number from 0 to 64")
        _need(_is_whole(self.size, 8, 4096), "views.local.size", self.size, "a whole number from 8 to 4096")
        shares = "a tuple of two shares of the image, 0 < low <= high <= 1"
        _need(_is_area(self.area), "views.local.area", self.area, shares)
        _need(_is_share(self.blur), "views.local.blur", self.blur, "a probability, 0 to 1")
        _need(isinstance(self.inside_box, bool), "views.local.inside_box", self.inside_box, "True, False")


@dataclass(frozen=True)
class ViewSpec:
    """The views of one image. The defaults are MoCo v2's (Chen et al. 2020)."""

    size: int = 224
    """Side of a view in pixels, 8 to 4096."""
    views: Suppress[int] = 2  # not a flag, like masks and plain: the method sets it, not its user
    """Views per image, each with its own draws; 1 to 64."""
    crop: CropName = "rrc"
    """rrc: a random resized crop. saliency-swap: a patch of the sample's box over another sample's box (CVSA 2.1),
    or anywhere over an image of another shard set if backgrounds are given. contrastive: a random resized crop whose
    centre lies in a box (ContrastiveCrop). inside-box: a random resized crop inside the sample's box, or all of a box
    that is too small for it (ours). paste: a random resized crop at a random place over the whole image of another
    sample, or of another shard set (InsLoc). matte-paste: rrc, or the object cut out along its saliency map and pasted
    over such an image (DiLo). object: the sample's box, grown by 15 % to a square as far as the image reaches, without
    randomness (ours). centre: short side resized to size * 256 / 224, central square (test time)."""
    area: tuple[float, float] | tuple[tuple[float, float], ...] = (0.2, 1.0)
    """Range of the crop's share of the image's area: one for all views, or one for each view, such as 0.2 1 0.5 1. It
    has no effect with saliency-swap, object and centre."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of aspect ratios, log-uniform, 0.01 to 100: of the crop, or of the patch relative to its box
    (saliency-swap; ours)."""
    patch_area: float = 0.5
    """saliency-swap: least share of its box that a patch covers, 0.001 to 1; lambda of CVSA."""
    paste_area: float = 0.2
    """saliency-swap with backgrounds, and matte-paste: least share of the view that the pasted rectangle covers,
    0.001 to 1; beta of CVSA (the value is ours)."""
    matte: float = 0.3
    """matte-paste: probability that a view is pasted; the rest are random resized crops."""
    matte_grey: bool = False
    """matte-paste: over a random grey instead of another image."""
    crop_box: Literal["detector", "centre", "given"] = "detector"
    """contrastive: the box of the crop's centre. detector: the sample's. centre: half of each side, in the middle
    (SimCCrop). given: that of Loader.set_boxes, in fgtrain the network's own (--own-boxes.*); the whole image until
    then."""
    crop_alpha: float = 0.6
    """contrastive: the centre is Beta(alpha, alpha)-distributed in the box along each axis, 0.01 to 1000; below 1 most
    centres are near the box's edges. The paper uses 0.6 for ImageNet, 0.1 for CIFAR-10, CIFAR-100, STL-10 and Tiny
    ImageNet."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: float = 0.8
    """Probability of the colour jitter."""
    brightness: float = 0.4
    """Jitter: the factor is uniform in 1 -/+ this."""
    contrast: float = 0.4
    """Jitter: the factor is uniform in 1 -/+ this, about the view's mean luma."""
    saturation: float = 0.4
    """Jitter: the factor is uniform in 1 -/+ this."""
    hue: float = 0.1
    """Jitter: rotation uniform in -/+ this share of a full turn, 0 to 0.5. Linear in YIQ, whereas torchvision rotates
    HSV: at 0.1 the two differ by 4.5 of 255 levels on average (24 CUB photographs, docs/colour.json)."""
    grayscale: float = 0.2
    """Probability of conversion to grey."""
    blur: float | tuple[float, ...] = 0.5
    """Probability of a Gaussian blur: one for all views, or one for each view, such as 1 0.1 (BYOL)."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Blur: range of the standard deviation in pixels at size 224, 0.01 to 50, scaled by size / 224 at other sizes
    (ours)."""
    solarize: float | tuple[float, ...] = 0.0
    """Probability of solarisation, which inverts every channel from 128 up, after colour and blur: one for all views,
    or one for each view, such as 0 0.2 (BYOL)."""
    strength: float | tuple[float, ...] = 1.0
    """Factor on jitter, grey and blur, 0 to 1: on their probabilities, on the ranges of the jitter's factors, and on
    sigma. One for all views, or one for each view (PAPN)."""
    local: Local = Local()
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from RGB in [0, 1]; ImageNet's. Allowed: -10 to 10."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """RGB in [0, 1] is divided by it; ImageNet's. Allowed: 0.001 to 1000, so that views fit in half precision."""
    masks: Suppress[bool] = False
    """Also yield object masks: the pasted rectangle, or the sample's own box transformed by the crop (ours)."""
    plain: Suppress[bool] = False
    """Also yield the whole image, only resized to size x size and normalised."""
    mattes: Suppress[bool] = False
    """Also yield the object's matte in each view, from its saliency map."""
    boxes: Suppress[bool] = False
    """Also yield the masks' rectangles, in pixels of the view."""
    lent: Suppress[bool] = False
    """Also yield a random resized crop of an image of another set for each sample; needs backgrounds."""
    object_size: Suppress[int] = 0
    """Side of one more view of each image, the crop object without colour, blur and flip; 0: none."""

    @staticmethod
    def evaluation(size: int = 224) -> "ViewSpec":
        """One test-time view without randomness: short side to size * 256 / 224, central square, normalised."""
        return ViewSpec(size=size, views=1, crop="centre", flip=0, jitter=0, grayscale=0, blur=0)

    def with_views(self, count: int) -> "ViewSpec":
        """The same settings for `count` views: those of the first ones, from the first again where there are fewer."""
        own: dict[str, Any] = {name: getattr(self, name) for name in ("blur", "solarize", "strength")}
        own |= {"area": self.area} if isinstance(self.area[0], tuple) else {}
        each = {name: tuple(islice(cycle(v), count)) for name, v in own.items() if isinstance(v, tuple)}
        return replace(self, views=count, **each)

    def chance(self, field: Literal["blur", "solarize"], view: int) -> float:
        """The probability `field` of one view."""
        value = getattr(self, field)
        return value[view] if isinstance(value, tuple) else value

    def of(self, view: int) -> "ViewSpec":
        """The settings of one view: its own area, and its strength in place of a factor."""
        area: Any = self.area[view] if isinstance(self.area[0], tuple) else self.area
        s = self.strength[view] if isinstance(self.strength, tuple) else self.strength
        if s == 1:
            return self if area is self.area else replace(self, area=area, strength=1.0)
        low, high = (max(LEAST_SIGMA, s * sigma) for sigma in self.sigma)
        scaled = {name: s * getattr(self, name) for name in ("jitter", "grayscale", *FACTORS)}
        blur = tuple(s * share for share in self.blur) if isinstance(self.blur, tuple) else s * self.blur
        return replace(self, area=area, strength=1.0, blur=blur, sigma=(low, high), **scaled)

    @property
    def needs_boxes(self) -> bool:
        """Whether the views use the detector's boxes."""
        if self.crop == "contrastive" and self.crop_box == "given":
            return False  # all boxes are those of Loader.set_boxes
        by_box = self.crop in ("saliency-swap", "inside-box", "object") or self.object_size > 0
        by_box = by_box or (self.local.count > 0 and self.local.inside_box)
        by_box = by_box or (self.crop == "contrastive" and self.crop_box == "detector")
        return by_box or ((self.masks or self.boxes) and self.crop != "paste")

    @property
    def pastes(self) -> bool:
        """Whether other images are behind the views."""
        return self.crop in ("saliency-swap", "paste", "matte-paste") and not self.grey

    @property
    def grey(self) -> bool:
        """Whether a grey level is behind the views."""
        return self.crop == "matte-paste" and self.matte_grey

    @property
    def needs_maps(self) -> bool:
        """Whether the views use the detector's saliency maps."""
        return self.crop == "matte-paste" or self.mattes

    @property
    def shots(self) -> "dict[str, ViewSpec]":
        """The tensors of a batch that are crops of images -> the views in each of them."""
        shots: dict[str, ViewSpec] = {"views": self}
        first = self.of(0)
        crop = replace(
            first, views=1, strength=1.0, crop="rrc", masks=False, plain=False, mattes=False, boxes=False, lent=False,
            local=Local(), object_size=0, blur=first.chance("blur", 0), solarize=self.chance("solarize", 0),
        )  # fmt: skip
        if (local := self.local).count:
            low, high = (min(50, max(LEAST_SIGMA, sigma * self.size / local.size)) for sigma in first.sigma)
            shots["local"] = replace(
                crop, views=local.count, crop="inside-box" if local.inside_box else "rrc", size=local.size,
                area=local.area, blur=local.blur, sigma=(low, high), solarize=0,
            )  # fmt: skip
        if self.lent:
            shots["lent"] = crop
        if self.object_size:
            still = {"flip": 0, "jitter": 0, "grayscale": 0, "blur": 0, "solarize": 0}
            shots["object"] = replace(crop, crop="object", size=self.object_size, **still)
        return shots

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The tensors of a batch of these views -> their shapes, with -1 for the number of samples."""
        v, side, local = self.views, (self.size, self.size), self.local
        every = {
            "views": (True, (v, -1, 3, *side)),
            "masks": (self.masks, (v, -1, 1, *side)),
            "plain": (self.plain, (-1, 3, *side)),
            "local": (local.count > 0, (local.count, -1, 3, local.size, local.size)),
            "mattes": (self.mattes, (v, -1, 1, *side)),
            "boxes": (self.boxes, (v, -1, 4)),
            "lent": (self.lent, (-1, 3, *side)),
            "object": (self.object_size > 0, (-1, 3, self.object_size, self.object_size)),
            "label": (True, (-1,)),
            "index": (True, (-1,)),
        }
        return {name: shape for name, (wanted, shape) in every.items() if wanted}

    def __post_init__(self) -> None:
        def need(ok: bool, field: str, allowed: str) -> None:
            _need(ok, f"views.{field}", getattr(self, field), allowed)

        need(_is_whole(self.size, 8, 4096), "size", "a whole number from 8 to 4096")
        size = self.object_size
        need(_is_whole(size, 0, 0) or _is_whole(size, 8, 4096), "object_size", "0, or a whole number from 8 to 4096")
        need(_is_whole(self.views, 1, 64), "views", "a whole number from 1 to 64")
        for field, names in (("crop", get_args(CropName)), ("crop_box", ("detector", "centre", "given"))):
            value = getattr(self, field)
            need(isinstance(value, str) and value in names, field, ", ".join(names))
        allowed = f"two shares of the image, 0 < low <= high <= 1, or two for each of the {self.views} views"
        need(self._for_each(_is_area, self.area), "area", f"{allowed}, as tuples")
        need(_is_range(self.aspect, 0.01, 100), "aspect", "a tuple of two ratios, 0.01 <= low <= high <= 100")
        for field in ("patch_area", "paste_area"):
            need(_is_number(getattr(self, field), 0.001, 1), field, "0.001 to 1")
        need(_is_number(self.crop_alpha, 0.01, 1000), "crop_alpha", "0.01 to 1000")
        for field in ("flip", "jitter", "grayscale", "matte"):
            need(_is_share(getattr(self, field)), field, "a probability, 0 to 1")
        for field in ("blur", "solarize", "strength"):
            kind = "factor" if field == "strength" else "probability"
            ok = self._for_each(_is_share, getattr(self, field))
            need(ok, field, f"a {kind}, 0 to 1, or one for each of the {self.views} views, as a tuple")
        for field in FACTORS[:3]:
            need(_is_share(getattr(self, field)), field, "0 to 1")
        need(_is_number(self.hue, 0, 0.5), "hue", "0 to 0.5 of a full turn")
        lengths = "a tuple of two lengths in pixels, 0.01 <= low <= high <= 50"
        need(_is_range(self.sigma, 0.01, 50), "sigma", lengths)
        need(isinstance(self.local, Local), "local", "an fgdata.views.Local, such as Local(count=8)")
        for field, least, most in (("mean", -10, 10), ("std", 0.001, 1000)):
            allowed = f"a tuple of three numbers from {least} to {most:,}"
            need(_are_numbers(getattr(self, field), 3, least, most), field, allowed)
        for field in ("matte_grey", "masks", "plain", "mattes", "boxes", "lent"):
            need(isinstance(getattr(self, field), bool), field, "True, False")

    def _for_each(self, is_allowed: Callable[[object], bool], value: object) -> bool:
        """Whether a value is one for all views, or a tuple of one for each view."""
        several = isinstance(value, tuple) and len(value) == self.views and all(map(is_allowed, value))
        return several or is_allowed(value)
