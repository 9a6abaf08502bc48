"""manifest.json: what a shard set contains and how it was built. Defines the names and rules of the format."""

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..boxes.objective import Objective
from ..errors import InputError, describe
from ..files.json import parse_file
from ..stores.place import Url
from ..stores.store import Store, open_store
from .schema import MANIFEST as MANIFEST_SHAPE
from .schema import find_fault

FORMAT_MAJOR, FORMAT_MINOR = 1, 3
MANIFEST = "manifest.json"
REENCODED = "not a JPEG of 1 or 3 channels, or turned upright by its EXIF orientation"
"""Which images are re-encoded whatever their size, for messages."""
BUILDING = ".building"  # folder inside an unfinished set: its plan and a record of each finished shard
PULLING = ".pulling"  # folder inside a set that is being downloaded
SPLITS = ("train", "test")


def dump(value: Any) -> bytes:
    """A JSON value -> indented UTF-8 JSON that ends in a newline, keys in the order given."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def digest(manifest: dict) -> str:
    """sha256, in hexadecimal, of a manifest without its key `digest`."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path | Url, store: Store | None = None) -> dict:
    """Reads the manifest of a complete shard set.

    Args:
        folder: The folder of the shard set, or its URL.
        store: Its files, if they are open.

    Raises:
        InputError: The folder has no manifest, is an unfinished set, or has a newer format; or the manifest is damaged.
    """
    path, store = folder / MANIFEST, store or open_store(folder)
    try:
        with store.open(MANIFEST) as file:
            manifest = parse_file(file, path, _REBUILD)
    except OSError as fault:
        if isinstance(fault, FileNotFoundError | NotADirectoryError):
            raise InputError(_explain_missing_manifest(store)) from None
        raise InputError(f"{path} cannot be read: {describe(fault)}.") from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not (isinstance(version, str) and re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", version)):
        raise InputError(f"{path} is damaged: it has no format_version such as 1.0. {_REBUILD}")
    if int(version.split(".")[0]) > FORMAT_MAJOR:
        raise InputError(
            f"{path} is format {version}; this fgdata reads up to {FORMAT_MAJOR}.x. "
            "Upgrade fgdata, or build the set with this version: rerun its command with another --out FOLDER"
        )
    if fault := find_fault(manifest, MANIFEST_SHAPE) or _find_bad_shard_name(manifest):
        changed = "it was changed after it was written, " if digest(manifest) != manifest.get("digest") else ""
        raise InputError(f"{path} is damaged: {changed}{fault}. {_REBUILD}")
    return manifest


_REBUILD = "Restore the file, or rebuild the set in an empty folder."


def refuse_changed(folder: Path, manifest: dict) -> None:
    """InputError unless this is still the manifest of a folder. Locks may not reach a process that replaces the set."""
    if read_manifest(folder) != manifest:
        raise InputError(f"{folder} was changed by another process while it was being read. Rerun the command.")


def list_shards(manifest: dict) -> list[dict]:
    """The entries of all shards, split after split, in the order of the manifest."""
    return [shard for split in manifest["splits"].values() for shard in split["shards"]]


def manifest_faults(folder: Path | Url, manifest: dict) -> Iterator[str]:
    """Yields the contradictions within a manifest that `read_manifest` returned: its digest, its counts."""
    if digest(manifest) != manifest.get("digest"):
        yield f"{folder / MANIFEST} was changed after it was written: its digest does not match"
    for name, split in manifest["splits"].items():
        counted = sum(shard["samples"] for shard in split["shards"])
        if counted != split["samples"]:
            stated = f"split {name} states {split['samples']:,} samples"
            yield f"{folder / MANIFEST} contradicts itself: {stated}, but its shards have {counted:,}"


def read_objective(manifest: dict) -> Objective:
    """How the boxes of a set were chosen. Keys of a newer format are ignored.

    Raises:
        InputError: The objective is unknown, or a constant is out of range.
    """
    names = {field.name for field in fields(Objective)}
    return Objective(**{key: value for key, value in manifest["objective"].items() if key in names})


def describe_objective(manifest: dict) -> str:
    """The objective of a set in words: `max-excess, tau 0.75`; only its name if a newer format wrote it."""
    try:
        objective = read_objective(manifest)
    except InputError:
        return manifest["objective"]["name"]
    value = getattr(objective, objective.constant)
    value = "of each detector" if value == "own" else f"{value:g}"
    return f"{objective.name}, {objective.constant.replace('_', '-')} {value}"


def identify_images(manifest: dict) -> tuple:
    """A key for the images that a set was built from; for the set itself if its manifest does not record them."""
    dataset = manifest.get("dataset", {})
    if "records_sha256" not in dataset:
        return (manifest["digest"],)
    return dataset["records_sha256"], dataset.get("settings")  # the seed of `drawn` is in its settings only


def newest_version(manifest: dict) -> str:
    """The format version of a set that is rewritten: this program's, or the set's own where that is newer."""
    minor = int(manifest["format_version"].split(".")[1])
    return f"{FORMAT_MAJOR}.{max(FORMAT_MINOR, minor)}"


def _find_bad_shard_name(manifest: dict) -> str | None:
    """A shard's name becomes a path: SPLIT-NNNNNN and nothing else, so that no file outside the folder is touched."""
    names = set()
    for split, entry in manifest["splits"].items():
        for shard in entry["shards"]:
            name = shard["name"]
            if not re.fullmatch(f"{split}-[0-9]{{6}}", name):
                return f"splits.{split} names the shard {json.dumps(name)[:80]}; it must be {split}-NNNNNN"
            if name in names:
                return f"the shard {name} appears twice"
            names.add(name)
    return None


def _explain_missing_manifest(store: Store) -> str:
    folder = store.place
    if isinstance(folder, Url):
        if BUILDING in (store.names() or ()):
            return f"{folder} is an unfinished shard set. Rerun the command that wrote it."
        build = f"fgdata build-shards --dataset NAME --root FOLDER --out {folder}"
        create = {"hf": f"fgdata push FOLDER {folder}", "s3": build, "gs": build}.get(folder.scheme)
        hint = f", or create a set there: {create}" if create else ""
        return f"{folder} is not a shard set: it has no {MANIFEST}. Check the URL{hint}"
    if not folder.is_dir():
        what = "it is a file, not a folder" if folder.exists() else "the folder does not exist"
        return f"There is no shard set at {folder}: {what}. To see which sets there are: fgdata list"
    if (folder / BUILDING).is_dir():
        return (
            f"{folder} is an unfinished shard set. Rerun the `fgdata build-shards` command that started it; if it was "
            f"built in parts: fgdata finish {folder}"
        )
    if (folder / PULLING).is_dir():
        return f"{folder} is an unfinished download of a shard set. Rerun the `fgdata pull` command that started it."
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


class RowsDigest:
    """sha256 of the compact JSON list of all rows, without the text of all of them: that of a million takes 300 MB."""

    def __init__(self):
        self._sha256, self._separator = hashlib.sha256(b"["), ""

    def add(self, rows: list) -> None:
        """Adds rows, at least one."""
        self._sha256.update((self._separator + json.dumps(rows, separators=(",", ":"))[1:-1]).encode())
        self._separator = ","

    def hexdigest(self) -> str:
        """The digest of what was added, to which nothing can be added afterwards."""
        self._sha256.update(b"]")
        return self._sha256.hexdigest()
