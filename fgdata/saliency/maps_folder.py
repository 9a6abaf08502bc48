"""Maps computed elsewhere: `maps:DIR`, one grey image for each image of the dataset.

The map of `images/019.Catbird/Catbird_1.jpg` is the first of these under DIR, with any suffix of SUFFIXES in any case:

    images/019.Catbird/Catbird_1      019.Catbird/Catbird_1      Catbird_1

Grey levels 0 to 255 are saliency 0 to 1, as they stand; so are 0 to 65535 of 16 bits, and the numbers 0 to 1 of a float
TIFF. A map of another size than its image is stretched to it.
"""

import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from ..errors import InputError
from ..images import decode

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
COLOURED = 16
"""Channels of a grey JPEG may differ by a few levels; more than this is a picture, or a map in false colours."""


class MapsFolder:
    """A detector (fgdata/saliency/__init__.py) that must be told the file: it reads, it does not look at pixels."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}. Give the folder of grey images: --saliency maps:DIR")
        self._folder = folder
        self._names: dict[Path, list[str]] = {}

    @cached_property
    def SETTINGS(self) -> dict[str, Any]:
        """A checksum of the names and bytes of all maps: a build goes on only with the maps it was started with."""
        sha256, count = hashlib.sha256(), 0
        for file in sorted(self._folder.rglob("*")):
            if file.suffix.lower() in SUFFIXES and file.is_file():
                sha256.update(file.relative_to(self._folder).as_posix().encode() + b"\0")
                sha256.update(hashlib.sha256(file.read_bytes()).digest())
                count += 1
        return {"sha256": sha256.hexdigest(), "files": count}

    def saliency_map(self, rgb: np.ndarray, file: str) -> np.ndarray:
        """(H, W, 3) uint8, its path in the dataset -> (H, W) float32 in [0, 1]."""
        found = self.find(file)
        shares = _shares(found)
        spread = round(255 * float((shares.max(2) - shares.min(2)).max()))
        if spread > COLOURED:
            raise InputError(f"{found} is a coloured image (channels differ by {spread}); allowed are grey maps.")
        grey = np.ascontiguousarray(shares[..., shares.shape[2] // 2])
        height, width = rgb.shape[:2]
        if grey.shape == (height, width):
            return grey
        return np.clip(cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)

    def find(self, file: str) -> Path:
        """The map of a dataset's file. InputError when there is none, or more than one."""
        parts = PurePosixPath(file).with_suffix("").parts
        for depth in range(len(parts)):
            found = self._called(self._folder.joinpath(*parts[depth:]))
            if len(found) > 1:
                raise InputError(f"{file} has two maps, {found[0]} and {found[1]}. Remove one.")
            if found:
                return found[0]
        raise InputError(
            f"{file} has no map in {self._folder}: looked for {self._folder.joinpath(*parts)}.png and for "
            f"{parts[-1]}.png in the folders above it (or {', '.join(SUFFIXES[1:])}). Add it, or name another folder."
        )

    def _called(self, stem: Path) -> list[Path]:
        """The maps of this path and name. A folder is listed once, its names kept in order."""
        if stem.parent not in self._names:
            self._names[stem.parent] = sorted(os.listdir(stem.parent)) if stem.parent.is_dir() else []
        names = self._names[stem.parent]
        named = names[bisect_left(names, f"{stem.name}.") : bisect_left(names, f"{stem.name}/")]  # / comes after .
        named = [stem.with_name(name) for name in named if name[len(stem.name) :].lower() in SUFFIXES]
        return [path for path in named if path.is_file()]

    def require(self, files: Iterable[str]) -> None:
        """InputError unless every one of a dataset's files has a map of its own."""
        taken: dict[Path, str] = {}
        missing = []
        for file in files:
            try:
                found = self.find(file)
            except InputError as fault:
                missing.append(fault)
                continue
            other = taken.setdefault(found, file)
            if other != file:
                raise InputError(
                    f"{other} and {file} would share the map {found}. Arrange {self._folder} in the dataset's folders."
                )
        if missing:
            more = f"\nThat is the first of {len(missing):,} images without a map." if len(missing) > 1 else ""
            raise InputError(f"{missing[0]}{more}")


def _shares(file: Path) -> np.ndarray:
    """A map's file -> (H, W, C) float32 in [0, 1]."""
    data = file.read_bytes()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None or pixels.dtype == np.uint8:
        return decode(data, str(file)).astype(np.float32) / 255
    pixels = pixels.reshape(*pixels.shape[:2], -1)[..., :3]  # without alpha
    if pixels.dtype == np.uint16:
        return pixels.astype(np.float32) / 65535
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"{file} holds {pixels.dtype} numbers; allowed are 8 or 16 bits without sign, or floats.")
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):  # nan is neither
        raise InputError(f"{file} holds floats from {low} to {high}; allowed are 0 to 1. Scale and clip them.")
    return pixels.astype(np.float32)


def detector(argument: str) -> MapsFolder:
    """`maps:DIR` -> the maps of a folder."""
    return MapsFolder(Path(argument).expanduser())  # the shell leaves a ~ behind the colon as it is
