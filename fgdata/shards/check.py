"""Every byte of a shard set accounted for."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from . import maps
from .manifest import digest, read_manifest
from .reader import SplitReader, shard_faults


def check(folder: Path, advance: Callable[[int], None] = lambda samples: None) -> tuple[dict, list[str]]:
    """(manifest, faults): one sentence for every fault, each naming its file; an empty list means the set is whole.

    `advance` is told the samples of every shard looked at. InputError when the manifest itself cannot be read.
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
                f"{folder / 'manifest.json'}: split {name} says {split['samples']:,} samples, its shards {counted:,}"
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
    damaged = []
    for number in range(len(reader)):
        try:
            reader.read(number)
        except InputError as fault:
            damaged.append(str(fault).split(": ", 1)[1].split(" is not", 1)[0])
    reader.close()
    where = "; ".join(damaged[:5]) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else "")
    where = where or "outside the samples: a tar header, padding or the end of the tar"
    return [f"{tar} is damaged: its sha256 is not the manifest's ({where})"]
