"""The marker segments of a JPEG, read without decoding: its frame header, and the EXIF and XMP orientation in it."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import counted

START, END = b"\xff\xd8\xff", b"\xff\xd9"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0-15 without DHT, JPG and DAC
PLAIN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # Huffman-coded baseline, extended and progressive
SCAN, APP1 = 0xDA, 0xE1
_HEADS, _TAIL = (8 << 10, 128 << 10), 1 << 10
"""Bytes that `read_ends` reads of a file's start, in two stages, and of its end. Most headers have less than a
kilobyte; previews, colour profiles and editing histories add segments of up to 64 kB."""
_PROCESSES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless"}
_PROCESSES |= {0xC9: "arithmetic-coded", 0xCA: "arithmetic-coded", 0xCB: "arithmetic-coded lossless"}
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([0-9])")
_ORIENTATION = 0x0112
_WIDTHS = {3: "H", 4: "I", 8: "h", 9: "i"}
"""EXIF types of whole numbers -> their struct codes. Readers take no orientation from a byte."""


@dataclass(frozen=True)
class Frame:
    """A JPEG's frame header."""

    marker: int
    """0xC0 for baseline, 0xC1 for extended, 0xC2 for progressive; others are lossless, hierarchical or arithmetic."""
    precision: int
    """Bits per sample."""
    width: int
    height: int
    components: int

    @property
    def plain(self) -> bool:
        """Whether every JPEG decoder reads it: 8 bits, baseline, extended or progressive, grey or colour."""
        return self.marker in PLAIN_FRAMES and self.precision == 8 and self.components in (1, 3)

    @property
    def kind(self) -> str:
        """For messages: "12-bit extended JPEG with 1 component"."""
        process = _PROCESSES.get(self.marker, "hierarchical or arithmetic-coded")
        return f"{self.precision}-bit {process} JPEG with {counted(self.components, 'component')}"


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the content of each segment, up to and including the first scan header.

    A segment that the file does not contain entirely has an `end` beyond the data.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 0x01:  # fill bytes and markers without a segment
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position + 4, end
        if marker == SCAN:
            return
        position = end


def read_frame(data: bytes) -> Frame:
    """The frame header. ValueError, with a reason, without one, or without the end marker that truncated files lack."""
    frame, last = None, 2
    for marker, start, end in segments(data):
        last = start - 4 if marker == SCAN else end
        if marker in FRAMES and start + 6 <= len(data):
            precision, height, width, components = struct.unpack_from(">BHHB", data, start)
            frame = Frame(marker, precision, width, height, components)
    if frame is None or not frame.width or not frame.height:
        raise ValueError("a JPEG without a frame header")
    if data.rfind(END, last) < 0:
        raise ValueError("a truncated JPEG without an end marker")
    return frame


def read_ends(file: BinaryIO, size: int) -> bytes | None:
    """The header of a JPEG, up to its first scan, and the file's last kilobyte, with a zero byte between them.

    `read_frame` and `read_orientation` answer the same as for the whole file, of `size` bytes. None if that is not
    certain: the file is no JPEG or is short, its header is long, or its end marker is not near its end.
    """
    for most in _HEADS:
        if size <= most + _TAIL:
            return None
        file.seek(0)
        head = file.read(most)
        if not head.startswith(START):
            return None
        end = next((end for marker, _, end in segments(head) if marker == SCAN), most + 1)
        if end <= len(head):
            file.seek(size - _TAIL)
            tail = file.read(_TAIL)
            return head[:end] + b"\0" + tail if END in tail else None
    return None


def read_orientation(data: bytes) -> int:
    """The orientation, 1 to 8, in the EXIF of a JPEG, else in its XMP, as Pillow reads them; 1 if neither has it."""
    in_xmp = 1
    for start, end in _app1(data):
        if data.startswith(_EXIF, start):
            for entry, order in _orientation_entries(data, start, end):
                kind = struct.unpack_from(f"{order}H", data, entry + 2)[0]
                value = struct.unpack_from(f"{order}{_WIDTHS.get(kind, 'H')}", data, entry + 8)[0]
                return value if kind in _WIDTHS and 1 <= value <= 8 else 1
        elif data.startswith(_XMP, start) and (match := _XMP_ORIENTATION.search(data, start, end)):
            in_xmp = int(match[1])
    return in_xmp if 1 <= in_xmp <= 8 else 1


def clear_orientation(data: bytes) -> bytes:
    """The same JPEG with every orientation in its EXIF and XMP set to 1 (upright). No other byte changes."""
    edits: list[tuple[int, bytes]] = []
    for start, end in _app1(data):
        if data.startswith(_EXIF, start):
            for entry, order in _orientation_entries(data, start, end):
                edits.append((entry + 2, struct.pack(f"{order}HIH", 3, 1, 1)))  # one SHORT, 1
        elif data.startswith(_XMP, start):
            edits += [(match.start(1), b"1") for match in _XMP_ORIENTATION.finditer(data, start, end)]
    if not edits:
        return data
    edited = bytearray(data)
    for position, new in edits:
        edited[position : position + len(new)] = new
    return bytes(edited)


def _app1(data: bytes) -> Iterator[tuple[int, int]]:
    return ((start, min(end, len(data))) for marker, start, end in segments(data) if marker == APP1)


def _orientation_entries(data: bytes, start: int, end: int) -> Iterator[tuple[int, str]]:
    """(offset, byte order) of each orientation entry, 12 bytes, in the first directory of an EXIF segment."""
    base = start + len(_EXIF)
    while data.startswith(_EXIF, base):  # some cameras write the name twice
        base += len(_EXIF)
    order = {b"II": "<", b"MM": ">"}.get(data[base : base + 2])
    if order is None or base + 8 > end:
        return
    directory = base + struct.unpack_from(f"{order}I", data, base + 4)[0]
    if directory + 2 > end:
        return
    count = struct.unpack_from(f"{order}H", data, directory)[0]
    for entry in range(directory + 2, min(directory + 2 + 12 * count, end - 11), 12):
        if struct.unpack_from(f"{order}H", data, entry)[0] == _ORIENTATION:
            yield entry, order
