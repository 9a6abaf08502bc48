"""The folder `.building` of a set that is being built: its plan, and a mark for each finished shard.

A mark, NAME.json, holds the facts of a shard that the manifest needs. It is written after the shard's other files and
states their sizes and sha256, so that damage to them is found before the set is finished. Both kinds of files carry a
digest. Those of older versions have none; they are read too.
"""

import hashlib
import re
import secrets
import shlex
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.atomic import append_line, remove_parts, write_atomic, write_once
from ..files.json import read_json
from ..files.owners import find_live, owning
from ..files.regular import open_regular
from ..shards.manifest import BUILDING, digest, dump, signed
from ..shards.maps import maps_part
from ..shards.schema import COUNT, MANIFEST, OBJECT, SHA256, SHARD, TEXT, Each, Is, Shape, find_fault, whole
from .log import LOG
from .parts import MOST

_PLAN = {key: MANIFEST[key] for key in ("dataset", "detectors", "objective", "images", "versions")}
_PLAN |= {"begun_with?": Is("a whole number or null", lambda value: value is None or COUNT.test(value))}
_PLAN |= {"maps?": OBJECT, "shards?": Each("train|test", whole(0, 999_999)), "parts?": whole(1, MOST), "command?": TEXT}
_OWN_KEYS = ("begun_with", "shards", "parts", "command", "digest")
"""Keys of plan.json that are not part of the plan: the images and shards of the whole set, and how to build it."""
_FACT = {key: MANIFEST[key] for key in ("boxes_clipped", "reencoded", "fallbacks")}
_FACT |= {"name": TEXT, "skipped": [{"file": TEXT, "why": TEXT}], "entry": SHARD}
_FACT |= {"maps_bytes?": COUNT, "maps_sha256?": SHA256}
_OWN = re.compile(r"plan\.json|[a-z0-9-]+-[0-9]{6}\.(json|maps\.h5)|[A-Za-z0-9.-]+\.(owner|jsonl)")
"""Names of the files that a build creates in `.building`."""
MOST_LOG_BYTES = 64 << 20


def owning_shards(out: Path, share: range) -> AbstractContextManager[Path]:
    """Owns these shards of an unfinished set until the block ends -> the owner file (files/owners.py)."""
    return owning(out / BUILDING, f"is building these shards of {out}", share.start, share.stop)


def read_plan(out: Path) -> dict | None:
    """-> the plan of an unfinished set; None if the folder has none. Raises InputError if it is damaged."""
    folder = out / BUILDING
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is not a folder that a build created. Name another folder: --out FOLDER")
    path = folder / "plan.json"
    return _read(path, _PLAN, f"Delete the unfinished set and rerun the command: rm -r {shlex.quote(str(out))}")


def write_plan(out: Path, plan: dict, own: dict) -> None:
    """Creates `.building` and writes the plan. own: values of _OWN_KEYS."""
    (out / BUILDING).mkdir(exist_ok=True)
    write_atomic(out / BUILDING / "plan.json", dump(signed(plan | own)))


def write_plan_once(out: Path, plan: dict, own: dict) -> None:
    """Writes the plan unless there is one. Of several processes, on any machines, one writes it."""
    recorded = read_plan(out)
    if recorded is not None and "shards" not in recorded:  # of an older version
        write_plan(out, plan, own)
    elif recorded is None:
        write_once(out / BUILDING / "plan.json", dump(signed(plan | own)))


def without_own_keys(plan: dict) -> dict:
    """What `read_plan` returned -> the plan that was given to `write_plan`."""
    return {key: value for key, value in plan.items() if key not in _OWN_KEYS}


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
        path, _FACT, f"Remove it, and rerun the command to rebuild the shard: rm {shlex.quote(str(path))}", name
    )
    if fact is None or not all(file.is_file() and file.stat().st_size == size for file, size, _ in _files(out, fact)):
        return None
    return fact


def remove_mark(out: Path, name: str) -> None:
    """Marks a shard as unfinished."""
    _mark(out, name).unlink(missing_ok=True)


def part_log(out: Path) -> Path:
    """-> a new file for the log of a part: lines that two machines append to one file on NFS overwrite each other."""
    return out / BUILDING / f"{secrets.token_hex(8)}.jsonl"


def merge_logs(out: Path) -> None:
    """Moves the lines of all part logs to the log of the set."""
    for path in sorted((out / BUILDING).glob("*.jsonl")):
        lines = []
        with suppress(FileNotFoundError), open_regular(path) as file:  # gone: another process has merged it
            lines = file.read(MOST_LOG_BYTES).decode(errors="replace").splitlines()
        for line in lines:
            append_line(out / LOG, line)
        path.unlink(missing_ok=True)


def find_damage(out: Path, fact: dict) -> Path | None:
    """Reads the files of a finished shard -> the first whose sha256 is not the one written; None if all are intact."""
    for path, _, sha256 in _files(out, fact):
        if not path.is_file():
            return path
        with open_regular(path) as file:
            if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return path
    return None


def remove_leftovers(out: Path, owner: Path | None = None) -> None:
    """Removes the temporary files of killed processes, also of Ray workers that were lost during this build.

    owner: the owner file of this process, if it has one. Does nothing while another process builds shards of this set.
    """
    if find_live(out / BUILDING, own=owner, holding=True):
        return
    for folder in (out, out / BUILDING):
        if folder.is_dir():
            remove_parts(folder)


def remove_building(out: Path, owner: Path | None = None) -> None:
    """Removes the files of a build from a complete set, and `.building` if nothing else is in it.

    owner: see `remove_leftovers`. Does nothing while another process builds shards of this set.
    """
    folder = out / BUILDING
    if folder.is_symlink() or not folder.is_dir() or find_live(folder, own=owner, holding=True):
        return
    for path in folder.iterdir():
        if _OWN.fullmatch(path.name) and (path.is_symlink() or not path.is_dir()):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds files of the user
        folder.rmdir()


def _mark(out: Path, name: str) -> Path:
    return out / BUILDING / f"{name}.json"


def _files(out: Path, fact: dict) -> list[tuple[Path, int, str | None]]:
    """(path, bytes, sha256) of every file of a shard that the set needs: of one without samples, none."""
    name, entry = fact["name"], fact["entry"]
    if not entry["samples"]:  # a `finish` that was killed may have removed them
        return []
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
