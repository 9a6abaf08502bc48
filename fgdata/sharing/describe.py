"""`fgdata card`: the files that describe a shard set to others: metadata.parquet, croissant.json, README.md."""

from pathlib import Path

from ..datasets.terms import terms_of
from ..errors import InputError
from ..files.atomic import write_atomic
from ..files.hub import CARD
from ..files.lock import create_folder
from ..files.output import reason_unwritable
from ..files.regular import open_regular
from ..report.score import read_boxes
from ..shards.reader import ShardSet
from .card import dataset_card
from .croissant import CROISSANT, write_croissant
from .metadata import METADATA, write_metadata

FILES = (METADATA, CROISSANT, CARD)
MOST_CARD_BYTES = 1 << 20


def describe(folder: Path, out: Path, *, repository: str | None = None, licence: str | None = None) -> None:
    """Writes FILES to a folder.

    A README.md in the set's own folder is kept, and copied if `out` is another folder: you may edit the card.

    Args:
        folder: The folder of the set.
        out: The folder; created if needed.
        repository: ORG/NAME of the set on the Hugging Face hub, for links and commands.
        licence: By the hub's name. Default: that of the dataset, as far as fgdata knows it.

    Raises:
        InputError: The set cannot be opened, `out` cannot be written, a sample is damaged, pyarrow is missing, or the
            set's README.md describes another set.
    """
    shards = ShardSet.open(folder)
    create_folder(out, "--out")
    if why := reason_unwritable(out):
        raise InputError(f"{out} cannot be written: it {why}. Name another folder: --out FOLDER")
    card = read_card(folder, shards.manifest["digest"])
    licence = licence or terms_of(shards.manifest["dataset"]["name"]).licence
    name = repository.rpartition("/")[2] if repository else folder.resolve().name
    names = {"name": name, "licence": licence, "repository": repository}
    scored = read_boxes(shards)
    write_metadata(shards, scored, out / METADATA)
    write_croissant(shards, out / CROISSANT, **names)
    write_atomic(out / CARD, card or dataset_card(shards, scored, **names).encode())


def read_card(folder: Path, digest: str) -> bytes | None:
    """The README.md in a set's folder; None without. InputError if it does not name the set's digest."""
    path = folder / CARD
    if not path.exists():
        return None
    with open_regular(path) as file:
        data = file.read(MOST_CARD_BYTES + 1)
    if len(data) > MOST_CARD_BYTES:
        raise InputError(
            f"{path} has more than {MOST_CARD_BYTES:,} bytes, the most of a card. Shorten it and rerun the command."
        )
    if digest.encode() not in data:
        raise InputError(
            f"{path} does not name the digest of this set, {digest}: it may describe the set before "
            "a change. Correct it, or remove it to get a new one, and rerun the command."
        )
    return data
