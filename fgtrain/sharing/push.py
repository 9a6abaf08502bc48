"""`fgtrain push`: the encoder of a run as a model of the Hugging Face hub, from which timm loads it.

model.safetensors  the weights, with timm's names
config.json        from which timm builds the network
README.md          the model card
results.jsonl      every evaluation of the run, if there is one
settings.json      the settings of the run, if they are known
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from fgdata.errors import InputError, counted
from fgdata.files.hub import hub_error, import_hub

from ..evaluate.records import read_records
from ..networks.saved import is_standard, write_weights
from ..printing import say
from ..runs.checkpoint import Checkpoint
from ..settings.file import relevant
from ..settings.sharing import Push
from .card import model_card


def run_push(flags: Push) -> str:
    """Runs `fgtrain push` and returns the address of the model.

    InputError when the checkpoint is damaged, timm has no such network, huggingface_hub is missing, or the hub refuses.
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
            lines = [line.values for line in read_records(checkpoint.run.path / "results.jsonl")]
            results = [shortened(line) for line in lines if line.get("step") == checkpoint.step]
        if results:
            (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
        if settings:
            (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")
        card = model_card(name, checkpoint, encoder, settings, results, flags.licence)
        (folder / "README.md").write_text(card, "utf-8")
        try:
            api = hub.HfApi()
            api.create_repo(name, private=flags.private or None, exist_ok=True)
            adds = [hub.CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())]
            api.create_commit(name, adds, commit_message=f"Step {checkpoint.step:,} by fgtrain")  # all files or none
        except Exception as error:  # of the network, a missing login, or the hub itself: many types
            raise hub_error(flags.to, "written", error) from error
    say(f"{flags.to}: {checkpoint.file}, {counted(len(results), 'result')}")
    say(f"timm.create_model('hf-hub:{name}', pretrained=True)")
    return flags.to


def shortened(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with absolute paths cut to their last part, also in lists."""

    def short(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [short(each) for each in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {key: short(value) for key, value in values.items()}
