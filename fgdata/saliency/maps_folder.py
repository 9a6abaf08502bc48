"""Maps computed elsewhere: `maps:DIR`, one greyscale image for each image of the dataset.

The map of `images/019.Catbird/Catbird_1.jpg` is the first of these under DIR, with any suffix of SUFFIXES in upper or
lower case:

    images/019.Catbird/Catbird_1      019.Catbird/Catbird_1      Catbird_1

Saliency 0 to 1 is stored as grey levels 0 to 255, as 0 to 65535 in 16 bits, or as the floats 0 to 1 of a TIFF. A map
whose size differs from its image's is resized to it. If a file has an alpha channel that is not constant, as a cut-out
has, the map is its alpha.
"""

import hashlib
import io
import os
import struct
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from ..boxes.objective import ANY_TAU
from ..errors import InputError
from ..files.regular import open_regular
from ..images import decode, header, name_image
from ..progress import Progress

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
TAU = ANY_TAU
"""Of max-excess: nothing is known about the maps. Those of a network need 0.1 (docs/saliency.md)."""
COLOURED = 16
"""Channels of a grey JPEG may differ by a few levels of 255; a larger difference means a photo or false colours."""

MOST_PIXELS = 1 << 24
"""A map may have this many pixels, or MOST_ENLARGED times those of its image if that is more."""
MOST_ENLARGED = 4


