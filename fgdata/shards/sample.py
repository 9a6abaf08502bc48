"""One sample of a shard set: from its line of the index to components that are what FORMAT.md states."""

import re
import struct
from typing import Any

from ..files.json import parse_json
from .schema import SAMPLE, find_fault, is_box

MOST_BYTES = 1 << 30
"""Of a sample's components together with the tar headers between them."""
_CLASS = re.compile(rb"[0-9]{1,9}")


class Sample(dict[str, bytes]):
    """A sample's components by extension; `info` is the content of its json."""

    info: dict[str, Any]


def parse_index_line(line: str, tar_bytes: int) -> tuple[str, dict[str, tuple[int, int]]]:
    """`EXT OFFSET SIZE NAME` for each component -> the sample's key, and offset and size by extension.

    Raises:
        ValueError: The line is not such a list of one sample, or a component is not inside a tar of `tar_bytes`.
    """
    fields, spans = line.split(" "), {}
    key = fields[3].partition(".")[0] if len(fields) > 3 else ""
    if len(fields) % 4 or not key.isdigit() or len(key) > 80:
        raise ValueError("its line in the index is not a list of components")
    for extension, offset, size, name in zip(*(fields[i::4] for i in range(4))):
        if extension in spans or name != f"{key}.{extension}" or not (offset.isdigit() and size.isdigit()):
            raise ValueError("its line in the index is not a list of its components")
        if len(offset) > 15 or len(size) > 15 or int(offset) + int(size) > tar_bytes:
            raise ValueError(f"its line in the index places the {extension} outside the tar")
        spans[extension] = int(offset), int(size)
    return key, spans


def open_sample(
    components: dict[str, bytes], detectors: tuple[str, ...], classes: int, without: str | None = None
) -> Sample:
    """Checks a sample's json, class and boxes.

    Args:
        components: Data by extension.
        detectors: The boxes that it must have.
        classes: Number of classes; 0 for any.
        without: A component that was not read.

    Raises:
        ValueError: One of them is not what FORMAT.md states.
    """
    sample = Sample(components)
    try:
        sample.info = parse_json(sample["json"])
    except ValueError as fault:
        raise ValueError(f"its json is not valid: {fault}") from None
    except KeyError:
        raise ValueError("it has no json") from None
    if fault := find_fault(sample.info, SAMPLE):
        raise ValueError(f"its json is not valid: {fault}")
    index = sample.get("cls", b"")
    if not _CLASS.fullmatch(index) or (classes and int(index) >= classes):
        allowed = f"from 0 to {classes - 1:,}" if classes else "of at most nine digits"
        raise ValueError(f"its cls is {index[:20]!r}; it must be a class index {allowed}")
    if "jpg" not in sample and without != "jpg":
        raise ValueError("it has no jpg")
    for name in detectors:
        if name not in sample.info["detectors"] or not _is_box_file(sample.get(f"{name}.npy", b"")):
            raise ValueError(f"it has no box by {name} (a .npy of four float32 in the image, and an entry in its json)")
    return sample


def _is_box_file(data: bytes) -> bool:
    header = data[:-16]
    return (
        header.startswith(b"\x93NUMPY\x01\x00")
        and len(header) == 10 + int.from_bytes(header[8:10], "little")
        and b"'<f4'" in header
        and b"(4,)" in header
        and is_box(*struct.unpack("<4f", data[-16:]))
    )
