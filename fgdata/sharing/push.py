"""`fgdata push`: a shard set as a dataset of the Hugging Face hub.

The tars, indexes and maps go first, a commit per batch. When the hub lists all of them with the right checksums, one
last commit adds manifest.json and the files of `fgdata card`. A set without a manifest is not read by anybody, so a
push that was stopped leaves no set that looks complete; the next push uploads what is missing.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.terms import terms_of
from ..errors import InputError
from ..files.hub import CARD, dataset_name, fetch_card, hub_error, import_hub
from ..files.lock import lock
from ..progress import Progress
from ..shards.check import check
from ..shards.manifest import MANIFEST, refuse_changed
from ..shards.reader import ShardSet
from .describe import FILES, describe, read_card
from .files import SetFile, is_same, list_files, list_remote

BATCH_FILES, BATCH_BYTES = 200, 4 << 30
MOST_FILES = 10_000
"""Files that the hub takes in one folder."""


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    uploaded: int
    """Files that were not on the hub before, without the manifest and what describes the set."""
    private: bool
    kept_card: bool
    """Whether README.md on the hub was kept, as the set's folder has none."""


def push(
    folder: Path, address: str, *, licence: str | None = None, public: bool = False, have_right: bool = False
) -> Pushed:
    """Uploads a shard set, or what is missing of it.

    Args:
        folder: The folder of the set; every byte of it is checked first.
        address: hf://datasets/ORG/NAME; it is created if it does not exist.
        licence: For the card, by the hub's name. Default: that of the dataset, as far as fgdata knows it.
        public: Create a public dataset instead of a private one.
        have_right: The user confirms that they may redistribute the images.

    Raises:
        InputError: The set is damaged; its source does not allow it; the address holds another set, or is public
            without `public`; or the hub refuses. After a cut connection, files that arrived are not sent again.
    """
    dataset_name(address)  # refuses another kind of address
    ShardSet.open(folder)  # a folder without a set is refused before it is locked
    hub = import_hub("fgdata push")
    with lock(folder, shared=True):  # commands that replace the set are refused until the end
        return _push(hub, folder, address, licence, public, have_right)


def _push(hub: Any, folder: Path, address: str, licence: str | None, public: bool, have_right: bool) -> Pushed:
    """`push` under the lock of the set."""
    manifest, content = ShardSet.open(folder).manifest, (folder / MANIFEST).read_bytes()
    _refuse_without_right(folder, manifest, have_right)
    listed = list_files(manifest)
    if len(listed) + 1 + len(FILES) > MOST_FILES:
        raise InputError(
            f"{folder} has {len(listed):,} files; the hub takes {MOST_FILES:,} in one folder. Rebuild the set with "
            "larger tars: --shard-samples"
        )
    read_card(folder, manifest["digest"])  # refuses a card of another set before the work
    with Progress("Checking", sum(split["samples"] for split in manifest["splits"].values())) as progress:
        _, faults = check(folder, progress.advance)
    if faults:
        raise InputError("\n".join([*faults, f"{folder} is damaged and was not uploaded. Restore these files."]))
    with tempfile.TemporaryDirectory() as temporary:
        describe(folder, Path(temporary), repository=dataset_name(address), licence=licence)
        (Path(temporary) / MANIFEST).write_bytes(content)
        about = [Path(temporary) / name for name in (*FILES, MANIFEST)]
        try:
            return _upload(hub, address, folder, manifest, about, public)
        except InputError:
            raise
        except Exception as error:  # of the network, a missing login, or the hub itself: many types
            resume = "Rerun the command: files that arrived are not sent again."
            raise hub_error(address, "written", error, resume) from error


def _upload(hub: Any, address: str, folder: Path, manifest: dict, about: Sequence[Path], public: bool) -> Pushed:
    """about: the manifest, and what describes the set. Raises InputError, or whatever the hub and the network raise."""
    api, repository = hub.HfApi(), dataset_name(address)
    api.create_repo(repository, repo_type="dataset", private=not public, exist_ok=True)
    private = bool(api.repo_info(repository, repo_type="dataset").private)
    if not private and not public:
        raise InputError(f"{address} exists and is public. Add --public to upload to it, or name another.")

    def commit(paths: Sequence[Path], message: str) -> None:
        """All files, or none."""
        adds = [hub.CommitOperationAdd(path.name, path) for path in paths]
        api.create_commit(repository, adds, commit_message=message, repo_type="dataset")

    remote = list_remote(api, repository)
    missing = _missing(folder, manifest, remote, address)
    batches = list(_batches(missing))
    for number, batch in enumerate(batches, 1):
        commit([folder / file.name for file in batch], f"Shards, {number} of {len(batches)}")
    if lost := _missing(folder, manifest, list_remote(api, repository), address):
        raise InputError(f"{address} does not list {lost[0].name} after its upload. Rerun the command.")
    kept_card = not (folder / CARD).exists() and fetch_card(api, repository, "dataset") != ""
    if kept_card:  # somebody may have written or edited it
        about = [path for path in about if path.name != CARD]
    refuse_changed(folder, manifest)
    commit(about, f"Set {manifest['digest'][:12]} by fgdata")
    return Pushed(len(missing), private, kept_card)


def _refuse_without_right(folder: Path, manifest: dict, have_right: bool) -> None:
    name = manifest["dataset"]["name"]
    terms = terms_of(name)
    if not terms.allowed and not have_right:
        raise InputError(
            f"{folder} holds images of the dataset {name}, and {terms.words}. If you may redistribute them, add "
            "--have-right"
        )


def _missing(folder: Path, manifest: dict, remote: Mapping[str, Any], address: str) -> list[SetFile]:
    """The files that the hub does not have yet. InputError if it has files of another set."""
    listed = list_files(manifest)
    content = (folder / MANIFEST).read_bytes()
    known = {file.name: file for file in listed}
    known[MANIFEST] = SetFile(MANIFEST, len(content), hashlib.sha256(content).hexdigest())
    for name, entry in remote.items():
        other = name.endswith((".tar", ".idx", ".h5")) and name not in known
        if other or (name in known and not is_same(entry, folder / name, known[name].sha256)):
            raise InputError(
                f"{address} holds {name} of another set than {folder} (digest {manifest['digest'][:12]}). Name "
                "another address, or delete that dataset on the hub."
            )
    return [file for file in listed if file.name not in remote]


def _batches(files: Sequence[SetFile]) -> Iterator[list[SetFile]]:
    batch: list[SetFile] = []
    for file in files:
        if batch and (len(batch) == BATCH_FILES or sum(one.size for one in batch) + file.size > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch
