"""An encoder as an ONNX network, (B, 3, S, S) float32 -> (B, n) float32, for programs without torch.

The input is named `images` and normalised as in training; the output, `feature`, is the feature that evaluations use.
The file's metadata states mean, std, size and backbone. onnxruntime runs it before it gets its name.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fgdata.errors import InputError

from ..runs.files import whole
from .encoder import Encoder

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3
"""Largest difference from torch, relative to the largest feature: float32, in another order of additions."""


class Described(nn.Module):
    """(B, 3, S, S) -> (B, n), the feature that evaluations use."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.describe(self.encoder(images))


def write_onnx(encoder: Encoder, size: int, file: Path) -> list[str]:
    """Writes the network and compares it with torch on random images -> lines that say how to run it.

    InputError when a package is missing, the network cannot be converted or gives other features, or the file cannot
    be written; nothing is left of it then.
    """
    runtime = _import_packages()
    encoder.check_size(size, "size")
    network = Described(encoder).eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the converter's, about its own parts
            program: Any = torch.onnx.export(
                network,
                (torch.rand(2, 3, size, size),),
                input_names=["images"],
                output_names=["feature"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the converter raises many kinds, and names the operation
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{encoder.model.backbone} cannot be converted to ONNX: {reason[:200]}. Export its weights instead: name a "
            "FILE that ends in .safetensors."
        ) from error
    about = {"mean": list(encoder.mean), "std": list(encoder.std), "size": size, "backbone": encoder.model.backbone}
    program.model.metadata_props["fgtrain"] = json.dumps(about)
    with whole(file) as part:
        program.save(part, external_data=False)
        difference = _largest_difference(runtime, part, network, size)
        if not difference <= TOLERANCE:
            raise InputError(
                f"{file} is not kept: onnxruntime computes other features than torch (difference {difference:.2g} of "
                f"the largest, allowed {TOLERANCE:g}). Update onnxruntime: pip install onnxruntime"
            )
    return [
        f"{file}: {encoder.model.backbone}, images (B, 3, {size}, {size}) -> feature (B, {encoder.described}). "
        f"onnxruntime agrees with torch to {difference:.1g} of the largest feature.",
        f"session = onnxruntime.InferenceSession({str(file)!r})",
        'feature, = session.run(None, {"images": images})  # RGB in [0, 1], minus mean, divided by std',
        f"mean = {list(encoder.mean)}; std = {list(encoder.std)}",
    ]


def _largest_difference(runtime: Any, file: Path, network: nn.Module, size: int) -> float:
    """Largest difference of a feature between onnxruntime and torch, relative to the largest feature."""
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)) * 4 - 2  # another batch size
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = network(images)
    return float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def _import_packages() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            f"An ONNX file needs {error.name}, which is not installed: pip install {' '.join(PACKAGES)}"
        ) from error
    return onnxruntime
