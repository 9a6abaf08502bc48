"""Whether the images of a dataset may be redistributed, as far as its publisher's pages say so.

Not legal advice. What is not known to be allowed counts as not allowed: `fgdata push` then asks the user to confirm
that they may redistribute the images.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """What a publisher says about redistributing a dataset's images."""

    words: str
    """One sentence for the card and for messages."""
    allowed: bool = False
    """Whether everybody may redistribute the images."""
    licence: str = "other"
    """The licence by its name on the Hugging Face hub; unknown if nobody states one."""


UNKNOWN = Terms("the source of these images states no licence that fgdata knows", licence="unknown")
_OWN = Terms("these are the builder's own images, whose licence only the builder knows", licence="unknown")
_IMAGENET = Terms(
    "ImageNet's terms of access allow non-commercial research and education, by those who accepted them; its images "
    "belong to their authors"
)

TERMS = {
    "drawn": Terms("drawn by code of this project, under its licence", allowed=True, licence="mit"),
    "cub": Terms("CUB's photographs are from Flickr and belong to their authors; it is a dataset for research"),
    "cars": Terms("Stanford Cars is for non-commercial research; its photographs belong to their authors"),
    "pets": Terms(
        "Oxford-IIIT Pet is offered under CC BY-SA 4.0; the copyright of the photographs stays with their owners",
        allowed=True,
        licence="cc-by-sa-4.0",
    ),
    "dogs": Terms("Stanford Dogs consists of ImageNet's images, which belong to their authors"),
    "flowers": Terms("Oxford Flowers' page states no licence that fgdata knows", licence="unknown"),
    "aircraft": Terms(
        "FGVC-Aircraft's photographs are for non-commercial research only, and their photographers keep the copyright"
    ),
    "nabirds": Terms("NABirds is given to those who accept the terms of the Cornell Lab, which keeps the copyright"),
    "inat2018": Terms(
        "iNaturalist 2018's terms forbid distributing its images, and allow non-commercial research and education"
    ),
    "gtsrb": Terms("GTSRB's page states no licence that fgdata knows", licence="unknown"),
    "isic2017": Terms("ISIC's terms differ from year to year and from image to image; see the archive's page"),
    "cifar100": Terms(
        "CIFAR-100 states no licence; its images are from the withdrawn 80 Million Tiny Images", licence="unknown"
    ),
    "imagenet": _IMAGENET,
    "imagenet100": _IMAGENET,
    "coco": Terms(
        "COCO's photographs are from Flickr, each under its author's own licence; its annotations are CC BY 4.0"
    ),
    "folder": _OWN,
    "table": _OWN,
    "flat": _OWN,
}
"""By the name of a dataset in DATASETS. Others, such as those of a plug-in, are UNKNOWN."""


def terms_of(dataset: str) -> Terms:
    """The terms of a dataset, by the name in a manifest."""
    return TERMS.get(dataset, UNKNOWN)
