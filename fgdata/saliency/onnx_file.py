"""The files that an ONNX model consists of: the .onnx and, for some exporters, its external data beside it.

onnxruntime does not list external data, so the .onnx is parsed here with those fields of onnx.proto that lead to it.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError
from ..files.regular import open_regular
from .onnx_loops import find_endless_loop

LARGEST = (2 << 30) - 1
"""Protobuf's limit of a file in bytes; larger models keep their weights in external data."""

_REPEATED, _OPTIONAL = 3, 1
_FIELDS = {  # message -> field -> (number, label, type: a message's name, or bytes)
    "Model": {"graph": (7, _OPTIONAL, "Graph"), "functions": (25, _REPEATED, "Function")},
    "Function": {"node": (7, _REPEATED, "Node"), "defaults": (11, _REPEATED, "Attribute")},
    "Graph": {
        "node": (1, _REPEATED, "Node"),
        "tensors": (5, _REPEATED, "Tensor"),
        "input": (11, _REPEATED, "Value"),
        "sparse": (15, _REPEATED, "Sparse"),
    },
    "Value": {"name": (1, _OPTIONAL, "bytes")},
    "Node": {
        "input": (1, _REPEATED, "bytes"),
        "output": (2, _REPEATED, "bytes"),
        "operator": (4, _OPTIONAL, "bytes"),
        "attribute": (5, _REPEATED, "Attribute"),
    },
    "Attribute": {
        "name": (1, _OPTIONAL, "bytes"),
        "i": (3, _OPTIONAL, "int64"),
        "t": (5, _OPTIONAL, "Tensor"),
        "g": (6, _OPTIONAL, "Graph"),
        "tensors": (10, _REPEATED, "Tensor"),
        "graphs": (11, _REPEATED, "Graph"),
        "s": (22, _OPTIONAL, "Sparse"),
        "sparse": (23, _REPEATED, "Sparse"),
    },
    "Sparse": {"values": (1, _OPTIONAL, "Tensor"), "indices": (2, _OPTIONAL, "Tensor")},
    "Tensor": {
        "type": (2, _OPTIONAL, "int64"),
        "int64s": (7, _REPEATED, "int64"),
        "name": (8, _OPTIONAL, "bytes"),
        "raw": (9, _OPTIONAL, "bytes"),
        "external": (13, _REPEATED, "Entry"),
    },
    "Entry": {"key": (1, _OPTIONAL, "bytes"), "value": (2, _OPTIONAL, "bytes")},
}


def hash_files(file: Path) -> dict[str, str]:
    """The sha256 of an ONNX file and of its external data, by name relative to its folder; the ONNX file first.

    Raises:
        InputError: the file is not a regular file or not ONNX, its external data is missing or outside its folder, or
            one of its loops may run without an end (onnx_loops.py).
    """
    if not file.is_file():
        raise InputError(f"{file} is not a file. Give the path of an ONNX model: --saliency onnx:FILE")
    if file.stat().st_size > LARGEST:
        raise InputError(
            f"{file} has {file.stat().st_size:,} bytes; an ONNX file has at most {LARGEST:,}. Export the model again."
        )
    with open_regular(file) as content:
        data = content.read()
    sums = {file.name: hashlib.sha256(data).hexdigest()}
    model = _parse(data, file)
    if fault := find_endless_loop(model):
        raise InputError(
            f"{file} {fault}. It may never finish on some images. Export the model again for a fixed input size, "
            "by tracing (torch.onnx.export of a module that is not scripted), or simplify it with onnxsim."
        )
    for location in sorted(_external_locations(model, file)):
        path = PurePosixPath(location)
        if path.is_absolute() or ".." in path.parts or "\0" in location or "\\" in location:
            raise InputError(
                f"{file} reads its weights from {location!r}; allowed: files in its own folder. Export the model "
                "again, as one file or with its weights beside it."
            )
        if not (file.parent / path).is_file():
            raise InputError(
                f"{file} reads its weights from {file.parent / path}, which is not a file. Copy it there, or export "
                "the model again as one file."
            )
        with open_regular(file.parent / path) as external:
            sums[location] = hashlib.file_digest(external, "sha256").hexdigest()
    return sums


def _parse(data: bytes, file: Path) -> Any:
    """The message Model of _FIELDS."""
    from google.protobuf.message import DecodeError

    try:
        return _message_class("Model").FromString(data)
    except DecodeError:
        raise InputError(f"{file} is not an ONNX model: {_describe(data)}. Export the model again.") from None


def _external_locations(model: Any, file: Path) -> set[str]:
    """The `location` of every external tensor of a model."""
    try:
        return {entry.value.decode() for entry in _find(model, "Entry") if entry.key == b"location"}
    except UnicodeDecodeError:
        raise InputError(f"{file} names its external data in other bytes than UTF-8. Export the model again.") from None


def _describe(data: bytes) -> str:
    if not data:
        return "it is empty"
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer (fetch the file with `git lfs pull`)"
    return f"it starts with {data[:16]!r}"


def _find(message: Any, name: str) -> Iterator[Any]:
    """All messages of a type inside a message. Protobuf limits their nesting to 100."""
    if message.DESCRIPTOR.name == name:
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if hasattr(value, "append") else [value]:
                yield from _find(inner, name)


@cache
def _message_class(name: str) -> Any:
    """The protobuf class of one of _FIELDS."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    source = descriptor_pb2.FileDescriptorProto(name="fgdata_onnx.proto", package="fgdata_onnx")
    for message, fields in _FIELDS.items():
        described = source.message_type.add(name=message)
        for field, (number, label, kind) in fields.items():
            added = described.field.add(name=field, number=number, label=label)
            if kind in ("bytes", "int64"):
                added.type = added.TYPE_BYTES if kind == "bytes" else added.TYPE_INT64
            else:
                added.type, added.type_name = added.TYPE_MESSAGE, f".fgdata_onnx.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(source.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"fgdata_onnx.{name}"))
