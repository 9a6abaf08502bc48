"""Salient-object networks of other projects by name: `u2netp`, `u2net`, `isnet`, `birefnet-lite`.

Their weights are not part of this project. `find` looks for a file in $FGDATA_MODELS, else in the user's cache, and
checks its sha256; `fetch` downloads it there. They run as `onnx:FILE` does (onnx_model.py), with the input that each
was trained on. All learned from object masks of other images; docs/saliency.md says what that means for figures.

BASNet is not listed: its authors publish no ONNX file. Export it yourself: onnx:basnet.onnx,size=256
"""

import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..files.download import download, only_downloader
from ..files.regular import open_regular
from . import copies, onnx_model
from .onnx_model import Model, parse

VARIABLE = "FGDATA_MODELS"
TAU = onnx_model.TAU
"""Of max-excess; chosen for u2netp. The others also have sharp maps; no value was chosen for them."""
_REMBG = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"
_HALVES = ".5:.5:.5"


@dataclass(frozen=True)
class Network:
    """A published ONNX file and how to run it."""

    file: str
    sha256: str
    bytes: int
    url: str
    licence: str
    """Of the weights, as their authors state it."""
    settings: dict[str, str]
    """As after the file name of onnx:FILE. Default: ImageNet's mean and std, and the first output."""


NETWORKS = {
    "u2netp": Network(
        file="u2netp.onnx",
        sha256="309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        bytes=4_574_861,
        url=f"{_REMBG}u2netp.onnx",
        licence="Apache-2.0",
        settings={"size": "320"},
    ),
    "u2net": Network(
        file="u2net.onnx",
        sha256="8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
        bytes=175_997_641,
        url=f"{_REMBG}u2net.onnx",
        licence="Apache-2.0",
        settings={"size": "320"},
    ),
    "isnet": Network(
        file="isnet-general-use.onnx",
        sha256="60920e99c45464f2ba57bee2ad08c919a52bbf852739e96947fbb4358c0d964a",
        bytes=178_648_008,
        url=f"{_REMBG}isnet-general-use.onnx",
        licence="Apache-2.0",
        settings={"size": "1024", "mean": _HALVES, "std": "1:1:1"},
    ),
    "birefnet-lite": Network(
        file="BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx",
        sha256="5600024376f572a557870a5eb0afb1e5961636bef4e1e22132025467d0f03333",
        bytes=224_005_088,
        url="https://github.com/ZhengPeng7/BiRefNet/releases/download/v1/BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx",
        licence="MIT",
        settings={"size": "1024", "sigmoid": "yes"},
    ),
}


def detector(name: str) -> Model:
    """Opens `NAME[,setting=value ...]`; the settings are those of onnx:FILE and replace the network's own.

    Raises:
        InputError: onnxruntime or the file is missing, the file is not the published one, or a setting cannot be used.
    """
    name, settings = parse(name)
    network = NETWORKS[name]
    return Model(find(name), network.settings | settings, {network.file: network.sha256})


def files(name: str) -> tuple[str, list[str]]:
    """The file of `NAME[,setting=value ...]`: its path, and its name."""
    path = find(parse(name)[0])
    return str(path.absolute()), [path.name]


def folder() -> Path:
    """Where models are: $FGDATA_MODELS, else $XDG_CACHE_HOME/fgdata/models, else ~/.cache/fgdata/models."""
    return Path(os.environ.get(VARIABLE) or copies.cache("models")).expanduser()


def find(name: str) -> Path:
    """The file of a network. InputError if it is not there, or is not the published one."""
    network, path = NETWORKS[name], copies.find(str(folder() / NETWORKS[name].file))
    where = f"{network.licence}, {network.bytes / 1e6:,.1f} MB, {network.url}"
    again = f"fgdata fetch-model {name}"
    if not path.exists():
        raise InputError(
            f"{name} needs {path}, which does not exist ({where}). Download it: {again}\n"
            f"Or set {VARIABLE} to the folder that holds {network.file}."
        )
    with open_regular(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != network.sha256:
        raise InputError(
            f"{path} is not the published file of {name}: sha256 {found}, expected {network.sha256} ({where}). Remove "
            f"it and download it again: rm {shlex.quote(str(path))} && {again}\n"
            f"To use a file of your own: --saliency onnx:{path}"
        )
    return path


def fetch(name: str) -> Path:
    """Downloads the file of a network into `folder()`, unless it is there -> its path.

    Raises:
        InputError: the name is unknown, the server fails, or the file is not the published one.
    """
    if name not in NETWORKS:
        raise InputError(f"{name!r} is not a model that can be fetched; available: {', '.join(NETWORKS)}.")
    network, target = NETWORKS[name], folder()
    path = target / network.file
    if not path.exists():
        with only_downloader(target, VARIABLE):
            by_hand = f"Find {network.file} elsewhere and put it into {target}; its sha256 is {network.sha256}."
            if not path.exists():  # else another process has downloaded it meanwhile
                download(network.url, network.sha256, path, by_hand=by_hand, flag=VARIABLE)
    return find(name)
