"""A look at one node of a Ray cluster before a build: the same program, the folder of the set, the dataset and the
detectors."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, describe
from ..saliency import own_settings
from . import plan
from .cluster_server import NOTHING, Shared, use_servers

SECONDS = 300.0
"""How long a node may take, which includes the start of a worker."""


def look(
    job: Any,
    token: str,
    folder: str,
    expected: dict[str, str],
    detectors: Mapping[str, dict],
    shared: Shared = NOTHING,
) -> str | None:
    """Runs on the node -> what is wrong with it; None if it can build.

    job: one of the build, with the records to read. token: a file that the caller has created in the folder of the
    set. folder: the caller's working folder. expected: what `versions` returned there. detectors: name -> what
    `own_settings` returned there. shared: those of them that processes of the node run.
    """
    from .worker import prepare_libraries

    try:
        os.chdir(folder)
    except OSError as fault:
        return f"the working folder {folder} cannot be opened: {describe(fault)}. All machines must share it"
    found = versions()
    if differs := [
        f"{name} {found.get(name)}, here {value}" for name, value in expected.items() if found[name] != value
    ]:
        return f"other versions than on this machine: {', '.join(differs)}. Install the same"
    if not Path(token).is_file():
        return f"the folder of the set, {job.folder}, is not the one of this machine. All machines must share it"
    mine = Path(token).with_name(f"look.{secrets.token_hex(4)}.part")
    try:
        mine.touch()
        mine.unlink()
    except OSError as fault:
        return f"no file can be written to {job.folder}: {describe(fault)}"
    prepare_libraries()
    for record in job.records:
        try:
            job.recipe.load(record)
        except (InputError, OSError) as fault:
            reason = describe(fault) if isinstance(fault, OSError) else fault
            return (
                f"the image {record.file} cannot be read: {reason}. All machines must see the dataset at the same path"
            )
    try:
        use_servers(shared)
        found_settings = {name: own_settings(name) for name in detectors}
    except InputError as fault:
        return f"{fault}\nAll machines must see the files of a detector at the same path"
    for name, settings in detectors.items():
        if (own := found_settings[name]) != settings:
            differs = [f"{key} {own.get(key)}, here {here}" for key, here in settings.items() if own.get(key) != here]
            return f"{name} is not the one of this machine: {', '.join(differs)}. All machines need the same file"
    return None


def versions() -> dict[str, str]:
    """-> the versions that affect the bytes of a set."""
    return plan.versions()
