"""Detectors of fgdata that need an encoder: `scda:`, `tokencut:` and `lost:WEIGHTS`. They use no box, mask or label.

fgdata finds the rows through the entry points of this distribution (pyproject.toml), like those of other plug-ins
(docs/extending.md). Only opening a detector imports torch.
"""

from importlib.util import find_spec
from pathlib import Path

from fgdata.errors import InputError
from fgdata.saliency import DetectorRow
from fgdata.saliency import copies as copies

SHARERS = 4
"""Of the 0.07 s that `scda` takes for an image, 0.01 s are the calls themselves, mostly one thread at a time: what
remains of it at 32 pixels."""
SCDA = DetectorRow(
    f"{__name__}.scda",
    "region that activates a network's last map, Wei et al., 2017; WEIGHTS: a run, or FILE,backbone=NAME",
    trained_on="what WEIGHTS was trained on",
    sharers=SHARERS,
)
TOKENCUT = DetectorRow(
    f"{__name__}.tokencut",
    "normalised cut of a ViT's patches, Wang et al., CVPR 2022; WEIGHTS: a run, or FILE,backbone=NAME",
    trained_on="what WEIGHTS was trained on",
    sharers=SHARERS,
)
LOST = DetectorRow(
    f"{__name__}.lost",
    "a seed patch of a ViT and the patches similar to it, Simeoni et al., BMVC 2021; WEIGHTS: a run, or "
    "FILE,backbone=NAME",
    trained_on="what WEIGHTS was trained on",
    sharers=SHARERS,
)
ROWS = {"scda:WEIGHTS": SCDA, "tokencut:WEIGHTS": TOKENCUT, "lost:WEIGHTS": LOST}
"""By the names of their entry points."""
PACKAGES = ("torch", "torchvision", "timm", "safetensors", "scipy")


def files(argument: str) -> tuple[str, list[str]]:
    """Of `WEIGHTS[,backbone=NAME][,size=N]`: its path, and its name if it is a file. Runs are read where they are."""
    path = argument.partition(",")[0]
    return path, [Path(path).name] if Path(path).expanduser().is_file() else []


def check_packages(name: str) -> None:
    """InputError when a package that runs encoders is not installed. name: the detector."""
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise InputError(f"{name} needs {', '.join(missing)}, not installed: pip install {' '.join(missing)}")
