"""Images of every format, damaged or with a header that lies about the size; and saliency maps made elsewhere."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from . import corrupt
from .commands import fgdata, preload

PRELOAD = ("fgdata.building.build", "fgdata.saliency.maps_folder", "cv2", "PIL.Image")
FORMATS = ("jpg", "png", "gif", "bmp", "tif", "webp")


def encode(suffix: str, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 28, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream := BytesIO(), Image.registered_extensions()[f".{suffix}"])
    return stream.getvalue()


def prepare(folder: Path) -> None:
    preload(*PRELOAD)
    Image.init()
    for kind, mode in (("images", "RGB"), ("maps", "L")):
        (folder / kind).mkdir()
        for number, suffix in enumerate(FORMATS):
            (folder / kind / f"{number}.{suffix if kind == 'images' else 'png'}").write_bytes(
                encode(suffix if kind == "images" else "png", mode)
            )
    Image.fromarray(np.full((20, 28), 0.5, np.float32)).save(folder / "maps" / "0.tif")
    (folder / "maps" / "0.png").unlink()


def build(*flags: str) -> int:
    return fgdata("build-shards", "--dataset", "flat", "--root", "images", "--out", "out", *flags)


COMMANDS = {
    "skip": lambda: build("--saliency", "spectral-residual", "--on-bad-image", "skip"),
    "stop": lambda: build("--saliency", "vsf", "--max-side", "16"),
    "maps": lambda: build("--saliency", "maps:maps"),
    "maps-skip": lambda: build("--saliency", "maps:maps", "rbd", "--on-bad-image", "skip", "--keep-maps"),
}
FAILING = ()


def corrupt_input(rng: Random, here: Path, command: str) -> str:
    folder = here / ("maps" if command.startswith("maps") and rng.random() < 0.7 else "images")
    files = corrupt.regular_files(folder)
    kind = rng.random()
    if kind < 0.1 or not files:
        return corrupt.add_odd_name(rng, folder, encode("jpg"))
    path = rng.choice(files)
    if kind < 0.3:
        return lie_about_size(rng, path)
    if kind < 0.4:
        mode = rng.choice(("1", "L", "LA", "P", "RGBA", "CMYK", "I", "I;16", "F"))
        suffix = {"CMYK": "jpg", "F": "tif"}.get(mode, "png")
        try:
            path.write_bytes(encode(suffix, mode))
        except (OSError, ValueError):
            return "nothing"
        return f"{path.name}: mode {mode} as {suffix}"
    return corrupt.corrupt_file(rng, path)


def lie_about_size(rng: Random, path: Path) -> str:
    """A small file whose header states a huge picture."""
    width, height = rng.choice(
        ((60_000, 60_000), (1, 2**31 - 1), (20_000, 20_000), (65_535, 65_535), (0, 5), (3, 70_000))
    )
    kind = rng.choice(("png", "png-full", "jpg", "bmp", "gif"))
    data = bytearray(encode(kind.split("-")[0]))
    if kind.startswith("png"):
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        body = bytes(1 << 16) if kind == "png" else bytes(1 << 22)
        chunks = header, b"IDAT" + zlib.compress(body), b"IEND"
        data = bytearray(b"\x89PNG\r\n\x1a\n")
        for chunk in chunks:
            data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    elif kind == "jpg":
        at = data.find(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", width, height)
    else:
        data[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    path.write_bytes(data)
    return f"{path.name}: {kind} of {width} x {height}"
