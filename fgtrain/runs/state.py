"""Reads state.pt of a checkpoint, and checksums weights."""

import os
import zipfile
import zlib
from pathlib import Path
from shlex import quote
from typing import Any

from fgdata.errors import InputError

from .files import raise_system_error, read_through


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, oldest first. Unfinished ones, whose names end in .part, are left out.

    OSError if the folder exists and cannot be read: it may hold checkpoints.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbers = (name for name in names if name.isascii() and name.isdigit())
    return sorted((path for name in numbers if (path := folder / name).is_dir()), key=lambda path: int(path.name))


def checksum(weights: dict[str, Any]) -> int:
    """CRC-32 of tensors, in order of their names: safetensors has no checksum to detect a changed bit."""
    import torch

    crc = 0
    for name in sorted(weights):
        crc = zlib.crc32(weights[name].contiguous().reshape(-1).view(torch.uint8).numpy(), crc)
    return crc


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Reads state.pt of a checkpoint folder. InputError if it cannot be read; if it is missing or damaged, the message
    names the other checkpoints."""
    file = checkpoint / "state.pt"
    try:
        return read_saved(file)
    except Exception as error:
        raise_system_error(str(file), error)
        others = [p.name for p in complete_checkpoints(checkpoint.parent) if p.name != checkpoint.name]
        advice = (
            f"Other checkpoints of this run: {', '.join(others)}. To resume from {others[-1]}, remove the damaged one "
            f"and rerun the command:\n  rm -r {quote(str(checkpoint))}"
            if others
            else "The run has no other checkpoint; start a new run in another folder with --out."
        )
        raise InputError(f"{file} cannot be read: {damage(file, error)}. {advice}") from error


def read_saved(file: Path) -> dict[str, Any]:
    """The dict that torch.save wrote to a file. Damaged bytes lead torch into errors of every type; `damage` says in
    words what is wrong."""
    import torch

    if file.exists() and not file.is_file():  # opening a pipe would wait for its writer
        raise ValueError("not a regular file")
    read_through(file)
    with zipfile.ZipFile(file) as parts:  # torch writes a checksum of each part but does not check it
        if changed := parts.testzip():
            raise ValueError(f"{changed} has changed")
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("not a dict")
    return state


def damage(file: Path, error: Exception) -> str:
    """Why `read_saved` failed, in plain words instead of torch's."""
    if isinstance(error, FileNotFoundError):
        return "it is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not file.is_file():
        return "it is not a regular file"
    if not file.stat().st_size:
        return "it is empty"
    return "it is truncated or damaged" if saved_by_torch(file) else "it was not written by torch"


def saved_by_torch(file: Path) -> bool:
    """Whether a file starts as a zip archive, or as the pickle that torch wrote before 1.6."""
    with file.open("rb") as opened:
        head = opened.read(2)
    return head == b"PK" or head[:1] == b"\x80"
