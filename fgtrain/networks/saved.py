"""Encoders on disk: loaded from a checkpoint, exported for other libraries."""

import shutil

from safetensors.torch import load_file

from fgdata.errors import InputError

from ..printing import say
from ..runs.checkpoint import Checkpoint
from ..runs.files import whole
from ..runs.state import checksum
from ..settings.evaluations import Export
from .encoder import Encoder


def load_encoder(checkpoint: Checkpoint) -> Encoder:
    """The encoder of a checkpoint. InputError when its file is damaged or holds another network than it states."""
    encoder, weights = Encoder(checkpoint.model), load_file(checkpoint.file)
    if checkpoint.crc32 not in (None, checksum(weights)):
        raise InputError(
            f"{checkpoint.file} is damaged: its weights have another checksum than it states. Name an earlier "
            "checkpoint of the run, a folder under its checkpoints/."
        )
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{checkpoint.file} does not hold the network that its metadata names: {error}") from error
    return encoder


def run_export(flags: Export) -> None:
    """Copies an encoder to a file, and prints how other libraries load it."""
    found, file = Checkpoint.find(flags.run), flags.file
    if file.suffix != ".safetensors":
        raise InputError(f"{file}: the file is written as safetensors; let its name end in .safetensors.")
    if any(p.name == "checkpoints" and (p.parent / "config.json").is_file() for p in file.resolve().parents):
        raise InputError(f"{file} would lie among the checkpoints of a run; name another place.")
    load_encoder(found)  # a damaged one goes no further
    with whole(file) as part:
        shutil.copyfile(found.file, part)
    name = found.model.backbone
    say(
        f"{file}: {name}, width {found.model.width}, {found.model.stem} stem, step {found.step:,}.\n"
        f"weights = safetensors.torch.load_file({str(file)!r})\n"
        f"timm.create_model({name!r}, num_classes=0).load_state_dict(weights)\n"
        f"torchvision.models.{name}().load_state_dict(weights, strict=False)  # fc stays random"
        if (found.model.width, found.model.stem) == (64, "imagenet")
        else f"{file}: {name} of width {found.model.width} with the {found.model.stem} stem; torchvision's names, "
        "but not its standard shapes."
    )
