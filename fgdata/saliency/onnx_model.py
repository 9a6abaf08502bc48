"""A salient-object network exported to ONNX: `onnx:FILE`, run by onnxruntime.

Supports BASNet, U2-Net and similar networks: one image input (1, 3, h, w) of single or half precision, and an output of
one plane, (1, 1, h, w) or without the leading ones. The first of U2-Net's seven outputs is the fused map.

    rgb --resize--> (h, w) --/ 255, - mean, / std--> network --one output, min-max--> [0, 1] --resize--> (H, W)

Settings may follow the file name: `onnx:u2net.onnx,size=288,mean=.5:.5:.5,std=1:1:1`. Each of these three comes from
the first of these that has it: the name; the model's fixed input shape (size only); its metadata, keys `size`, `mean`
and `std` in the same notation; the default. U2-Net's own code divides by the image's maximum instead of 255; this does
not. Further settings: `output=2`, the number of the output, from 0, or its name; `sigmoid=yes` for an output of logits;
`provider` and `threads` (onnx_provider.py).
Weights may be in external data in the model's folder (onnx_file.py). A model with a loop that may not end is refused
(onnx_loops.py); any other is tried once, with limits of time and memory, before it is used (onnx_trial.py).
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import InputError
from ..images import shrink
from . import copies
from .onnx_file import hash_files
from .onnx_provider import first_line, import_onnxruntime, lacks_memory, open_session
from .onnx_trial import try_model

SIZE = 320
"""Side of the input in pixels if the model does not fix it: U2-Net's. BASNet was trained at 256."""
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, of RGB in [0, 1]: both networks were trained with them."""
LARGEST = 4096
"""Largest allowed side in pixels."""
TAU = 0.1
"""Of max-excess; chosen with U2-Net-p on the even-numbered images of cub50 (docs/saliency.md)."""
ALLOWED = ("size", "mean", "std", "output", "sigmoid", "provider", "threads")
"""Settings after the file name."""
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
FLAT = 1e-6
"""An output that varies by no more than this is constant."""


def detector(argument: str) -> "Model":
    """Opens `FILE[,setting=value ...]`, after a trial of the model on a grey image."""
    name, settings = parse(argument)
    file = copies.find(name)
    import_onnxruntime()
    sums = hash_files(file)
    on_cpu = {key: value for key, value in settings.items() if key not in ("provider", "threads")}
    try_model(file, tuple(on_cpu.items()), str(sums))  # a GPU reserves more address space than a trial may have
    return Model(file, settings, sums)


def files(argument: str) -> tuple[str, list[str]]:
    """The path of the model, and the names of its files."""
    name, _ = parse(argument)
    return name, list(hash_files(Path(name).expanduser()))


def parse(argument: str) -> tuple[str, dict[str, str]]:
    """`NAME,size=288,std=1:1:1` -> NAME and the settings as text. InputError for an unknown setting."""
    name, *words = argument.split(",")
    settings = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    if unknown := sorted(set(settings) - set(ALLOWED)):
        allowed = ", ".join(f"{key}=" for key in ALLOWED)
        raise InputError(f"onnx:{argument}: {unknown[0]!r} is not a setting; allowed: {allowed}.")
    return name, settings


class Model:
    """A detector (fgdata/saliency/__init__.py) that runs one ONNX file.

    Args:
        file: The ONNX file.
        settings: Those that the user gave, as text.
        sums: The sha256 of its files, as of `hash_files`.

    Raises:
        InputError: onnxruntime is missing, or the file or a setting cannot be used.
    """

    SETTINGS: dict[str, Any]
    TAU = TAU

    def __init__(self, file: Path, settings: dict[str, str], sums: dict[str, str]) -> None:
        self._file = file
        self._session, run_by = open_session(file, settings.get("provider", "cpu"), settings.get("threads", "1"))
        self._input, self._type, fixed = self._read_input()
        metadata = self._session.get_modelmeta().custom_metadata_map
        texts = {key: metadata[key] for key in ("size", "mean", "std") if key in metadata} | settings
        self._size = self._choose_size(fixed, settings, texts)
        self._mean, self._std = (
            self._read_triple(texts, key, default) for key, default in (("mean", MEAN), ("std", STD))
        )
        if not (self._std > 0).all():
            raise InputError(f"{file}: std is {texts['std']!r}; all three numbers must be above 0.")
        self._output = self._choose_output(settings.get("output", "0"))
        self._sigmoid = settings.get("sigmoid", "no") == "yes"
        if settings.get("sigmoid", "no") not in ("yes", "no"):
            raise InputError(f"{file}: sigmoid is {settings['sigmoid']!r}; allowed: yes, no.")
        self.SETTINGS = {
            "sha256": sums[file.name],
            "size": list(self._size),
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
            "output": self._output,
            "onnxruntime": import_onnxruntime().__version__,
            **({"sigmoid": True} if self._sigmoid else {}),
            **run_by,
        }
        external = {name: sha256 for name, sha256 in sums.items() if name != file.name}
        if external:
            self.SETTINGS["external"] = external

    def check_output(self) -> None:
        """Runs the model on a grey image. InputError if it fails or its output is not one plane."""
        self.saliency_map(np.full((8, 8, 3), 128, np.uint8))

    def saliency_map(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]; all zeros if the network's output is constant or not finite."""
        height, width = rgb.shape[:2]
        small = shrink(rgb, 2 * max(self._size))  # area-averaged first: bilinear skips pixels of large images
        small = cv2.resize(small, self._size, interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
        image = np.ascontiguousarray(((small - self._mean) / self._std).transpose(2, 0, 1)[None], self._type)
        plane = self._run(image)
        low, high = float(plane.min()), float(plane.max())
        if not np.isfinite(high - low) or high - low <= FLAT:
            return np.zeros((height, width), np.float32)
        scaled = (plane - np.float32(low)) / np.float32(high - low)
        return np.clip(cv2.resize(scaled, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)

    def _run(self, image: np.ndarray) -> np.ndarray:
        """(1, 3, h, w) -> the chosen output as one plane, (h', w') float32. MemoryError if there is too little."""
        try:
            output = np.asarray(self._session.run([self._output], {self._input: image})[0])
        except Exception as fault:  # onnxruntime's own exceptions share no base class
            if lacks_memory(fault):
                raise MemoryError from None
            raise InputError(
                f"{self._file} fails on an input of shape {image.shape}: {first_line(fault)} "
                f"Give the size it expects: --saliency onnx:{self._file},size=N"
            ) from None
        plane = output.shape[-2:]
        if output.ndim < 2 or output.ndim > 4 or output.size != np.prod(plane) or min(plane) < 2:
            raise InputError(
                f"{self._file}: its output {self._output!r} has shape {output.shape} for one image; allowed: one "
                "plane, (1, 1, h, w). Use a salient-object network, and give the number of the output that is its map: "
                f"--saliency onnx:{self._file},output=N"
            )
        values = np.ascontiguousarray(output.reshape(plane), np.float32)
        return 1 / (1 + np.exp(-np.clip(values, -80, 80))) if self._sigmoid else values  # exp(89) overflows

    def _choose_output(self, number: str) -> str:
        names = [output.name for output in self._session.get_outputs()]
        if not number.isdecimal() or int(number) >= len(names):
            if number in names:
                return number
            listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
            raise InputError(
                f"{self._file}: output is {number!r}; allowed: the number or name of one of its outputs: {listed}."
            )
        return names[int(number)]

    def _read_input(self) -> tuple[str, Any, tuple[int, int] | None]:
        """The input's name and type, and its (width, height) or None if the model does not fix them."""
        inputs = self._session.get_inputs()
        shapes = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        fault = InputError(
            f"{self._file} takes {shapes or 'no input'}; allowed: one input, tensor(float) or "
            "tensor(float16), of shape (1, 3, h, w). "
            "Export it again with an RGB image, channels first, as its only input."
        )
        if len(inputs) != 1 or inputs[0].type not in _TYPES or len(inputs[0].shape) != 4:
            raise fault
        batch, channels, height, width = inputs[0].shape
        free = [not isinstance(value, int) or value < 1 for value in (batch, channels, height, width)]
        if not (free[0] or batch == 1) or not (free[1] or channels == 3) or free[2] != free[3]:
            raise fault
        return inputs[0].name, _TYPES[inputs[0].type], None if free[2] else (width, height)

    def _choose_size(
        self, fixed: tuple[int, int] | None, settings: dict[str, str], texts: dict[str, str]
    ) -> tuple[int, int]:
        """The (width, height) of the input: from the settings, the model's shape, or its metadata, in this order."""
        if fixed is not None and "size" not in settings:
            return fixed
        text = texts.get("size", str(SIZE))
        width, _, height = text.partition("x")
        if not width.isdigit() or not (height or width).isdigit():
            raise InputError(f"{self._file}: size is {text!r}; allowed: a number of pixels, or WIDTHxHEIGHT.")
        size = int(width), int(height or width)
        if not 8 <= min(size) <= max(size) <= LARGEST:
            raise InputError(f"{self._file}: size is {text!r}; allowed: 8 to {LARGEST} pixels.")
        if fixed not in (None, size):
            raise InputError(f"{self._file} fixes its input at {fixed[0]}x{fixed[1]}; omit size={text}.")
        return size

    def _read_triple(self, texts: dict[str, str], key: str, default: tuple[float, ...]) -> np.ndarray:
        """The (3,) float32 of a setting, or the default."""
        try:
            values = np.array([float(word) for word in texts[key].split(":")] if key in texts else default, np.float32)
        except ValueError:
            values = np.empty(0, np.float32)
        if len(values) != 3 or not np.isfinite(values).all():
            raise InputError(f"{self._file}: {key} is {texts[key]!r}; allowed: three numbers, for example .5:.5:.5")
        return values
