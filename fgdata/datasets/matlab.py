"""Reads a .mat file of version 4 to 7 by SciPy, in a separate process: some damaged files crash SciPy."""

import pickle
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

from ..errors import InputError, describe_exit
from . import parsing

MOST_VALUES = 1_000_000
"""In one variable; those of Stanford Cars have 16,185."""
MOST_BYTES = 256 << 20
"""Of a file's variables, decompressed; those of Stanford Cars have 10 MB."""
_COMPRESSED = 15  # MAT-file 5: the type of a variable that is compressed
_PACKAGE = Path(__file__).resolve().parents[1]
_CHILD = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {__package__}.matlab import run_child; run_child()"


def read_matlab(name: str, path: Path, wanted: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """The variables of a .mat file that are in `wanted`, arrays squeezed; and the names of all its variables.

    InputError if the file cannot be read, if its variables are too large, or if SciPy is missing. `name` starts it.
    """
    data = parsing.read_bytes(name, path)
    try:
        _check_decompressed(data)
        content, names = _load(data, wanted)
    except ModuleNotFoundError:
        raise InputError(f"{name}: reading {path} needs SciPy: pip install scipy") from None
    except (ValueError, struct.error, zlib.error) as fault:
        reason = str(fault).rstrip(" .") or type(fault).__name__
        raise InputError(
            f"{name}: {path} is not a MATLAB file that SciPy can read: {reason}. Restore the file."
        ) from None
    return content, names


def _check_decompressed(data: bytes) -> None:
    """ValueError if the compressed variables of a MAT-file 5 expand to more than MOST_BYTES: SciPy has no limit.

    Each variable is a type and a length, four bytes each, after a header of 128 bytes whose last two give the order.
    """
    if 0 in data[:4]:  # MAT-file 4, which has no compression
        return
    order, position, left = ("<" if data[126:128] == b"IM" else ">"), 128, MOST_BYTES
    while position + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, position)
        if kind == _COMPRESSED:
            stream, rest = zlib.decompressobj(), data[position + 8 : position + 8 + length]
            while rest and not stream.eof:
                left -= len(stream.decompress(rest, 1 << 20))
                rest = stream.unconsumed_tail
                if left < 0:
                    raise ValueError(f"its variables have more than {MOST_BYTES:,} bytes, the largest size allowed")
        position += 8 + length


def _load(data: bytes, wanted: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """`read_matlab` for the bytes of a file. ValueError with what SciPy said, or that it crashed."""
    arguments = [sys.executable, "-P", "-c", _CHILD, str(_PACKAGE.parent), *wanted]
    child = subprocess.run(arguments, input=data, capture_output=True)
    if child.returncode:
        raise ValueError(f"it crashes SciPy ({describe_exit(child.returncode)})")
    answer = pickle.loads(child.stdout)  # written by run_child, whatever the file holds
    if isinstance(answer, Exception):
        raise answer
    return answer


def run_child() -> None:
    """The child: reads a .mat file from standard input; writes a pickle of the answer, or of an exception."""
    data, wanted = sys.stdin.buffer.read(), sys.argv[1:]
    try:
        answer = _load_here(data, wanted)
    except ModuleNotFoundError as fault:
        answer = ModuleNotFoundError(str(fault))
    except Exception as fault:  # SciPy raises many kinds of exceptions on damaged files
        answer = ValueError(str(fault) or type(fault).__name__)
    sys.stdout.buffer.write(pickle.dumps(answer))


def _load_here(data: bytes, wanted: list[str]) -> tuple[dict[str, Any], list[str]]:
    from scipy.io import loadmat, whosmat

    sizes = {variable: prod(shape) for variable, shape, _ in whosmat(BytesIO(data))}
    if large := [variable for variable, size in sizes.items() if size > MOST_VALUES]:
        raise ValueError(f"{large[0]} has {sizes[large[0]]:,} values; at most {MOST_VALUES:,} are allowed")
    content = loadmat(BytesIO(data), squeeze_me=True, variable_names=wanted)
    return {variable: content[variable] for variable in wanted if variable in content}, list(sizes)
