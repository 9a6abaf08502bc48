"""card, push, pull"""

import shlex
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import counted
from ..stores.place import need_local, need_path
from .common import Folder, print_next, total_of


def card(shards: Folder, out: Path | None = None, to: str | None = None, licence: str | None = None) -> int:
    """Write the files that describe a shard set for other people: README.md, croissant.json and metadata.parquet.

    README.md is a dataset card for the Hugging Face hub; edit it as you like, it is not overwritten. croissant.json
    describes the set to other programs (MLCommons Croissant 1.0). metadata.parquet has a row for each image: key, id,
    class, split, tar, boxes, scores. Needs pyarrow. `fgdata push` makes these files by itself.

    Args:
        shards: The folder of the shard set.
        out: The folder to write to. Default: the shard set's folder.
        to: Where the set will be, for links and commands: hf://datasets/ORG/NAME. Default: the card says FOLDER.
        licence: Licence of the set, by the hub's name: cc-by-4.0, mit, ... Default: what fgdata knows of the dataset.
    """
    from ..files.hub import check_licence, dataset_name
    from ..sharing.describe import FILES, describe

    repository = dataset_name(to) if to is not None else None
    source = need_local(shards, "fgdata card")
    folder = need_path(out, "--out") if out else source
    describe(source, folder, repository=repository, licence=check_licence(licence))
    print(f"{folder}: wrote {', '.join(FILES)}")
    return 0


def push(
    shards: Folder,
    to: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="hf://datasets/ORG/NAME")],
    licence: str | None = None,
    public: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    have_right: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Upload a shard set to the Hugging Face hub, with a dataset card, croissant.json and metadata.parquet.

    Every byte of the set is checked first. The manifest is uploaded last, so a stopped upload does not look complete;
    rerun the command to resume. Needs huggingface_hub, pyarrow and a token (hf auth login).

    Args:
        shards: The folder of the shard set. Its README.md, if it has one, becomes the card.
        to: The address of the dataset; it is created if it does not exist, private without --public.
        licence: Licence of the set, by the hub's name: cc-by-4.0, mit, ... Default: what fgdata knows of the dataset.
        public: Create a public dataset, or upload to one that is public.
        have_right: Confirm that you may redistribute these images. Needed for every dataset whose publisher does not
            allow it to everybody, and for your own images.
    """
    from ..files.hub import check_licence
    from ..sharing.push import push as push_set

    done = push_set(
        need_local(shards, "fgdata push"), to, licence=check_licence(licence), public=public, have_right=have_right
    )
    state = "private" if done.private else "public"
    print(f"{to} ({state}): uploaded {counted(done.uploaded, 'file')}; the hub has every file of the manifest.")
    if done.kept_card:
        folder = shlex.quote(str(shards))
        print(f"README.md of {to} is kept. To replace it, push again after: fgdata card {folder} --to {to}")
    print(f"Get it: fgdata pull {to} FOLDER")
    return 0


def pull(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="hf://datasets/ORG/NAME")],
    shards: Folder,
) -> int:
    """Download a shard set from the Hugging Face hub, and compare every file with the manifest's sha256.

    The manifest is written last, so a stopped download does not look complete; rerun the command to resume. Needs
    huggingface_hub, and for a private dataset a token (hf auth login).

    Args:
        source: The address of the dataset.
        shards: The folder of the shard set: a new one, an empty one, or one in which a pull was stopped.
    """
    from ..sharing.pull import pull as pull_set

    folder = need_path(shards, "fgdata pull SOURCE")
    done = pull_set(source, folder)
    if done.was_complete:
        print(f"{shards} is already complete: {total_of(done.manifest)}. Nothing to do.")
        return 0
    print(f"{shards}: {total_of(done.manifest)}; downloaded {counted(done.downloaded, 'file')}; every sha256 matches.")
    print_next(shards, done.manifest)
    return 0
