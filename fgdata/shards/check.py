"""Compares every byte of a shard set with its manifest."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from . import maps
from .manifest import digest, read_manifest
from .reader import SplitReader, shard_faults


def check(folder: Path, advance: Callable[[int], None] = lambda samples: None) -> tuple[dict, list[str]]:
    """Checks a complete shard set.

    Args:
        folder: The folder of the shard set.
        advance: Called after each shard with its number of samples.

    Returns:
        The manifest and the faults, one sentence each, which names the file. The set is whole when there are none.

    Raises:
        InputError: The manifest cannot be read.

    Example:
        manifest, faults = check(Path("shards/cub"))
        if faults:
            print(*faults, sep="\\n")
    """
    manifest = read_manifest(folder)
    faults = []
    if digest(manifest) != manifest["digest"]:
        faults.append(f"{folder / 'manifest.json'} was changed after it was written: its digest does not match")
    listed = {"manifest.json"}
    for name, split in manifest["splits"].items():
        counted = sum(shard["samples"] for shard in split["shards"])
        if counted != split["samples"]:
            faults.append(
                f"{folder / 'manifest.json'}: split {name} states {split['samples']:,} samples, but its shards "
                f"have {counted:,}"
            )
        for shard in split["shards"]:
            listed |= {f"{shard['name']}.tar", f"{shard['name']}.idx"}
            faults += shard_faults(folder, shard) or _content_faults(folder, name, shard)
            advance(shard["samples"])
    if "maps" in manifest:
        listed.add(maps.MAPS)
        fault = maps.fault(folder, manifest["maps"])
        faults += [fault] if fault else []
    for path in sorted(folder.iterdir()):
        if path.name not in listed and path.suffix in {".tar", ".idx", ".part", ".h5"}:
            faults.append(f"{path} does not belong to the set: the manifest does not list it")
    return manifest, faults


def _content_faults(folder: Path, split: str, shard: dict) -> list[str]:
    tar = folder / f"{shard['name']}.tar"
    with tar.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == shard["sha256"]:
            return []
    reader = SplitReader(folder, split, [shard])
    damaged_samples = []
    for number in range(len(reader)):
        try:
            reader.read(number)
        except InputError as fault:
            damaged_samples.append(str(fault).split(": ", 1)[1].split(" differs", 1)[0])
    reader.close()
    more = f" and {len(damaged_samples) - 5} more" if len(damaged_samples) > 5 else ""
    where = "; ".join(damaged_samples[:5]) + more
    where = where or "outside the samples: a tar header, padding or the end of the tar"
    return [f"{tar} is damaged: its sha256 differs from the manifest's ({where})"]
