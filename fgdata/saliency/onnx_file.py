"""The files that an ONNX model consists of: the .onnx and, for some exporters, its external data beside it.

onnxruntime does not list external data, so the .onnx is parsed here with those fields of onnx.proto that lead to it.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError

LARGEST = (2 << 30) - 1
"""Protobuf's limit of a file in bytes; larger models keep their weights in external data."""

_REPEATED, _OPTIONAL = 3, 1
_FIELDS = {  # message -> field -> (number, label, type: a message's name, or bytes)
    "Model": {"graph": (7, _OPTIONAL, "Graph"), "functions": (25, _REPEATED, "Function")},
    "Function": {"node": (7, _REPEATED, "Node"), "defaults": (11, _REPEATED, "Attribute")},
    "Graph": {
        "node": (1, _REPEATED, "Node"),
        "tensors": (5, _REPEATED, "Tensor"),
        "sparse": (15, _REPEATED, "Sparse"),
    },
    "Node": {"attribute": (5, _REPEATED, "Attribute")},
    "Attribute": {
        "t": (5, _OPTIONAL, "Tensor"),
        "g": (6, _OPTIONAL, "Graph"),
        "tensors": (10, _REPEATED, "Tensor"),
        "graphs": (11, _REPEATED, "Graph"),
        "s": (22, _OPTIONAL, "Sparse"),
        "sparse": (23, _REPEATED, "Sparse"),
    },
    "Sparse": {"values": (1, _OPTIONAL, "Tensor"), "indices": (2, _OPTIONAL, "Tensor")},
    "Tensor": {"external": (13, _REPEATED, "Entry")},
    "Entry": {"key": (1, _OPTIONAL, "bytes"), "value": (2, _OPTIONAL, "bytes")},
}


def hash_files(file: Path) -> dict[str, str]:
    """The sha256 of an ONNX file and of its external data, by name relative to its folder; the ONNX file first.

    Raises:
        InputError: the file is not a regular file or not ONNX, or its external data is missing or outside its folder.
    """
    if not file.is_file():
        raise InputError(f"{file} is not a file. Give the path of an ONNX model: --saliency onnx:FILE")
    if file.stat().st_size > LARGEST:
        raise InputError(
            f"{file} has {file.stat().st_size:,} bytes; an ONNX file has at most {LARGEST:,}. Export the model again."
        )
    data = file.read_bytes()
    sums = {file.name: hashlib.sha256(data).hexdigest()}
    for location in sorted(_external_locations(data, file)):
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
        with (file.parent / path).open("rb") as external:
            sums[location] = hashlib.file_digest(external, "sha256").hexdigest()
    return sums


def _external_locations(data: bytes, file: Path) -> set[str]:
    """The `location` of every external tensor of a model."""
    from google.protobuf.message import DecodeError

    try:
        model = _message_class("Model").FromString(data)
        entries = [(entry.key, entry.value.decode()) for entry in _find(model, "Entry")]
    except (DecodeError, UnicodeDecodeError):
        raise InputError(f"{file} is not an ONNX model: {_describe(data)}. Export the model again.") from None
    return {value for key, value in entries if key == b"location"}


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
            if kind == "bytes":
                added.type = added.TYPE_BYTES
            else:
                added.type, added.type_name = added.TYPE_MESSAGE, f".fgdata_onnx.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(source.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"fgdata_onnx.{name}"))
