"""Writes a tar and its DALI index in one pass; the same samples always give the same bytes."""

import hashlib
import io
import tarfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from ..files.atomic import atomic, write_atomic
from .manifest import SEAL_BYTES, seal, sealable

_BLOCK = tarfile.BLOCKSIZE


def box_bytes(box: np.ndarray) -> bytes:
    """(4,) box -> the bytes of a .npy file, dtype <f4."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(box, "<f4").reshape(4), allow_pickle=False)
    return buffer.getvalue()


class ShardWriter:
    """Writes NAME.tar and NAME.idx to a folder. Both appear, complete, when the block ends without an error.

    A sample's json is its last component and ends in a crc32 of all its bytes before that (FORMAT.md, "Checksum").
    `entry` is the manifest's entry for the shard, once the block has ended.

    Example:
        with ShardWriter(Path("shards/mine"), "train-000000") as writer:
            writer.add("000000", {"jpg": jpeg, "cls": b"0", "rbd.npy": box_bytes(box)}, {"id": "a"})
        print(writer.entry["sha256"])
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.samples = 0
        self._lines: list[str] = []
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def __enter__(self) -> "ShardWriter":
        with ExitStack() as stack:
            self._file = stack.enter_context(stack.enter_context(atomic(self.folder / f"{self.name}.tar")).open("wb"))
            self._stack = stack.pop_all()
        return self

    def add(self, key: str, components: dict[str, bytes], meta: dict) -> None:
        """Adds one sample: KEY.EXT for every component, in order, then KEY.json.

        Args:
            key: Name of the sample's files, without a dot or a slash.
            components: Data by extension.
            meta: Content of the json, without `crc32`.

        Raises:
            ValueError: The key has a dot or a slash, or a component does not fit a USTAR header.
        """
        if "." in key or "/" in key:
            raise ValueError(
                f"key {key!r}: a key must have no dot (readers take the extension from the first one) and no slash"
            )
        crc, fields = 0, []
        for extension, data in components.items():
            header, padding = _tar_header(f"{key}.{extension}", len(data)), bytes(-len(data) % _BLOCK)
            crc = zlib.crc32(header, crc) if fields else 0  # from the first component's data on
            crc = zlib.crc32(padding, zlib.crc32(data, crc))
            fields.append(f"{extension} {self._bytes + _BLOCK} {len(data)} {key}.{extension}")
            self._write(header, data, padding)
        # The seal needs the json's own header, whose size field needs the json's length: the seal's length is fixed.
        body = sealable(meta)
        length = len(body) + SEAL_BYTES
        header = _tar_header(f"{key}.json", length)
        fields.append(f"json {self._bytes + _BLOCK} {length} {key}.json")
        self._write(header, seal(body, zlib.crc32(header, crc)), bytes(-length % _BLOCK))
        self._lines.append(" ".join(fields))
        self.samples += 1

    def __exit__(self, kind: type | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._stack.__exit__(kind, fault, trace)
            return
        with self._stack:
            self._write(bytes(2 * _BLOCK))
            self._write(bytes(-self._bytes % tarfile.RECORDSIZE))
            index = "".join(f"{line}\n" for line in [f"v1.2 {self.samples}", *self._lines]).encode()
            write_atomic(self.folder / f"{self.name}.idx", index)
        self.entry = {
            "name": self.name,
            "samples": self.samples,
            "bytes": self._bytes,
            "sha256": self._sha256.hexdigest(),
            "index_bytes": len(index),
            "index_sha256": hashlib.sha256(index).hexdigest(),
        }

    def _write(self, *pieces: bytes) -> None:
        for data in pieces:
            self._file.write(data)
            self._sha256.update(data)
            self._bytes += len(data)


def _tar_header(name: str, size: int) -> bytes:
    """The 512-byte header of a file in a tar: tarfile's header of an empty file with name, size and checksum filled in.

    ValueError when they do not fit.
    """
    if len(name) > 100 or size >= 8**11:
        raise ValueError(f"{name} of {size:,} bytes does not fit a plain tar header")
    header = bytearray(_EMPTY)
    header[: len(name)] = name.encode("ascii")
    header[124:135] = b"%011o" % size
    header[148:156] = b" " * 8  # the checksum counts its own field as blanks
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


_EMPTY = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT, "ascii")  # mode 0644, all times and owners 0
