"""`fgtrain push`: the encoder of a run as a model of the Hugging Face hub, from which timm loads it.

model.safetensors  the weights, with timm's names
config.json        from which timm builds the network
README.md          the model card
results.jsonl      every evaluation of the run, if there is one
settings.json      the settings of the run, if they are known

An earlier push is replaced as a whole, but a README.md that somebody wrote or edited is kept.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from fgdata.errors import InputError, counted
from fgdata.files.hub import CARD, fetch_card, hub_error, import_hub, is_edited, sign_card

from ..evaluate.records import read_records
from ..networks.saved import is_standard, write_weights
from ..printing import say
from ..runs.checkpoint import Checkpoint
from ..settings.file import relevant
from ..settings.sharing import Push
from .card import model_card

RESULTS, SETTINGS = "results.jsonl", "settings.json"


def run_push(flags: Push) -> str:
    """Runs `fgtrain push` and returns the address of the model.

    InputError when the checkpoint is damaged, timm has no such network, huggingface_hub is missing, the hub refuses, or
    the model exists and is public although a private one is asked for.
    """
    hub, name = import_hub("fgtrain push"), flags.to.removeprefix("hf://")
    checkpoint = Checkpoint.find(flags.run)
    if not is_standard(checkpoint.model):
        raise InputError(
            f"{checkpoint.file} is a {checkpoint.model.backbone} of width {checkpoint.model.width} with the "
            f"{checkpoint.model.stem} stem, which timm does not have, so nobody could load it from the hub. Share "
            "the file instead: fgtrain export RUN encoder.safetensors"
        )
    config = checkpoint.config()
    settings = {} if config is None else shortened({"method": config.method, **relevant(config)})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        encoder = write_weights(checkpoint, folder / "model.safetensors", settings=False)
        results: list[dict[str, Any]] = []
        if checkpoint.run is not None:
            lines = [line.values for line in read_records(checkpoint.run.path / RESULTS)]
            results = [shortened(line) for line in lines if line.get("step") == checkpoint.step]
        if results:
            (folder / RESULTS).write_text("".join(json.dumps(line) + "\n" for line in results))
        if settings:
            (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
        card = model_card(name, checkpoint, encoder, settings, results, flags.licence)
        (folder / CARD).write_text(sign_card(card), "utf-8")
        try:
            keeps_card = _upload(hub, flags, folder, f"Step {checkpoint.step:,} by fgtrain")
        except InputError:
            raise
        except Exception as error:  # of the network, a missing login, or the hub itself: many types
            raise hub_error(flags.to, "written", error) from error
    if keeps_card:
        say(
            f"{flags.to} has a {CARD} that this version of fgtrain did not write, or that was edited: it is kept. For "
            f"the card of this push, delete {CARD} there and rerun the command."
        )
    say(f"{flags.to}: {checkpoint.file}, {counted(len(results), 'result')}")
    say(f"timm.create_model('hf-hub:{name}', pretrained=True)")
    return flags.to


def _upload(hub: Any, flags: Push, folder: Path, message: str) -> bool:
    """Commits the files of a folder, and removes those of an earlier push -> whether the model's own card was kept.

    InputError, before anything is written, if the model is public although a private one is asked for. Raises whatever
    the hub and the network raise.
    """
    api, name = hub.HfApi(), flags.to.removeprefix("hf://")
    api.create_repo(name, private=flags.private or None, exist_ok=True)
    if flags.private and not api.repo_info(name).private:
        raise InputError(
            f"{flags.to} exists and is public, and --private is given. Omit --private to publish, make the model "
            "private in its settings on the hub, or name another."
        )
    card = fetch_card(api, name, "model")
    keeps_card = card != "" and is_edited(card)
    new = sorted(file for file in folder.iterdir() if not (keeps_card and file.name == CARD))
    old = {RESULTS, SETTINGS} & {*api.list_repo_files(name)} - {file.name for file in new}
    changes = [hub.CommitOperationAdd(file.name, file) for file in new]
    changes += [hub.CommitOperationDelete(file) for file in sorted(old)]
    api.create_commit(name, changes, commit_message=message)  # all changes or none
    return keeps_card


def shortened(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with absolute paths cut to their last part, also in lists."""

    def short(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [short(each) for each in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {key: short(value) for key, value in values.items()}
