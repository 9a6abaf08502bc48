"""A salient-object network exported to ONNX: `onnx:FILE`, run by onnxruntime on one thread of the processor.

Fits BASNet, U2-Net and their kin: one float image input (1, 3, h, w), and a first output of one plane, (1, 1, h, w) up
to missing leading ones. U2-Net exports seven outputs, of which the first is the fused map; the rest are not read.

    rgb --resize--> (h, w) --/ 255, - mean, / std--> network --first output, min-max--> [0, 1] --resize--> (H, W)

What the file does not say may follow it: `onnx:u2net.onnx,size=288,mean=.5:.5:.5,std=1:1:1`. Each of the three is, in
this order: as given there; of the model's fixed input shape (size only); of its metadata, keys `size`, `mean` and
`std` in the same notation; the default. U2-Net's own code divides by the image's maximum instead of 255; we do not.
"""

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import InputError
from ..images import shrink

SIZE = 320
"""Sides of the input in pixels where the model leaves them open: U2-Net's. BASNet was trained at 256."""
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, in shares of 255: what both were trained with."""
LARGEST = 4096
"""Sides above this are a mistake."""
FLAT = 1e-6
"""An output that varies by less says nothing."""


def detector(argument: str) -> "Model":
    """`FILE[,size=S or WxH][,mean=R:G:B][,std=R:G:B]` -> the model, tried once on a grey image."""
    name, *words = argument.split(",")
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    unknown = sorted(set(given) - {"size", "mean", "std"})
    if unknown:
        raise InputError(f"onnx:{argument}: {unknown[0]!r} is not a setting; allowed: size=, mean=, std=.")
    return Model(Path(name).expanduser(), given)  # the shell leaves a ~ behind the colon as it is


class Model:
    """A detector (fgdata/saliency/__init__.py) around one ONNX file."""

    SETTINGS: dict[str, Any]

    def __init__(self, file: Path, given: dict[str, str]) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise InputError("onnx:FILE needs onnxruntime: pip install 'fgdata[onnx]'") from None
        if not file.is_file():
            raise InputError(f"There is no ONNX file {file}. Give its path: --saliency onnx:FILE")
        self._file = file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # faults come as exceptions
        data = file.read_bytes()
        try:
            self._session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        except Exception as fault:  # onnxruntime's own exceptions share no base class
            raise InputError(
                f"{file} is not an ONNX model that onnxruntime {onnxruntime.__version__} reads: {_first_line(fault)} "
                "Export it again as one file, weights inside."
            ) from None
        self._input, fixed = self._read_input()
        metadata = self._session.get_modelmeta().custom_metadata_map
        said = {key: metadata[key] for key in ("size", "mean", "std") if key in metadata} | given
        self._size = self._choose_size(fixed, given, said)
        self._mean, self._std = (self._triple(said, key, default) for key, default in (("mean", MEAN), ("std", STD)))
        if not (self._std > 0).all():
            raise InputError(f"{file}: std is {said['std']!r}; all three must be above 0.")
        self._output = self._session.get_outputs()[0].name
        self.SETTINGS = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": list(self._size),
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
            "output": self._output,
            "onnxruntime": onnxruntime.__version__,
        }
        self.saliency_map(np.full((8, 8, 3), 128, np.uint8))  # a wrong model is refused now, not hours later

    def saliency_map(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]; zeros where the network's answer is constant or not finite."""
        height, width = rgb.shape[:2]
        small = shrink(rgb, 2 * max(self._size))  # by areas first: bilinear alone would skip pixels of large images
        small = cv2.resize(small, self._size, interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
        image = np.ascontiguousarray(((small - self._mean) / self._std).transpose(2, 0, 1)[None], np.float32)
        found = self._run(image)
        low, high = float(found.min()), float(found.max())
        if not np.isfinite(high - low) or high - low <= FLAT:
            return np.zeros((height, width), np.float32)
        scaled = (found - np.float32(low)) / np.float32(high - low)
        return np.clip(cv2.resize(scaled, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)

    def _run(self, image: np.ndarray) -> np.ndarray:
        try:
            found = np.asarray(self._session.run([self._output], {self._input: image})[0])
        except Exception as fault:
            raise InputError(
                f"{self._file} does not run on an input of {image.shape}: {_first_line(fault)} "
                f"Give the size it wants: --saliency onnx:{self._file},size=N"
            ) from None
        planes = found.shape[-2:]
        if found.ndim < 2 or found.ndim > 4 or found.size != np.prod(planes) or min(planes) < 2:
            raise InputError(
                f"{self._file}: its output {self._output!r} has shape {found.shape} for one image; allowed is one "
                "plane, (1, 1, h, w). It is no salient-object network, or its map must become its first output."
            )
        return np.ascontiguousarray(found.reshape(planes), np.float32)

    def _read_input(self) -> tuple[str, tuple[int, int] | None]:
        """-> the input's name and its (width, height) where the model fixes them."""
        inputs = self._session.get_inputs()
        shapes = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        wrong = InputError(
            f"{self._file} takes {shapes or 'no input'}; allowed is one input, tensor(float), of shape (1, 3, h, w). "
            "Export it again with an RGB image, channels first, as its only input."
        )
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise wrong
        batch, channels, height, width = inputs[0].shape
        free = [not isinstance(value, int) or value < 1 for value in (batch, channels, height, width)]
        if not (free[0] or batch == 1) or not (free[1] or channels == 3) or free[2] != free[3]:
            raise wrong
        return inputs[0].name, None if free[2] else (width, height)

    def _choose_size(
        self, fixed: tuple[int, int] | None, given: dict[str, str], said: dict[str, str]
    ) -> tuple[int, int]:
        if fixed is not None and "size" not in given:
            return fixed
        text = said.get("size", str(SIZE))
        width, _, height = text.partition("x")
        if not width.isdigit() or not (height or width).isdigit():
            raise InputError(f"{self._file}: size is {text!r}; allowed: a number of pixels, or WIDTHxHEIGHT.")
        size = int(width), int(height or width)
        if not 8 <= min(size) <= max(size) <= LARGEST:
            raise InputError(f"{self._file}: size is {text!r}; allowed: 8 to {LARGEST} pixels.")
        if fixed not in (None, size):
            raise InputError(f"{self._file} fixes its input at {fixed[0]}x{fixed[1]}; leave out size={text}.")
        return size

    def _triple(self, said: dict[str, str], key: str, default: tuple[float, ...]) -> np.ndarray:
        try:
            values = np.array([float(word) for word in said[key].split(":")] if key in said else default, np.float32)
        except ValueError:
            values = np.empty(0, np.float32)
        if len(values) != 3 or not np.isfinite(values).all():
            raise InputError(f"{self._file}: {key} is {said[key]!r}; allowed: three numbers, for example .5:.5:.5")
        return values


def _first_line(fault: Exception) -> str:
    return str(fault).strip().split("\n")[0][:300]
