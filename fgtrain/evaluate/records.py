"""JSON-lines files of a run. Every line that an evaluation writes ends in a checksum of itself:

    {"evaluation": "knn", "accuracy": 0.5, "crc32": 3085262599}

where crc32 is the CRC-32 of the same line without that key, {"evaluation": "knn", "accuracy": 0.5}. Lines of earlier
versions have none, and metrics.jsonl has none.
"""

import json
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgdata.errors import InputError, warn_once
from fgdata.files.atomic import append_line
from fgdata.files.json import MOST_BYTES
from fgdata.files.output import reason_unwritable

from ..runs.files import read_bytes

LAST_KEY = re.compile(r', "([^"]*)": (\d+)\}$')
COMPLETE = re.compile(rb', "crc32": \d+\D')
"""Bytes that only a complete line has; an incomplete one ends before or within the digits."""
MEASURED = "Delete that line, then rerun the evaluation that wrote it."
TRAINED = "Training wrote it: delete that line. Its points are lost; checkpoints and results have their own files."


@dataclass(frozen=True)
class Line:
    """One record of a JSON-lines file, and where it is."""

    path: Path
    number: int
    values: dict[str, Any]
    checked: bool
    """Whether the line has a checksum."""

    def fault(self, found: str) -> InputError:
        """The error that names this line. `found` completes the sentence "FILE, line N ..."."""
        return _fault(self.path, self.number, found)

    def figure(self, key: str) -> float:
        """A finite number. InputError naming the line when the value is anything else."""
        value = self.values.get(key)
        if isinstance(value, (int, float)) and is_finite(value):
            return value
        raise self.fault(f"has {key} = {_short(value)}, which is not a finite number")

    def text(self, key: str) -> str:
        """A string. InputError naming the line when the value is anything else."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.fault(f"has {key} = {_short(value)}, which is not a string")
        return value


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Appends a record and its checksum as one line, whole or not at all, and returns once it is on the disk.

    InputError naming the file when it cannot be written.
    """
    try:
        append_line(path, with_checksum(record), sync=True)
    except OSError as error:
        raise InputError(
            f"{path} could not be written: {error.strerror}. Its existing contents are unchanged. Free some space or "
            "fix the permissions, then rerun the command."
        ) from error


def check_appendable(path: Path) -> None:
    """InputError unless `append_record` can create the file or append to it, as far as that is known. Writes nothing.

    It is called before a measurement, which may take hours.
    """
    _refuse_special(path)
    place = path if path.exists() else path.parent
    why = reason_unwritable(place) if place.exists() else "does not exist"
    if why:
        raise InputError(
            f"Results cannot be saved in {path}: {place} {why}. Nothing was measured. Fix that, or copy the run to "
            "another folder, then rerun the command."
        )


def with_checksum(record: dict[str, Any]) -> str:
    """A record -> its line."""
    line = json.dumps(record)
    return f'{line[:-1]}, "crc32": {zlib.crc32(line.encode())}}}'


def read_records(path: Path, lenient: bool = False, most: int = MOST_BYTES) -> list[Line]:
    """Reads the records of a .jsonl file; [] when the file does not exist.

    An incomplete last line without a line break is still being written, and is ignored. Any other incomplete line is
    from a process that was killed, or is damaged: it is left out with a warning.
    InputError names a file of more than `most` bytes, or the first other line that is not a JSON object, that does not
    match its checksum, or that has no checksum although a line before it has one. lenient: such a line is left out
    with a warning, too.
    """
    if not path.exists():
        return []
    _refuse_special(path)
    data = read_bytes(path, most)
    lines: list[Line] = []
    contents = data.removesuffix(b"\n").split(b"\n") if data else []
    for number, content in enumerate(contents, 1):
        try:
            line = _parse(path, number, content, after=lines[-1] if lines else None)
        except InputError as fault:
            if not lenient:
                raise
            warn_once(f"fgtrain: {fault} It is left out.")
            continue
        if line is not None:
            lines.append(line)
        elif number < len(contents) or data.endswith(b"\n"):
            warn_once(f"fgtrain: {_fault(path, number, f'is incomplete: {_short(content)}')} It is left out.")
    return lines


def _refuse_special(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file. Remove it; an evaluation creates it again.")


def _parse(path: Path, number: int, content: bytes, after: Line | None) -> Line | None:
    """The bytes of a line -> its record; None for an incomplete one. InputError for any other that is not a record.

    after: the record before it.
    """
    try:
        text = content.decode()
        values = json.loads(text)
    except (ValueError, RecursionError):
        if content.startswith(b"{") and not content.endswith(b"}") and not COMPLETE.search(content):
            return None
        raise _fault(path, number, f"is not valid JSON: {_short(content)}") from None
    if not isinstance(values, dict):
        raise _fault(path, number, f"is not a JSON object: {_short(content)}")
    checked = _has_checksum(path, number, text)
    if not checked and after is not None and after.checked:
        raise _fault(path, number, "has no checksum, but the line before it has one")
    return Line(path, number, {k: v for k, v in values.items() if not checked or k != "crc32"}, checked)


def is_finite(value: object) -> bool:
    """Whether a JSON value is a number that a float can hold, and neither NaN nor infinite."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a float
        return False


def _has_checksum(path: Path, number: int, text: str) -> bool:
    """Whether the line ends in its checksum. InputError when the checksum, or the name of its key, is damaged."""
    last = LAST_KEY.search(text)
    if last is None:
        return False
    matches = zlib.crc32(f"{text[: last.start()]}}}".encode()) == int(last[2])
    if matches != (last[1] == "crc32"):
        raise _fault(path, number, "does not match its checksum")
    return matches


def _fault(path: Path, number: int, found: str) -> InputError:
    advice = TRAINED if path.name == "metrics.jsonl" else MEASURED
    return InputError(f"{path}, line {number} {found}. {advice}")


def _short(value: object) -> str:
    text = repr(value)[1:] if isinstance(value, bytes) else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
