"""The WEIGHTS of a detector's name: one of our runs, or a file of weights and the network that they belong to.

    scda:runs/byol                                   the last checkpoint of a run
    scda:runs/byol/checkpoints/0004000               another checkpoint
    scda:lite0.pth,backbone=tf_efficientnet_lite0    a file that `fgtrain run --init` reads; its network's name in timm

`size=N` may follow: the side of the square, in pixels, to which images are resized.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from fgdata.errors import InputError
from fgdata.files.regular import open_regular
from fgdata.images import shrink

from ..networks import initial
from ..networks.encoder import Encoder
from ..networks.saved import load_encoder
from ..runs.checkpoint import Checkpoint
from ..settings.common import Model

ALLOWED = ("backbone", "size")
"""Settings after the path."""


@dataclass(frozen=True)
class Source:
    """A network that turns images into maps."""

    name: str
    """As the user typed it, for messages."""
    encoder: Encoder
    size: int
    settings: dict[str, Any]
    """What a manifest records: the network, the sha256 of its weights, the size, and versions."""

    def input(self, rgb: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, size, size) float32, normalised as the network's training images were."""
        side = (self.size, self.size)
        small = cv2.resize(shrink(rgb, 2 * self.size), side, interpolation=cv2.INTER_LINEAR)
        mean, std = (np.array(values, np.float32) for values in (self.encoder.mean, self.encoder.std))
        pixels = (small.astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def open_source(family: str, argument: str, size: int) -> Source:
    """Opens `WEIGHTS[,backbone=NAME][,size=N]`. size: the default, rounded to a multiple of the network's stride.

    InputError when the run or file does not exist or does not fit the network, or a setting cannot be used.
    """
    name = f"{family}:{argument}"
    text, *words = argument.split(",")
    settings = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    if unknown := sorted(set(settings) - set(ALLOWED)):
        allowed = ", ".join(f"{key}=" for key in ALLOWED)
        raise InputError(f"{name}: {unknown[0]!r} is not a setting; allowed: {allowed}.")
    path = Path(text).expanduser()  # the shell does not expand a ~ after a colon
    encoder, about = _load(name, family, path, settings.get("backbone"))
    stride = encoder.shape.strides[4]
    side = settings.get("size", str(stride * round(size / stride)))
    if not side.isdecimal() or not 32 <= int(side) <= 2048:
        raise InputError(f"{name}: size is {side!r}; allowed: 32 to 2048 pixels.")
    encoder.check_size(int(side), f"saliency {name}: size")
    from timm import __version__ as timm

    about |= {"size": int(side), "mean": list(encoder.mean), "std": list(encoder.std)}
    about |= {"torch": torch.__version__, "timm": timm}
    return Source(name, encoder.eval(), int(side), about)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes with one thread, so that sums have the same order everywhere, and without gradients."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def _load(name: str, family: str, path: Path, backbone: str | None) -> tuple[Encoder, dict[str, Any]]:
    if backbone is not None and not path.is_dir():
        return _load_file(name, path, backbone)
    if backbone is not None:
        raise InputError(f"{name}: {path} is a folder, and a run states its own network. Omit backbone={backbone}.")
    try:
        checkpoint = Checkpoint.find(path)
    except InputError as fault:
        if path.is_file():
            raise InputError(
                f"{name}: {fault}\nIf it holds the weights of another project, name their network as timm does: "
                f"--saliency {family}:{path},backbone=resnet50"
            ) from None
        raise InputError(f"{name}: {fault}") from None
    running = checkpoint.run is not None and checkpoint.run.facts.get("status") == "running"
    if running and path.resolve() == checkpoint.run.path.resolve():  # pyright: ignore[reportOptionalMemberAccess]
        raise InputError(
            f"{name}: run.json says that this run is still training, so its last checkpoint may change. Name one "
            f"checkpoint: --saliency {family}:{checkpoint.file.parent}"
        )
    encoder = load_encoder(checkpoint)
    return encoder, {"backbone": checkpoint.model.backbone, "sha256": _sha256(checkpoint.file), "step": checkpoint.step}


def _load_file(name: str, path: Path, backbone: str) -> tuple[Encoder, dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{name}: {path} is not a file. Give the file with the weights of a {backbone}, or a run.")
    model = Model(backbone)
    try:
        with torch.random.fork_rng(devices=[]):
            encoder = Encoder(model)
        initial.load(encoder, str(path), model)
    except InputError as fault:
        raise InputError(f"{name}: {fault}") from None
    return encoder, {"backbone": backbone, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
