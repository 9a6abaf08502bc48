"""Reads the tensors of a weights file from anywhere: safetensors, or either format of torch.save.

Such a file may be damaged or hostile. No code from it runs: its pickles may only name the harmless types below, and
torch reads them with weights_only. It cannot exhaust memory: metadata is limited before it is parsed, compressed or
overlapping zip entries are refused, and tensors are mapped from the file. Checksums in the file are compared.
"""

import argparse
import codecs
import hashlib
import os
import pathlib
import pickletools
import re
import stat
import struct
import warnings
import zipfile
from pathlib import Path
from shlex import quote
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from fgdata.errors import InputError

from ..runs.checkpoint import Checkpoint, Normalisation
from ..runs.files import raise_system_error
from ..runs.state import damage, saved_by_torch
from .saved import load_encoder

METADATA_BYTES, OBJECTS = 64 << 20, 2_000_000
"""Largest metadata of a file: bytes of a header, zip directory or pickle, and operations of a pickle. A ResNet-50 needs
50 kB and 10,000."""
DEPTH, NAME_LENGTH = 8, 500
"""Dicts nested deeper and longer names of tensors are ignored: no network has them."""
FORMATS = (
    "Allowed: imagenet, imagenet-v2, timm:NAME, hf-hub:ORG/NAME, a run directory, or a checkpoint file (.pth, .pt, "
    ".ckpt, .tar, .safetensors)."
)
WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Levels that torch.compile, FSDP and activation checkpointing insert into names."""

HARMLESS: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "pathlib.PosixPath": pathlib.PosixPath,
    "pathlib._local.PosixPath": pathlib.PosixPath,
    "numpy.core.multiarray.scalar": np._core.multiarray.scalar,  # pyright: ignore[reportAttributeAccessIssue]
    "numpy._core.multiarray.scalar": np._core.multiarray.scalar,  # pyright: ignore[reportAttributeAccessIssue]
    "numpy.core.multiarray._reconstruct": np._core.multiarray._reconstruct,  # pyright: ignore[reportAttributeAccessIssue]
    "numpy._core.multiarray._reconstruct": np._core.multiarray._reconstruct,  # pyright: ignore[reportAttributeAccessIssue]
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": codecs.encode,
}
"""Types besides torch's that checkpoints of common projects contain, such as the arguments of DINO and MAE."""
BUILT_IN = {"collections.OrderedDict", "collections.Counter", "builtins.set", "__builtin__.set", "builtins.complex"}
TORCH = re.compile(r"torch\.(\w+|(cuda|sparse|_utils|_tensor|storage|serialization|nn\.parameter)\.\w+)")
"""Names that only torch's own list decides about; it excludes functions with effects."""


class _Damage(Exception):
    """What is wrong with a file, for a message; other exceptions of the readers are not written for users."""


class Table(NamedTuple):
    """The named tensors of one dict of a file, and the dict's place in it: "" for the file itself, or model.teacher."""

    place: str
    tensors: dict[str, Tensor]


class WeightsFile(NamedTuple):
    """A file that was read: its path, the sha256 of its bytes, every table of tensors in it, and the mean and std that
    they were trained with; None when the file does not state them."""

    path: Path
    sha256: str
    tables: list[Table]
    normalisation: Normalisation | None = None


def read(path: Path) -> WeightsFile:
    """Reads what --init names: a run directory, a checkpoint folder or a weights file.

    Tensors are on the CPU and may be mapped from the file. InputError when the file cannot be read, is damaged, or
    contains no named tensors.
    """
    file = _find_file(path)
    try:
        with file.open("rb") as opened:
            head = opened.read(9)
            is_safetensors = head[8:9] == b"{" or file.suffix == ".safetensors"
            if not is_safetensors and not saved_by_torch(file):
                raise InputError(f"--init {file} cannot be read: {damage(file, ValueError())}. {FORMATS}")
            opened.seek(0)  # before it is mapped: a failing disk is an error here, but a signal there
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        zipped = head[:2] == b"PK"
        tables, normalisation = (
            _read_safetensors(file) if is_safetensors else (_find_tables(_read_torch(file, zipped)), None)
        )
    except InputError:
        raise
    except Exception as error:  # on damaged files, the readers raise errors of many types
        raise_system_error(f"--init {file}", error)
        raise InputError(f"--init {file} cannot be read: {_reason(file, error)}. {FORMATS}") from error
    if not tables:
        raise InputError(f"--init {file} contains no table of named tensors. {FORMATS}")
    return WeightsFile(file, sha256, tables, normalisation)


