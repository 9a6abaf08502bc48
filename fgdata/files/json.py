"""Reads JSON from untrusted sources: any defect of the text raises the same exception."""

import json
import re
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from .regular import open_regular

MOST_BYTES = 64 << 20
MOST_LEVELS = 64
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(data: bytes | str) -> Any:
    """JSON -> its value. All text in it can be encoded as UTF-8, and a function may recurse into it.

    Args:
        data: UTF-8 bytes, or text.

    Raises:
        ValueError: It is not valid JSON or not UTF-8; has a number of more than 4,300 digits, more than MOST_LEVELS
            nested lists and objects, or an unpaired surrogate. The message completes "it is not valid JSON: ...".

    Example:
        >>> parse_json(b'{"samples": 3}')
        {'samples': 3}
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        value = json.loads(text)
        if text.count("[") + text.count("{") > MOST_LEVELS and _count_levels(value) > MOST_LEVELS:
            raise ValueError(_TOO_DEEP)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except UnicodeEncodeError:
        raise ValueError("it has an unpaired surrogate (\\ud800 to \\udfff)") from None
    return value


def read_json(path: Path, advice: str, most_bytes: int = MOST_BYTES) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        advice: The last sentence of an error: what to do about a damaged file.
        most_bytes: The largest file to read.

    Raises:
        InputError: The file is not a regular file, too large, or `parse_json` refuses it. The message names it.
        OSError: It does not exist or cannot be read.

    Example:
        plan = read_json(folder / "plan.json", "Delete the folder and rerun the command.")
    """
    with open_regular(path) as file:
        return parse_file(file, path, advice, most_bytes)


def parse_file(file: BinaryIO, path: Path | str, advice: str, most_bytes: int = MOST_BYTES) -> Any:
    """`read_json` of an open file. `path` names it in messages."""
    data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise InputError(f"{path} has more than {most_bytes:,} bytes, the largest size allowed. {advice}")
    try:
        return parse_json(data)
    except ValueError as fault:
        raise InputError(f"{path} is damaged: it is not valid JSON: {fault}. {advice}") from None


def _count_levels(value: Any) -> int:
    levels, containers = 0, [value]
    while containers:
        levels += 1
        inner = (child for one in containers for child in (one.values() if isinstance(one, dict) else one))
        containers = [child for child in inner if isinstance(child, dict | list)]
    return levels


_TOO_DEEP = f"more than {MOST_LEVELS} lists and objects are nested"
