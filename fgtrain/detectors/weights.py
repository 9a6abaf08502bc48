"""The WEIGHTS of a detector's name: one of our runs, or a file of weights and the network that they belong to.

    scda:runs/byol                                   the last checkpoint of a run
    scda:runs/byol/checkpoints/0004000               another checkpoint
    scda:lite0.pth,backbone=tf_efficientnet_lite0    a file that `fgtrain run --init` reads; its network's name in timm

`size=N` may follow: the side of the square, in pixels, to which images are resized. Default: twice the side of the
images that the network was trained on, where it accepts that.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from torch import Tensor

from fgdata.errors import InputError
from fgdata.files.regular import open_regular
from fgdata.images import shrink

from ..networks import initial
from ..networks.architecture import input_size
from ..networks.encoder import Encoder
from ..networks.keys import last_keys
from ..networks.saved import load_encoder
from ..runs.checkpoint import Checkpoint
from ..runs.provenance import recorded_set
from ..runs.rundir import RunDir
from ..settings.common import Model
from . import copies

ALLOWED = ("backbone", "size")
"""Settings after the path."""
SMALLEST, LARGEST = 32, 2048  # of size, in pixels


@dataclass(frozen=True)
class Source:
    """A network that turns images into maps."""

    name: str
    """As the user typed it, for messages."""
    encoder: Encoder
    size: int
    settings: dict[str, Any]
    """What a manifest records: the network, the sha256 of its weights, the size, and versions."""

    def maps(self, rgb: np.ndarray) -> list[np.ndarray]:
        """(H, W, 3) uint8 -> the network's last maps, (C, h, w) float64 each, from the finest to the last."""
        with one_thread():
            return [level[0].double().numpy() for level in self.encoder(self.input(rgb)).maps.values()]

    def keys(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> the keys of a ViT's last block, (h, w, C) float64."""
        with one_thread():
            return last_keys(self.encoder, self.input(rgb))[0].double().numpy()

    def input(self, rgb: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, size, size) float32, normalised as the network's training images were."""
        side = (self.size, self.size)
        small = cv2.resize(shrink(rgb, 2 * self.size), side, interpolation=cv2.INTER_LINEAR)
        mean, std = (np.array(values, np.float32) for values in (self.encoder.mean, self.encoder.std))
        pixels = (small.astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def open_source(family: str, argument: str, flag: str = "--saliency", times: int = 2) -> Source:
    """Opens `WEIGHTS[,backbone=NAME][,size=N]`.

    family: the detector's name before the colon. flag: the flag that takes the name, for messages. times: the default
    size as a multiple of the side of the images that the network was trained on, where it accepts that.

    InputError when the run or file does not exist or does not fit the network, or a setting cannot be used.
    """
    name = f"{family}:{argument}"
    text, *words = argument.split(",")
    settings = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    if unknown := sorted(set(settings) - set(ALLOWED)):
        allowed = ", ".join(f"{key}=" for key in ALLOWED)
        raise InputError(f"{name}: {unknown[0]!r} is not a setting; allowed: {allowed}.")
    path = copies.find(text)
    try:
        if "backbone" in settings:
            encoder, trained, about = _open_file(path, settings["backbone"])
        else:
            encoder, trained, about = _open_run(f"{flag} {family}:", path)
    except InputError as fault:
        text = re.sub(r"--model\.backbone (?=\w)", "backbone=", str(fault))  # the flag of fgtrain -> our setting
        raise InputError(f"{name}: {text.replace('--model.backbone', 'backbone=NAME')}") from None
    larger = times * trained
    side = settings.get("size", str(larger if encoder.shape.fits(encoder.model, larger) else trained))
    if not side.isdecimal() or not SMALLEST <= int(side) <= LARGEST:
        raise InputError(f"{name}: size is {side!r}; allowed: {SMALLEST} to {LARGEST} pixels.")
    encoder.check_size(int(side), f"{flag.removeprefix('--')} {name}: size")
    about |= {"size": int(side), "mean": list(encoder.mean), "std": list(encoder.std)}
    about |= {"torch": str(torch.__version__), "timm": timm.__version__}
    return Source(name, encoder.eval(), int(side), about)


def _open_run(words: str, path: Path) -> tuple[Encoder, int, dict[str, Any]]:
    """A run, a checkpoint or an exported file -> the encoder, the side of its training images, what is recorded.

    words: the flag and the name's family, for messages.
    """
    try:
        checkpoint = Checkpoint.find(path)
    except InputError as fault:
        hint = f"\nWeights of another project need timm's name of their network: {words}{path},backbone=NAME"
        raise InputError(f"{fault}{hint if path.is_file() else ''}") from None
    if (path / "config.json").is_file() and checkpoint.run and checkpoint.run.status == "running":
        raise InputError(
            "This run is still training, so its last checkpoint may change. Name a checkpoint: "
            f"{words}{checkpoint.file.parent}"
        )
    about = {"backbone": checkpoint.model.backbone, "sha256": _sha256(checkpoint.file), "step": checkpoint.step}
    about["trained_on"] = _describe_training(checkpoint.run)
    return load_encoder(checkpoint), checkpoint.size, about


def _describe_training(run: RunDir | None) -> str:
    """What the encoder of a run has seen: labels make its boxes incomparable with those found without them."""
    if run is None:
        return "unknown (an exported file)"
    config, name = run.config(), Path(recorded_set(run).get("path", "a set that is not recorded")).name
    start = f" from {config.init}" if config.init else ""
    return f"{'images and labels' if 'labels' in config.needs else 'images'} of {name} ({config.method}){start}"


def _open_file(path: Path, backbone: str) -> tuple[Encoder, int, dict[str, Any]]:
    """As `_open_run`, for weights of another project."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a run states its own network. Omit backbone={backbone}.")
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give the file with the weights of a {backbone}, or a run.")
    model = Model(backbone)
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(model)
    initial.load(encoder, str(path), model)
    about = {"backbone": backbone, "sha256": _sha256(path), "trained_on": f"as {path.name} was"}
    return encoder, input_size(model), about


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