class MapsFolder:
    """A detector (fgdata/saliency/__init__.py) that reads an image's map by the image's path, not from its pixels."""

    TAU = TAU

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder. Give the folder of greyscale maps: --saliency maps:DIR")
        self._folder = folder
        self._names: dict[Path, list[str]] = {}  # sorted names of each folder, listed once

    @cached_property
    def SETTINGS(self) -> dict[str, Any]:
        """The number of maps, and one sha256 over their names and bytes: a build resumes only with unchanged maps."""
        sha256 = hashlib.sha256()
        files = sorted(file for file in _walk(self._folder) if file.suffix.lower() in SUFFIXES and file.is_file())
        with Progress("Reading maps", len(files)) as progress:
            for file in files:
                sha256.update(os.fsencode(file.relative_to(self._folder).as_posix()) + b"\0")
                with open_regular(file) as content:
                    sha256.update(hashlib.file_digest(content, "sha256").digest())
                progress.advance(1)
        return {"sha256": sha256.hexdigest(), "files": len(files)}

    def saliency_map(self, rgb: np.ndarray, file: str) -> np.ndarray:
        """(H, W, 3) uint8 and its path in the dataset -> its map, (H, W) float32 in [0, 1].

        Raises:
            InputError: there is no map, or it is not a greyscale image of numbers in the allowed range.
        """
        map_file = self.find(file)
        height, width = rgb.shape[:2]
        values = _read_values(map_file, max(MOST_PIXELS, MOST_ENLARGED * height * width))
        spread = round(255 * float((values.max(2) - values.min(2)).max()))
        if spread > COLOURED:
            raise InputError(
                f"{map_file} is a colour image (its channels differ by {spread} of 255); allowed: greyscale maps. "
                "Convert it."
            )
        grey = np.ascontiguousarray(values[..., values.shape[2] // 2])
        if grey.shape == (height, width):
            return grey
        if grey.shape == (width, height):
            raise InputError(
                f"{map_file} is {height} x {width} pixels (width x height), but the image is {width} x {height}: the "
                "map is turned. Images are turned upright by their EXIF orientation before a detector sees them; turn "
                "this map too (in Pillow: ImageOps.exif_transpose of the image before the map is made)."
            )
        return np.clip(cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)

    def find(self, file: str) -> Path:
        """Finds the map of one of the dataset's files. InputError if there is none, or more than one."""
        parts = PurePosixPath(file).with_suffix("").parts
        for depth in range(len(parts)):
            candidates = self._find_named(self._folder.joinpath(*parts[depth:]))
            if len(candidates) > 1:
                raise InputError(f"{file} has two maps, {candidates[0]} and {candidates[1]}. Remove one.")
            if candidates:
                return candidates[0]
        raise InputError(
            f"{file} has no map in {self._folder}: looked for {self._folder.joinpath(*parts)}.png and for "
            f"{parts[-1]}.png in the folders above it (or {', '.join(SUFFIXES[1:])}). Add it, or give another folder: "
            "--saliency maps:DIR"
        )

    def _find_named(self, stem: Path) -> list[Path]:
        """The maps with this path, apart from the suffix."""
        if stem.parent not in self._names:
            self._names[stem.parent] = sorted(os.listdir(stem.parent)) if stem.parent.is_dir() else []
        names = self._names[stem.parent]
        with_stem = names[bisect_left(names, f"{stem.name}.") : bisect_left(names, f"{stem.name}/")]  # / follows .
        paths = [stem.with_name(name) for name in with_stem if name[len(stem.name) :].lower() in SUFFIXES]
        return [path for path in paths if path.is_file()]

    def check_complete(self, files: Iterable[str]) -> None:
        """Checks that each of the dataset's files has its own map. InputError if one is missing or shared."""
        file_of_map: dict[Path, str] = {}
        missing = []
        for file in files:
            try:
                map_file = self.find(file)
            except InputError as fault:
                missing.append(fault)
                continue
            other = file_of_map.setdefault(map_file, file)
            if other != file:
                raise InputError(
                    f"{other} and {file} would share the map {map_file}. Give {self._folder} the same subfolders as "
                    "the dataset."
                )
        if missing:
            more = f"\nThis is the first of {len(missing):,} images without a map." if len(missing) > 1 else ""
            raise InputError(f"{missing[0]}{more}")


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, also through links to folders; each folder once, so loops of links end."""
    visited = set()
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(parent, name) for name in names)


def _raise(fault: OSError) -> None:
    """For os.walk, which otherwise leaves out a folder that cannot be listed."""
    raise fault


def _read_values(file: Path, most_pixels: int) -> np.ndarray:
    """A map's file -> (H, W, C) float32 in [0, 1]: its grey or RGB channels, or its alpha channel if it varies."""
    with open_regular(file) as content:
        data = content.read()
    width, height = _read_size(data, str(file))
    if width * height > most_pixels:
        raise InputError(
            f"{file} has {width:,} x {height:,} pixels; allowed: at most {most_pixels:,} for this image. Shrink the "
            "map to the size of its image."
        )
    with name_image(str(file)):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        return decode(data, str(file)).astype(np.float32) / 255
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    pixels = alpha[..., :1] if alpha.size and alpha.min() < alpha.max() else colour
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / 255
    if pixels.dtype == np.uint16:
        return pixels.astype(np.float32) / 65535
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"{file} has {pixels.dtype} values; allowed: unsigned 8 or 16 bits, or floats. Convert it.")
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):  # nan is neither
        raise InputError(f"{file} has floats from {low} to {high}; allowed: 0 to 1. Scale and clip them.")
    return pixels.astype(np.float32)


def _read_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) of an encoded image, from its header. Pillow reads the tags of TIFFs that it cannot open."""
    try:
        image = header(data, name)
    except InputError:
        from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

        if not data.startswith(tuple(PREFIXES)):
            raise
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow's, about bytes that are refused below
                tags = ImageFileDirectory_v2(data[:16] if data[2] == 43 or data[3] == 43 else data[:8])
                stream = io.BytesIO(data)
                stream.seek(tags.next)
                tags.load(stream)
                return int(tags[256]), int(tags[257])  # ImageWidth, ImageLength
        except (KeyError, ValueError, TypeError, OSError, SyntaxError, IndexError, struct.error):
            raise InputError(f"{name} is a damaged TIFF. Restore the file.") from None
    return image.width, image.height


def detector(argument: str) -> MapsFolder:
    """Opens the maps of a folder: the DIR of `maps:DIR`."""
    return MapsFolder(Path(argument).expanduser())  # the shell does not expand a ~ after a colon
