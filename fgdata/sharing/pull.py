"""`fgdata pull`: downloads a shard set from the Hugging Face hub.

Files arrive in `.pulling/` inside the folder. Each gets its name in the set when its sha256 is the manifest's, and
manifest.json is written last: until then the folder is not a shard set. A stopped pull resumes after the files
that arrived.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, name_file
from ..files.atomic import is_part, remove_parts, sync_folder, write_atomic
from ..files.download import OWNERS, only_downloader
from ..files.hub import CARD, dataset_name, hub_error, import_hub
from ..files.regular import open_regular
from ..files.space import need_space
from ..progress import Progress
from ..shards.faults import sha256
from ..shards.manifest import MANIFEST, PULLING, manifest_faults, read_manifest
from .describe import MOST_CARD_BYTES
from .files import SetFile, list_files, list_remote

_AT_ONCE = 4  # downloads
_MOST_MANIFEST = 64 << 20


@dataclass(frozen=True)
class Pulled:
    """What a pull did."""

    manifest: dict
    downloaded: int
    """Files; the others were there already."""
    was_complete: bool = False


class _Source:
    """A dataset on the hub at one commit."""

    def __init__(self, hub: Any, address: str):
        self.address, self.repository = address, dataset_name(address)
        self.api = hub.HfApi()
        with self.naming():
            self.commit = self.api.repo_info(self.repository, repo_type="dataset").sha
            self.files = list_remote(self.api, self.repository, self.commit)

    def fetch(self, name: str, folder: Path) -> Path:
        """Downloads a file into a folder. Its content is not checked."""
        with self.naming():
            options = {"repo_type": "dataset", "revision": self.commit, "local_dir": folder}
            return Path(self.api.hf_hub_download(self.repository, name, **options))

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors of the hub or the network become an InputError; those of this machine's disk are raised."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
                raise
            resume = "Rerun the command to resume."
            raise hub_error(self.address, "read", error, resume) from error


def pull(address: str, folder: Path) -> Pulled:
    """Downloads a shard set: whole, or not at all.

    Args:
        address: hf://datasets/ORG/NAME.
        folder: A new or empty folder, or one in which a pull was stopped.

    Raises:
        InputError: The hub has no such dataset, it is not a shard set or a damaged one, the folder holds something
            else, or the connection fails. What was downloaded is kept for the next call.
    """
    hub = import_hub("fgdata pull")
    with _quiet(hub):
        source = _Source(hub, address)
        manifest, content = _read_manifest(source)
        listed = list_files(manifest)
        if (folder / MANIFEST).exists():
            return _open_complete(folder, manifest)
        _check_sizes(source, listed)
        _check_folder(folder, listed)
        with only_downloader(folder, f"fgdata pull {address}"):
            if (folder / MANIFEST).exists():  # another process has finished meanwhile
                return _open_complete(folder, manifest)
            _check_folder(folder, listed)
            remove_parts(folder)  # of a manifest that a killed pull was writing
            (folder / PULLING).mkdir(exist_ok=True)
            downloaded = _download(source, listed, folder)
            if CARD in source.files and source.files[CARD].size <= MOST_CARD_BYTES and not (folder / CARD).exists():
                os.replace(source.fetch(CARD, folder / PULLING), folder / CARD)
            sync_folder(folder)
            write_atomic(folder / MANIFEST, content)
            shutil.rmtree(folder / PULLING, ignore_errors=True)
    return Pulled(manifest, downloaded)


def _read_manifest(source: _Source) -> tuple[dict, bytes]:
    """-> the manifest on the hub and its bytes. InputError if there is none or it is damaged."""
    entry = source.files.get(MANIFEST)
    if entry is None:
        raise InputError(
            f"{source.address} has no {MANIFEST}: it is not a shard set of fgdata, or its push was stopped. Whoever "
            "uploads it can resume: fgdata push"
        )
    if entry.size > _MOST_MANIFEST:
        raise InputError(f"{source.address}: {MANIFEST} has {entry.size:,} bytes; at most {_MOST_MANIFEST:,} are read.")
    with tempfile.TemporaryDirectory() as temporary:
        path = source.fetch(MANIFEST, Path(temporary))
        try:
            manifest = read_manifest(path.parent)
            if fault := next(manifest_faults(path.parent, manifest), None):
                raise InputError(f"{fault}.")
        except InputError as fault:
            raise InputError(str(fault).replace(str(path.parent), source.address)) from None
        return manifest, path.read_bytes()


def _open_complete(folder: Path, manifest: dict) -> Pulled:
    if read_manifest(folder)["digest"] != manifest["digest"]:
        raise InputError(f"{folder} holds another shard set. Name another folder.")
    return Pulled(manifest, 0, was_complete=True)


def _check_sizes(source: _Source, listed: list[SetFile]) -> None:
    """InputError if files are missing on the hub or differ from the manifest, before anything is downloaded."""
    faults = []
    for file in listed:
        entry = source.files.get(file.name)
        if entry is None:
            faults.append(f"{file.name} is missing")
        elif entry.size != file.size or (entry.lfs and entry.lfs.sha256 != file.sha256):
            faults.append(f"{file.name} is damaged: its size or sha256 differs from the manifest's")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError(f"{source.address}: {'; '.join(faults[:5])}{more}. Nothing was downloaded.")


def _check_folder(folder: Path, listed: list[SetFile]) -> None:
    """InputError unless the folder is new, empty, or holds a stopped pull of the same files."""
    if not folder.exists():
        return
    paths = folder.iterdir() if folder.is_dir() else [folder]
    names = {path.name for path in paths if not is_part(path)} - {OWNERS}
    own = {PULLING, CARD, *(file.name for file in listed)}
    if names and (PULLING not in names or not names <= own):
        raise InputError(
            f"{folder} exists and is not an empty folder or a stopped pull of this set. Name another folder."
        )


def _download(source: _Source, listed: list[SetFile], folder: Path) -> int:
    """Downloads what is missing -> the number of files. InputError that names every damaged file, if there are any."""
    todo = [file for file in listed if not _has(folder / file.name, file)]
    size = sum(file.size for file in todo)
    need_space(size, folder, source.address, f"pull to a larger disk: fgdata pull {source.address} FOLDER")

    def one(file: SetFile) -> bool:
        path = source.fetch(file.name, folder / PULLING)
        if not _has(path, file):
            path.unlink()
            return False
        with name_file(path), path.open("rb+") as stream:
            os.fsync(stream.fileno())
        path.replace(folder / file.name)
        return True

    damaged = []
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        with Progress("Downloading", size, unit="bytes") as progress:
            for file, intact in zip(todo, pool.map(one, todo)):
                damaged += [] if intact else [file.name]
                progress.advance(file.size)
    finally:
        pool.shutdown(cancel_futures=True)
    if damaged:
        raise InputError(
            f"{source.address} is damaged: the sha256 of {', '.join(damaged[:5])} differs from the manifest's "
            f"({len(damaged):,} of {len(listed):,} files). They were removed, the others are kept. Rerun the command, "
            "or tell whoever uploaded the set."
        )
    return len(todo)


def _has(path: Path, file: SetFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with open_regular(path) as stream:
        return sha256(stream) == file.sha256


@contextmanager
def _quiet(hub: Any) -> Iterator[None]:
    """Without the library's progress bars, one for each file."""
    if hub.utils.are_progress_bars_disabled():
        yield
        return
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        hub.utils.enable_progress_bars()
