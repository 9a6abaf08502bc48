"""What torch wrote, read back: checksums of weights, and state.pt of a checkpoint."""

import zipfile
import zlib
from pathlib import Path
from shlex import quote
from typing import Any

from fgdata.errors import InputError


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first; one that is being written has a name ending in .part."""
    return sorted(p for p in folder.glob("[0-9]*") if p.name.isdigit() and p.is_dir())


def checksum(weights: dict[str, Any]) -> int:
    """CRC-32 of tensors by name: safetensors has none, and a changed bit would be another encoder."""
    import torch

    crc = 0
    for name in sorted(weights):
        crc = zlib.crc32(weights[name].contiguous().reshape(-1).view(torch.uint8).numpy(), crc)
    return crc


def load_state(checkpoint: Path) -> dict[str, Any]:
    """state.pt of a checkpoint folder. InputError names a damaged one and what is left to continue from."""
    import torch

    file = checkpoint / "state.pt"
    try:
        with zipfile.ZipFile(file) as parts:  # torch wrote a checksum of each, and does not look at it
            if changed := parts.testzip():
                raise ValueError(f"{changed} has changed")
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes of a damaged file lead torch's reader into faults of every kind
        others = [p.name for p in complete_checkpoints(checkpoint.parent) if p.name != checkpoint.name]
        after = (
            f"Checkpoints left beside it: {', '.join(others)}. To continue from {others[-1]}, remove the damaged one "
            f"and run the same command again:\n  rm -r {quote(str(checkpoint))}"
            if others
            else "There is no other checkpoint beside it; start anew in another folder with --out."
        )
        raise InputError(f"{file} cannot be read: {damage(file, error)}. {after}") from error


def damage(file: Path, error: Exception) -> str:
    """Why torch.load could not read a file, in words that are not torch's own."""
    if isinstance(error, FileNotFoundError):
        return "it is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not file.stat().st_size:
        return "it is empty"
    return "it is cut short or damaged" if saved_by_torch(file) else "it is no file that torch wrote"


def saved_by_torch(file: Path) -> bool:
    """By its first bytes: a zip archive, or the pickle that torch wrote before 1.6."""
    with file.open("rb") as opened:
        head = opened.read(2)
    return head == b"PK" or head[:1] == b"\x80"
