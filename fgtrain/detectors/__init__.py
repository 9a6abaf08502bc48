"""Detectors of fgdata that need an encoder: `scda:WEIGHTS` and `tokencut:WEIGHTS`. They use no box, mask or label.

fgdata finds the rows through the entry points of this distribution (pyproject.toml), like those of other plug-ins
(docs/extending.md). Nothing here imports torch before a detector is opened.
"""

from fgdata.saliency import DetectorRow

SCDA = DetectorRow(
    f"{__name__}.scda",
    "object region of a network's last map, Wei et al., IEEE TIP 2017; WEIGHTS: a run, or FILE,backbone=NAME",
    trained_on="the images of WEIGHTS",
)
TOKENCUT = DetectorRow(
    f"{__name__}.tokencut",
    "normalised cut of a ViT's patches, Wang et al., CVPR 2022; WEIGHTS: a run, or FILE,backbone=NAME",
    trained_on="the images of WEIGHTS",
)
ROWS = {"scda:WEIGHTS": SCDA, "tokencut:WEIGHTS": TOKENCUT}
"""As the entry points name them."""
