"""manifest.json: what a shard set holds and how it was made. The names and rules of the format live here."""

import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError

FORMAT_MAJOR, FORMAT_MINOR = 1, 1
MANIFEST = "manifest.json"
BUILDING = ".building"  # folder inside a set that is not finished: its plan and the facts of each finished shard
SPLITS = ("train", "test")


def dump(value: Any) -> bytes:
    """A JSON value -> readable bytes, keys in the order given."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def digest(manifest: dict) -> str:
    """sha256 of everything the manifest says but the digest itself."""
    said = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path) -> dict:
    """The manifest of a complete shard set. InputError for no set, an unfinished one, or a newer format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(_why_no_manifest(folder))
    try:
        manifest = json.loads(path.read_bytes())
        major = int(str(manifest["format_version"]).split(".")[0])
    except (ValueError, KeyError, TypeError) as fault:
        why = f"it is no JSON ({fault})" if isinstance(fault, ValueError) else "it states no format version"
        raise InputError(f"{path} is damaged: {why}. Build the set again into an empty folder.") from None
    if major > FORMAT_MAJOR:
        raise InputError(
            f"{path} is format {manifest['format_version']}; this fgdata reads up to {FORMAT_MAJOR}.x. "
            "Upgrade fgdata, or rebuild the set with this one: fgdata build-shards"
        )
    missing = [key for key in ("dataset", "splits", "detectors", "digest") if key not in manifest]
    if missing:
        raise InputError(f"{path} is damaged: it lacks {', '.join(missing)}. Build the set again into an empty folder.")
    return manifest


def _why_no_manifest(folder: Path) -> str:
    if not folder.is_dir():
        return f"There is no shard set at {folder}: no such folder. `fgdata list` shows the sets that exist."
    if (folder / BUILDING).is_dir():
        return (
            f"{folder} is a shard set still being built: run the same `fgdata build-shards` command again to finish it."
        )
    return f"{folder} is no shard set: it has no {MANIFEST}. Build one: fgdata build-shards --dataset drawn"


def sealable(meta: dict) -> bytes:
    """A JSON object as bytes without its closing brace, for `seal`."""
    return json.dumps(meta, sort_keys=True, ensure_ascii=False)[:-1].encode()


def seal(body: bytes, crc: int = 0) -> bytes:
    """`sealable` bytes with a last key, crc32, of all ahead of it; `crc` is that of what lies before the body."""
    return body + b', "crc32": "%08x"}' % zlib.crc32(body, crc)


SEAL_BYTES = len(b', "crc32": "00000000"}')


def is_sealed(blob: bytes | memoryview) -> bool:
    """Whether the bytes of a sample, from its first component's data to the end of its json, are those written."""
    return bytes(blob[-SEAL_BYTES:]) == b', "crc32": "%08x"}' % zlib.crc32(blob[:-SEAL_BYTES])


def count_fallbacks(counts: dict[str, dict[str, int]], meta: dict) -> None:
    """Adds the fallbacks of one sample's json to the counts by detector and kind."""
    for name, said in meta["detectors"].items():
        if kind := said["fallback"]:
            of_name = counts.setdefault(name, {})
            of_name[kind] = of_name.get(kind, 0) + 1


def add_counts(all_counts: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Sums the fallback counts of several shards."""
    total: dict[str, dict[str, int]] = {}
    for counts in all_counts:
        for name, kinds in counts.items():
            for kind, count in kinds.items():
                total.setdefault(name, {})[kind] = total.get(name, {}).get(kind, 0) + count
    return total


def signed(manifest: dict) -> dict:
    """The manifest with its digest, as its last key."""
    manifest = {key: value for key, value in manifest.items() if key != "digest"}
    return {**manifest, "digest": digest(json.loads(json.dumps(manifest)))}
