"""CIFAR-100 in its Python version: cifar-100-python/{meta, train, test}, pickles of lists and of one byte array.

The unpickler runs no code from a file. It refuses every class or function except the three that NumPy arrays need, and
replaces those with stand-ins that hold the array's bytes. Workers never unpickle: they read the 3,072 bytes of an image
at its offset in the file and return it as PNG, which is lossless.
"""

import io
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import InputError
from ..files.regular import open_regular
from . import Dataset, PixelBoxes, Record, parsing

NAME = "cifar100"
PUBLISHED = {"classes": 100, "train": 50000, "test": 10000}
BYTES = 3 * 32 * 32  # an image: 32 x 32 red, then green, then blue


class _Array:
    """Stands in for a pickled numpy.ndarray: keeps its shape and bytes. Accepts only uint8 in row-major order."""

    shape: tuple = ()
    raw: bytes = b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, kind, fortran, self.raw = state
        if not isinstance(kind, _Kind) or kind.code not in (b"u1", "u1") or fortran or not isinstance(self.raw, bytes):
            raise pickle.UnpicklingError("its array is not uint8 in row-major order")


class _Kind:
    """Stands in for a pickled numpy.dtype."""

    def __init__(self, code: Any, *_: Any):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


def _reconstruct(*_: Any) -> _Array:
    return _Array()


ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which CIFAR-100 does not use; nothing was run")
        return ADMITTED[module, name]


@dataclass(frozen=True)
class Pixels:
    """Loads a Record: `pixels(record)` -> (its image as PNG, no boxes), read at its offset in the split's file."""

    folder: Path
    offsets: dict[str, int]
    """{split: offset in bytes of the first image in its file}."""

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        path = self.folder / record.split
        try:
            with open_regular(path) as file:
                file.seek(self.offsets[record.split] + BYTES * int(record.id.split("/")[1]))
                planes = np.frombuffer(file.read(BYTES), np.uint8).reshape(3, 32, 32)
        except (OSError, ValueError) as fault:
            raise InputError(f"{NAME}: image {record.id} cannot be read from {path}: {fault}") from None
        bgr = np.ascontiguousarray(planes[::-1].transpose(1, 2, 0))
        return cv2.imencode(".png", bgr)[1].tobytes(), ()


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`, or from cifar-100-python/ inside it. InputError if a file has other content."""
    folder = parsing.find_root(NAME, root, ["cifar-100-python"], ("meta", "train", "test"), "cifar-100-python.tar.gz")
    meta, _ = _unpickle(folder / "meta", (b"fine_label_names",))
    classes = _words(folder / "meta", meta[b"fine_label_names"])
    records, offsets = [], {}
    for split in ("train", "test"):
        path = folder / split
        values, content = _unpickle(path, (b"data", b"fine_labels", b"filenames"))
        data, labels, names = values[b"data"], values[b"fine_labels"], _words(path, values[b"filenames"])
        count = len(names)
        if not isinstance(data, _Array) or data.shape != (count, BYTES) or len(data.raw) != count * BYTES:
            raise InputError(f"{NAME}: {path}: data is not {count:,} x {BYTES:,} bytes, one row per file name.")
        fits = isinstance(labels, list) and len(labels) == count
        if not fits or not all(isinstance(k, int) and 0 <= k < len(classes) for k in labels):
            raise InputError(f"{NAME}: {path}: every file name needs a label from 0 to {len(classes) - 1}.")
        offsets[split] = _find_offset(content, data.raw, path)
        for number, (label, name) in enumerate(zip(labels, names)):
            records.append(Record(f"{split}/{number}", f"{split}/{name}", label, classes[label], split))
    note = parsing.check_counts(NAME, classes, records, PUBLISHED)
    return Dataset(NAME, classes, tuple(records), Pixels(folder, offsets), note=note)


def _words(path: Path, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(word, bytes) for word in names):
        raise InputError(f"{NAME}: {path} is not one of CIFAR-100's files: its names are not a list of byte strings.")
    return tuple(word.decode("latin-1") for word in names)


def _unpickle(path: Path, keys: tuple[bytes, ...]) -> tuple[dict[bytes, Any], bytes]:
    """-> (the file's dict, the file's bytes)."""
    content = parsing.read_bytes(NAME, path)
    try:
        _check_memo(content)
        values = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as fault:  # a damaged pickle can raise any kind of exception
        raise InputError(
            f"{NAME}: {path} is not one of CIFAR-100's files: {fault}. Unpack cifar-100-python.tar.gz again."
        ) from None
    if not isinstance(values, dict) or any(key not in values for key in keys):
        wanted = ", ".join(key.decode() for key in keys)
        raise InputError(
            f"{NAME}: {path} is not one of CIFAR-100's files: it lacks {wanted}. Unpack cifar-100-python.tar.gz again."
        )
    return values, content


def _check_memo(content: bytes) -> None:
    """UnpicklingError if an object's number exceeds the pickle's length: the unpickler reserves that many slots."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(content):
            raise pickle.UnpicklingError(
                f"its pickle numbers an object {argument:,}, but has only {len(content):,} bytes"
            )


def _find_offset(content: bytes, raw: bytes, path: Path) -> int:
    """The offset in a file's content where its pixels start."""
    start = content.find(raw[:64])
    while start >= 0 and not content.startswith(raw, start):
        start = content.find(raw[:64], start + 1)
    if start < 0:
        raise InputError(f"{NAME}: {path}: its pixels are not contiguous. Unpack cifar-100-python.tar.gz again.")
    return start
