"""Compares every byte of a shard set with its manifest."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..cores import available_cores
from ..errors import InputError
from ..files.regular import open_regular
from . import maps
from .manifest import MANIFEST, manifest_faults, read_manifest
from .reader import ShardSet, shard_faults

_SHOWN = 5  # damaged samples of a shard that a fault names


def check(folder: Path, advance: Callable[[int], None] = lambda samples: None) -> tuple[dict, list[str]]:
    """Checks a complete shard set.

    Args:
        folder: The folder of the shard set.
        advance: Called after each shard with its number of samples.

    Returns:
        The manifest and the faults, one sentence each that names the file. An intact set has none.

    Raises:
        InputError: The manifest cannot be read.

    Example:
        manifest, faults = check(Path("shards/cub"))
        if faults:
            print(*faults, sep="\\n")
    """
    manifest = read_manifest(folder)
    shards = ShardSet(folder, manifest)
    faults = list(manifest_faults(folder, manifest))
    listed = [(name, shard) for name, split in manifest["splits"].items() for shard in split["shards"]]
    expected = {MANIFEST} | {f"{shard['name']}.{end}" for _, shard in listed for end in ("tar", "idx")}
    pool = ThreadPoolExecutor(available_cores())  # hashing and reading release the GIL
    try:
        for (_, shard), found in zip(listed, pool.map(lambda one: _shard_faults(shards, *one), listed)):
            faults += found
            advance(shard["samples"])
    finally:
        pool.shutdown(cancel_futures=True)
    if "maps" in manifest:
        expected.add(maps.MAPS)
        fault = maps.fault(folder, manifest["maps"], shards.detectors, sum(shards.splits.values()))
        faults += [fault] if fault else []
    faults += [
        f"{path} does not belong to the set: the manifest does not list it"
        for path in sorted(folder.iterdir())
        if path.name not in expected and _claims_to_belong(path.name)
    ]
    return manifest, faults


def _claims_to_belong(name: str) -> bool:
    """Whether a file looks like a part of the set. macOS's ._* files and the index files of energon do not."""
    return (
        not name.startswith(".") and not name.endswith(".tar.idx") and name.endswith((".tar", ".idx", ".part", ".h5"))
    )


def _shard_faults(shards: ShardSet, split: str, shard: dict) -> list[str]:
    """What is wrong with one shard. If its files are there, reads the tar and every sample in it: at most one fault."""
    if faults := shard_faults(shards.path, shard):
        return faults
    tar = shards.path / f"{shard['name']}.tar"
    with open_regular(tar) as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == shard["sha256"]
    try:
        reader = shards.reader(split, [shard])
    except InputError as fault:
        return [str(fault)]
    damaged = [fault for number in range(len(reader)) if (fault := reader.find_fault(number))]
    reader.close()
    more = f" and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
    where = "; ".join(damaged[:_SHOWN]) + more
    if not same:
        where = where or "outside the samples: a tar header, padding or the end of the tar"
        return [f"{tar} is damaged: its sha256 differs from the manifest's ({where})"]
    return [f"{tar} does not follow FORMAT.md: {where}"] if damaged else []