def printable_name(name: str) -> str:
    """A name from a file for a message: shortened, and without control characters."""
    name = name if len(name) <= 120 else f"{name[:117]}..."
    return name if name.isprintable() else ascii(name)


def _find_file(path: Path) -> Path:
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            path = Checkpoint.find(path).file
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError as error:
        raise InputError(f"--init {path} does not exist. {FORMATS}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"--init {path} cannot be read: {error}. {FORMATS}") from error
    if not regular:
        raise InputError(f"--init {path} is not a regular file. {FORMATS}")
    return path


def _reason(file: Path, error: Exception) -> str:
    return str(error) if isinstance(error, _Damage) else damage(file, error)


# ---- safetensors


def _read_safetensors(file: Path) -> tuple[list[Table], Normalisation | None]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
    if size < 8 or length > size - 8:
        raise InputError(f"--init {file} is not a complete safetensors file: it is truncated or damaged. {FORMATS}")
    if length > METADATA_BYTES:
        raise InputError(
            f"--init {file} has a header of {length:,} bytes; allowed: up to {METADATA_BYTES:,}. Save only the weights "
            "of the network: safetensors.torch.save_file(network.state_dict(), FILE)"
        )
    try:
        with safe_open(file, "pt") as opened:
            ours = "fgtrain" in (opened.metadata() or {})
        if ours:  # states its network, a checksum, mean and std
            encoder = load_encoder(Checkpoint.find(file))
            return [Table("", dict(encoder.state_dict()))], (encoder.mean, encoder.std)
        return _find_tables(load_file(file)), None
    except InputError:
        raise
    except Exception as error:  # SafetensorError, and others for dtypes that torch lacks
        raise_system_error(f"--init {file}", error)
        reason = printable_name(str(error) or type(error).__name__)
        raise InputError(f"--init {file} is not a complete safetensors file ({reason}). {FORMATS}") from error


# ---- torch.save


def _read_torch(file: Path, zipped: bool) -> Any:
    if zipped:
        _check_archive(file)
    else:
        with file.open("rb") as content:
            _check_pickles(file, content, 5)  # magic number, version, system, content, keys of the tensors
    with warnings.catch_warnings(), torch.serialization.safe_globals(_safe_globals()):
        warnings.simplefilter("ignore")  # about storage types that torch no longer writes
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
        except Exception as error:
            if unknown := re.search(r"GLOBAL (\S+)", str(error)):
                raise InputError(_objects_message(file, [unknown[1]])) from error
            raise


def _safe_globals() -> list[Any]:
    dtypes = [value for name, value in vars(np.dtypes).items() if name.endswith("DType")]
    return [*dtypes, *((value, name) for name, value in HARMLESS.items())]


def _check_archive(file: Path) -> None:
    """InputError for a zip archive that torch.save did not write, or whose bytes have changed since."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        opened.seek(max(0, size - (1 << 17)))
        tail = opened.read()
    end, end64 = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    directory = struct.unpack_from("<Q", tail, end64 + 40) if end64 >= 0 else struct.unpack_from("<I", tail, end + 12)
    if directory[0] > METADATA_BYTES:
        raise _Damage(f"its zip directory has {directory[0]:,} bytes; allowed: up to {METADATA_BYTES:,}")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if any(name.endswith("/constants.pkl") for name in names):
            raise InputError(
                f"--init {file} is a TorchScript archive, which contains code. If you trust the file, save only its "
                "weights and pass the result to --init:\n  "
                + _command("torch.save(torch.jit.load(sys.argv[1], 'cpu').state_dict(), sys.argv[2])", file)
            )
        if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > size:
            raise _Damage("its zip entries are compressed or overlap, which torch.save never writes")
        if changed := archive.testzip():
            raise _Damage(f"it is damaged: the CRC-32 of its {printable_name(changed)} differs")
        for name in names:
            if name == "data.pkl" or name.endswith("/data.pkl"):
                with archive.open(name) as content:
                    _check_pickles(file, content, 1)


class _Limited:
    """A file that raises OverflowError when more than METADATA_BYTES are read from it."""

    def __init__(self, file: IO[bytes]):
        self.file, self.left = file, METADATA_BYTES
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        return self._count(self.file.read(min(count, self.left + 1)))

    def readline(self) -> bytes:
        return self._count(self.file.readline(self.left + 1))

    def _count(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise OverflowError
        return data


def _check_pickles(file: Path, content: IO[bytes], count: int) -> None:
    """InputError when one of the first `count` pickles in `content` names a type besides tensors and HARMLESS ones, or
    is too large."""
    limited, names, operations = _Limited(content), set(), 0
    try:
        for _ in range(count):
            for operation, argument, _ in pickletools.genops(cast("IO[bytes]", limited)):
                operations += 1
                if operations > OBJECTS:
                    raise OverflowError
                if operation.name == "GLOBAL":
                    names.add(str(argument).replace(" ", ".", 1))
                elif operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                    names.add("a pickle that torch.save did not write")
    except OverflowError as error:
        raise InputError(
            f"--init {file} contains too many Python objects besides tensors; allowed: {METADATA_BYTES:,} bytes and "
            f"{OBJECTS:,} operations of a pickle. {_advice(file)}"
        ) from error
    refused = [n for n in sorted(names) if not (n in HARMLESS or n in BUILT_IN or TORCH.fullmatch(n))]
    if refused:
        raise InputError(_objects_message(file, refused))


def _objects_message(file: Path, names: list[str]) -> str:
    listed = ", ".join(printable_name(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    kind = "a whole pickled model" if any(name.startswith("torch.nn.modules.") for name in names) else "Python objects"
    return f"--init {file} contains {kind} besides tensors ({listed}); these are never unpickled here.\n{_advice(file)}"


def _advice(file: Path) -> str:
    """The command that reduces any pickled checkpoint, or whole model, to its tables of tensors."""
    code = (
        "s = torch.load(sys.argv[1], 'cpu', weights_only=False); s = s if isinstance(s, dict) else {'model': s}; "
        "s = {k: v.state_dict() if hasattr(v, 'state_dict') else v for k, v in s.items()}; T = torch.Tensor; "
        "torch.save({k: v for k, v in s.items() if isinstance(v, T) or isinstance(v, dict) and "
        "all(isinstance(x, T) for x in v.values())}, sys.argv[2])"
    )
    return (
        "If you trust the file, save only its weights where the project that wrote it is installed, and pass the "
        f"result to --init:\n  {_command(code, file)}"
    )


def _command(code: str, file: Path) -> str:
    target = f"{file.name.partition('.')[0] or 'init'}-weights.pth"
    return f'python -c "import sys, torch; {code}" {quote(str(file))} {quote(target)}'


def _find_tables(content: Any) -> list[Table]:
    """Every dict of a checkpoint that maps names to tensors, however it is nested and even if it contains itself."""
    tables, visited, level = [], set(), [("", content)]
    for _ in range(DEPTH):
        following = []
        for place, value in level:
            if not isinstance(value, dict | list | tuple) or id(value) in visited:
                continue
            visited.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            inner = [(k, v) for k, v in items if isinstance(k, str | int) and len(str(k)) <= NAME_LENGTH]
            tensors = {WRAPPERS.sub("", k): v for k, v in inner if isinstance(k, str) and isinstance(v, Tensor)}
            if tensors:
                tables.append(Table(place, tensors))
            following += [(f"{place}.{k}" if place else str(k), v) for k, v in inner]
        level = following
    return tables
