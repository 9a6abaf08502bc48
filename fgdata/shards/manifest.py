"""manifest.json: what a shard set contains and how it was built. Defines the names and rules of the format."""

import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError

FORMAT_MAJOR, FORMAT_MINOR = 1, 1
MANIFEST = "manifest.json"
BUILDING = ".building"  # folder inside an unfinished set: its plan and a record of each finished shard
SPLITS = ("train", "test")


def dump(value: Any) -> bytes:
    """A JSON value -> indented UTF-8 JSON that ends in a newline, keys in the order given."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def digest(manifest: dict) -> str:
    """sha256, in hexadecimal, of a manifest without its key `digest`."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path) -> dict:
    """Reads the manifest of a complete shard set.

    Args:
        folder: The folder of the shard set.

    Raises:
        InputError: The folder has no manifest, is an unfinished set, or has a newer format; or the manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(_explain_missing_manifest(folder))
    try:
        manifest = json.loads(path.read_bytes())
        major = int(str(manifest["format_version"]).split(".")[0])
    except (ValueError, KeyError, TypeError) as fault:
        why = f"it is not valid JSON ({fault})" if isinstance(fault, ValueError) else "it has no format_version"
        raise InputError(f"{path} is damaged: {why}. Rebuild the set in an empty folder.") from None
    if major > FORMAT_MAJOR:
        raise InputError(
            f"{path} is format {manifest['format_version']}; this fgdata reads up to {FORMAT_MAJOR}.x. "
            "Upgrade fgdata, or rebuild the set with this version: fgdata build-shards"
        )
    missing = [key for key in ("dataset", "splits", "detectors", "digest") if key not in manifest]
    if missing:
        raise InputError(f"{path} is damaged: it lacks {', '.join(missing)}. Rebuild the set in an empty folder.")
    return manifest


def _explain_missing_manifest(folder: Path) -> str:
    if not folder.is_dir():
        return f"There is no shard set at {folder}: the folder does not exist. List the sets that do: fgdata list"
    if (folder / BUILDING).is_dir():
        return f"{folder} is an unfinished shard set. Rerun the `fgdata build-shards` command that started it."
    return f"{folder} is not a shard set: it has no {MANIFEST}. Build one: fgdata build-shards --dataset drawn"


def sealable(meta: dict) -> bytes:
    """The content of a sample's json -> its bytes without the closing brace, for `seal`."""
    return json.dumps(meta, sort_keys=True, ensure_ascii=False)[:-1].encode()


def seal(body: bytes, crc: int = 0) -> bytes:
    """Completes `sealable` bytes with the last key, crc32, and the closing brace.

    `crc` is the CRC-32 of the sample's bytes before `body`: the stored value covers those bytes and `body`.
    """
    return body + b', "crc32": "%08x"}' % zlib.crc32(body, crc)


SEAL_BYTES = len(b', "crc32": "00000000"}')


def is_sealed(blob: bytes | memoryview) -> bool:
    """Whether a sample's bytes, from its first component's data to the end of its json, match their crc32."""
    return bytes(blob[-SEAL_BYTES:]) == b', "crc32": "%08x"}' % zlib.crc32(blob[:-SEAL_BYTES])


def count_fallbacks(counts: dict[str, dict[str, int]], meta: dict) -> None:
    """Adds the fallbacks of one sample's json to the counts {detector: {kind: samples}}, in place."""
    for name, result in meta["detectors"].items():
        if kind := result["fallback"]:
            kinds = counts.setdefault(name, {})
            kinds[kind] = kinds.get(kind, 0) + 1


def add_counts(all_counts: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Sums the fallback counts {detector: {kind: samples}} of several shards."""
    total: dict[str, dict[str, int]] = {}
    for counts in all_counts:
        for name, kinds in counts.items():
            for kind, count in kinds.items():
                total.setdefault(name, {})[kind] = total.get(name, {}).get(kind, 0) + count
    return total


def signed(manifest: dict) -> dict:
    """A manifest -> a copy that ends in its digest."""
    manifest = {key: value for key, value in manifest.items() if key != "digest"}
    return {**manifest, "digest": digest(json.loads(json.dumps(manifest)))}
