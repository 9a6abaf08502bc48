"""The description of a view, which every backend executes.

    fgdata.ViewSpec(size=96, crop="saliency-swap", masks=True)
    fgdata.ViewSpec.evaluation(96)

A value out of its range raises InputError. Docstrings of the class and its fields are the help of the flags.
"""

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Suppress

from ..errors import InputError


@dataclass(frozen=True)
class ViewSpec:
    """The views of one image. The defaults are MoCo v2's (Chen et al. 2020)."""

    size: int = 224
    """Side of a view in pixels, 8 to 4096."""
    views: Suppress[int] = 2  # not a flag, like masks and plain: the method sets it, not its user
    """Views per image, each with its own draws; 1 to 64."""
    crop: Literal["rrc", "saliency-swap", "centre"] = "rrc"
    """rrc: a random resized crop. saliency-swap: a patch of the sample's box over another sample's box (CVSA 2.1),
    or anywhere over an image of another shard set if backgrounds are given.
    centre: short side resized to size * 256 / 224, central square (test time)."""
    area: tuple[float, float] = (0.2, 1.0)
    """rrc: range of the crop's share of the image's area."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of aspect ratios, log-uniform, 0.01 to 100: of the crop, or of the patch relative to its box
    (saliency-swap; ours)."""
    patch_area: float = 0.5
    """saliency-swap: least share of its box that a patch covers, 0.001 to 1; lambda of CVSA."""
    paste_area: float = 0.2
    """saliency-swap with backgrounds: least share of the view that a patch covers, 0.001 to 1; beta of CVSA (the value
    is ours)."""
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
    blur: float = 0.5
    """Probability of a Gaussian blur."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Blur: range of the standard deviation in pixels at size 224, 0.01 to 50, scaled by size / 224 at other sizes
    (ours)."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from RGB in [0, 1]; ImageNet's. Allowed: -10 to 10."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """RGB in [0, 1] is divided by it; ImageNet's. Allowed: 0.001 to 1000, so that views fit in half precision."""
    masks: Suppress[bool] = False
    """Also yield object masks: the pasted rectangle, or the sample's own box transformed by the crop (ours)."""
    plain: Suppress[bool] = False
    """Also yield the whole image, only resized to size x size and normalised."""

    @staticmethod
    def evaluation(size: int = 224) -> "ViewSpec":
        """One test-time view without randomness: short side to size * 256 / 224, central square, normalised."""
        return ViewSpec(size=size, views=1, crop="centre", flip=0, jitter=0, grayscale=0, blur=0)

    @property
    def needs_boxes(self) -> bool:
        """Whether the views use the samples' boxes."""
        return self.crop == "saliency-swap" or self.masks

    def __post_init__(self) -> None:
        def need(ok: bool, field: str, allowed: str) -> None:
            if not ok:
                raise InputError(f"views.{field} is {getattr(self, field)!r}; allowed: {allowed}.")

        need(isinstance(self.size, int) and 8 <= self.size <= 4096, "size", "a whole number from 8 to 4096")
        need(isinstance(self.views, int) and 1 <= self.views <= 64, "views", "a whole number from 1 to 64")
        need(self.crop in ("rrc", "saliency-swap", "centre"), "crop", "rrc, saliency-swap, centre")
        need(0 < self.area[0] <= self.area[1] <= 1, "area", "two shares of the image, 0 < low <= high <= 1")
        need(0.01 <= self.aspect[0] <= self.aspect[1] <= 100, "aspect", "two ratios, 0.01 <= low <= high <= 100")
        need(0.001 <= self.patch_area <= 1, "patch_area", "0.001 to 1")
        need(0.001 <= self.paste_area <= 1, "paste_area", "0.001 to 1")
        for field in ("flip", "jitter", "grayscale", "blur"):
            need(0 <= getattr(self, field) <= 1, field, "a probability, 0 to 1")
        for field in ("brightness", "contrast", "saturation"):
            need(0 <= getattr(self, field) <= 1, field, "0 to 1")
        need(0 <= self.hue <= 0.5, "hue", "0 to 0.5 of a full turn")
        need(0.01 <= self.sigma[0] <= self.sigma[1] <= 50, "sigma", "two lengths in pixels, 0.01 <= low <= high <= 50")
        for field, least, most in (("mean", -10, 10), ("std", 0.001, 1000)):
            values = getattr(self, field)
            ok = len(values) == 3 and all(least <= value <= most for value in values)
            need(ok, field, f"three numbers from {least} to {most:,}")
