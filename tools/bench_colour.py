"""tools/bench.py colour: difference between our colour and torchvision's, with the same factors in the same order."""

from pathlib import Path
from typing import Any

import numpy as np
from bench_report import report

from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.images import decode
from fgdata.views import ViewSpec, draws, geometry, reference

OPERATIONS = ("brightness", "contrast", "saturation", "hue")
ROWS = {**{name: (name,) for name in OPERATIONS}, "all but hue": OPERATIONS[:3], "all four": OPERATIONS}


def colour(data: Path = Path("../shared/data"), images: int = 24, draws: int = 20, json: Path | None = None) -> None:
    """Mean difference in levels of 255, over all pixels and channels of photographs 224 pixels wide.

    torchvision rounds to 8 bits and clamps after every operation, and rotates hue in HSV. Ours is one affine map with
    one clamp at the end, and rotates hue in YIQ. The factors are MoCo v2's, drawn as in a training run.

    Args:
        data: folder that holds cub50-fullsize.
        images: number of photographs, from the start of the dataset.
        draws: number of draws of the factors for each photograph.
        json: file to write the figures to.
    """
    if images < 1 or draws < 1:
        raise InputError("--images and --draws must be at least 1.")
    report("colour", differences(photographs(data / "cub50-fullsize", images), draws), json, ("torchvision",))


def photographs(root: Path, images: int) -> list[np.ndarray]:
    birds = read("cub", root)
    decoded = [decode(birds.load(record)[0], record.file) for record in birds.records[:images]]
    return [
        reference.resize(rgb, 224, round(224 * rgb.shape[0] / rgb.shape[1])).round().astype(np.uint8) for rgb in decoded
    ]


def differences(pictures: list[np.ndarray], turns: int) -> list[dict[str, Any]]:
    """One row per operation, and rows for several operations together."""
    import torch
    from torchvision.transforms.v2 import functional as tv

    rows = []
    for name, used in ROWS.items():
        strength: dict[str, Any] = {one: 0.0 for one in OPERATIONS if one not in used}
        spec = ViewSpec(jitter=1, grayscale=0, **strength)
        errors = []
        for number, picture in enumerate(pictures):
            u = draws.uniforms(0, 0, np.arange(number * turns, (number + 1) * turns), 0, draws.COUNT)
            a, c = geometry.colour_map(u, spec)
            spread = (2 * u[:, draws.FACTORS] - 1) * [spec.brightness, spec.contrast, spec.saturation, spec.hue]
            order = np.argsort(u[:, draws.ORDER], 1)
            for i in range(turns):
                ours = np.clip(reference.recolour(picture, a[i], c[i], picture.mean((0, 1))), 0, 255)
                theirs = torch.from_numpy(picture).permute(2, 0, 1)
                for k in order[i]:
                    if OPERATIONS[k] in used:
                        factor = spread[i, k] if OPERATIONS[k] == "hue" else 1 + spread[i, k]
                        theirs = getattr(tv, f"adjust_{OPERATIONS[k]}")(theirs, float(factor))
                errors.append(np.abs(ours - theirs.permute(1, 2, 0).numpy()).mean())
        rows.append({"operation": name, "mean": float(np.mean(errors)), "worst_picture": float(np.max(errors))})
        rows[-1]["n"] = len(errors)
    return rows
