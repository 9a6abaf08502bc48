"""The folder `.building` of a set that is being built: its plan, and a mark for each finished shard.

A mark, NAME.json, holds the facts of a shard that the manifest needs. It is written after the shard's other files and
states their sizes and sha256, so that damage to them is found before the set is finished. Both kinds of files carry a
digest. Those of older versions have none; they are read too.
"""

import hashlib
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.atomic import remove_parts, write_atomic
from ..files.json import read_json
from ..files.regular import open_regular
from ..shards.manifest import BUILDING, digest, dump, signed
from ..shards.maps import maps_part
from ..shards.schema import COUNT, MANIFEST, SHA256, SHARD, TEXT, Is, Shape, find_fault

_PLAN = {key: MANIFEST[key] for key in ("dataset", "detectors", "objective", "images", "versions")}
_PLAN |= {"begun_with?": Is("a whole number or null", lambda value: value is None or COUNT.test(value))}
_FACT = {key: MANIFEST[key] for key in ("boxes_clipped", "reencoded", "fallbacks")}
_FACT |= {"name": TEXT, "skipped": [{"file": TEXT, "why": TEXT}], "entry": SHARD}
_FACT |= {"maps_bytes?": COUNT, "maps_sha256?": SHA256}
_OWN = re.compile(r"plan\.json|[a-z0-9-]+-[0-9]{6}\.(json|maps\.h5)")
"""Names of the files that a build creates in `.building`."""


def read_plan(out: Path) -> dict | None:
    """-> the plan of an unfinished set; None if the folder has none. Raises InputError if it is damaged."""
    folder = out / BUILDING
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is not a folder that a build created. Name another folder: --out FOLDER")
    path = folder / "plan.json"
    return _read(path, _PLAN, f"Delete the unfinished set and rerun this command: rm -r {shlex.quote(str(out))}")


def write_plan(out: Path, plan: dict) -> None:
    """Creates `.building` and writes the plan."""
    (out / BUILDING).mkdir(exist_ok=True)
    write_atomic(out / BUILDING / "plan.json", dump(signed(plan)))


def write_mark(out: Path, fact: dict, maps: bytes | None) -> dict:
    """Marks a shard as finished -> its facts. Its tar and index are on disk; `maps`, its map file, is written here."""
    if maps is not None:
        write_atomic(maps_part(out, fact["name"]), maps)
        fact = {**fact, "maps_bytes": len(maps), "maps_sha256": hashlib.sha256(maps).hexdigest()}
    write_atomic(_mark(out, fact["name"]), dump(signed(fact)))
    return fact


def read_mark(out: Path, name: str) -> dict | None:
    """-> the facts of a shard whose files all have their sizes; otherwise None. Raises InputError if it is damaged."""
    path = _mark(out, name)
    fact = _read(
        path, _FACT, f"Remove it, and rerun this command to rebuild the shard: rm {shlex.quote(str(path))}", name
    )
    if fact is None or not all(file.is_file() and file.stat().st_size == size for file, size, _ in _files(out, fact)):
        return None
    return fact


def find_damage(out: Path, fact: dict) -> Path | None:
    """Reads the files of a finished shard -> the first whose sha256 is not the one written; None if all are intact."""
    for path, _, sha256 in _files(out, fact):
        if not path.is_file():
            return path
        with open_regular(path) as file:
            if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return path
    return None


def remove_leftovers(out: Path) -> None:
    """Removes the temporary files of killed processes, also of Ray workers that were lost during this build."""
    for folder in (out, out / BUILDING):
        if folder.is_dir():
            remove_parts(folder)


def remove_building(out: Path) -> None:
    """Removes the files of a build from a complete set, and `.building` if nothing else is in it."""
    folder = out / BUILDING
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in folder.iterdir():
        if _OWN.fullmatch(path.name) and (path.is_symlink() or not path.is_dir()):
            path.unlink()
    with suppress(OSError):  # it holds files of the user
        folder.rmdir()


def _mark(out: Path, name: str) -> Path:
    return out / BUILDING / f"{name}.json"


def _files(out: Path, fact: dict) -> list[tuple[Path, int, str | None]]:
    """(path, bytes, sha256) of every file of a shard."""
    name, entry = fact["name"], fact["entry"]
    files = [
        (out / f"{name}.tar", entry["bytes"], entry["sha256"]),
        (out / f"{name}.idx", entry["index_bytes"], entry["index_sha256"]),
    ]
    if "maps_bytes" in fact:
        files.append((maps_part(out, name), fact["maps_bytes"], fact.get("maps_sha256")))
    return files


def _read(path: Path, shape: Shape, advice: str, name: str = "") -> Any:
    """The object stored in a file of `.building`, or None if the file does not exist. name: the shard it describes."""
    if not path.is_file():
        return None
    value = read_json(path, advice)
    fault = find_fault(value, shape)
    if not fault and value.get("digest", digest(value)) != digest(value):
        fault = "its digest does not match"
    if not fault and name and {value["name"], value["entry"]["name"]} != {name}:
        fault = "it belongs to another shard"
    if fault:
        raise InputError(f"{path} is damaged: its content is not what the build wrote: {fault}. {advice}")
    return value
