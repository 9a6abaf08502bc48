"""One tar and its DALI index in one pass, the same bytes every time."""

import hashlib
import io
import os
import tarfile
from pathlib import Path
from types import TracebackType

import numpy as np

from .manifest import seal, write_atomic

_BLOCK = tarfile.BLOCKSIZE


def box_bytes(box: np.ndarray) -> bytes:
    """(4,) -> the bytes of a .npy file that holds it as float32."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(box, "<f4").reshape(4), allow_pickle=False)
    return buffer.getvalue()


class ShardWriter:
    """Writes NAME.tar and NAME.idx under a folder; both appear, whole, when the block ends without an error.

    The json of a sample comes last and ends in a crc32 of all the sample's bytes before it (FORMAT.md, "Checksum").
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.samples = 0
        self._lines: list[str] = []
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def __enter__(self) -> "ShardWriter":
        self._part = self.folder / f"{self.name}.tar.{os.getpid()}.part"
        self._file = self._part.open("wb")
        return self

    def add(self, key: str, components: dict[str, bytes], meta: dict) -> None:
        """Adds KEY.EXT for every component, in order, then KEY.json."""
        if "." in key or "/" in key:
            raise ValueError(
                f"key {key!r}: a key has no dot (readers take the extension from the first one) and no slash"
            )
        entries = [self._entry(f"{key}.{extension}", data) for extension, data in components.items()]
        before = b"".join(header + data + padding for header, data, padding in entries)
        # The seal needs the json's own header, whose size field needs the json's length: the seal's length is fixed.
        length = len(seal(meta))
        json_header = _tar_header(f"{key}.json", length)
        document = seal(meta, before[_BLOCK:] + json_header)
        line, offset = [], self._bytes
        for (header, data, padding), (extension, _) in zip(entries, components.items()):
            line.append(f"{extension} {offset + len(header)} {len(data)} {key}.{extension}")
            offset += len(header) + len(data) + len(padding)
        line.append(f"json {offset + len(json_header)} {length} {key}.json")
        self._lines.append(" ".join(line))
        self._write(before + json_header + document + bytes(-length % _BLOCK))
        self.samples += 1

    def __exit__(self, kind: type | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._write(bytes(2 * _BLOCK))
                self._write(bytes(-self._bytes % tarfile.RECORDSIZE))
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
        if kind is not None:
            self._part.unlink(missing_ok=True)
            return
        index = "".join(f"{line}\n" for line in [f"v1.2 {self.samples}", *self._lines]).encode()
        write_atomic(self.folder / f"{self.name}.idx", index)
        self._part.replace(self.folder / f"{self.name}.tar")
        self.entry = {
            "name": self.name,
            "samples": self.samples,
            "bytes": self._bytes,
            "sha256": self._sha256.hexdigest(),
            "index_bytes": len(index),
            "index_sha256": hashlib.sha256(index).hexdigest(),
        }

    def _entry(self, name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
        return _tar_header(name, len(data)), data, bytes(-len(data) % _BLOCK)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._bytes += len(data)


def _tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii")
