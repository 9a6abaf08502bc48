"""Encoders on disk: load one from a checkpoint, export one for other libraries."""

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
    """Loads the encoder of a checkpoint, on the CPU and in training mode.

    InputError when the file is damaged, or its tensors do not match the network in its metadata.

        encoder = load_encoder(Checkpoint.find(Path("runs/cvsa"))).eval()
    """
    encoder, weights = Encoder(checkpoint.model), load_file(checkpoint.file)
    if checkpoint.crc32 not in (None, checksum(weights)):
        raise InputError(
            f"{checkpoint.file} is damaged: its weights do not match the checksum in its metadata. Name an earlier "
            "checkpoint of the run: a folder under its checkpoints/."
        )
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{checkpoint.file} does not hold the network in its metadata: {error}") from error
    return encoder


def run_export(flags: Export) -> None:
    """Copies the encoder of a run to a file and prints how to load it in other libraries.

    InputError when the checkpoint is damaged or the file cannot be written.
    """
    checkpoint, file = Checkpoint.find(flags.run), flags.file
    if file.suffix != ".safetensors":
        raise InputError(f"{file} does not end in .safetensors, the format that export writes. Name FILE accordingly.")
    if any(p.name == "checkpoints" and (p.parent / "config.json").is_file() for p in file.resolve().parents):
        raise InputError(f"{file} is inside the checkpoints of a run. Choose another folder for FILE.")
    load_encoder(checkpoint)  # raises if the checkpoint is damaged
    with whole(file) as part:
        shutil.copyfile(checkpoint.file, part)
    name = checkpoint.model.backbone
    say(
        f"{file}: {name}, width {checkpoint.model.width}, {checkpoint.model.stem} stem, step {checkpoint.step:,}.\n"
        f"weights = safetensors.torch.load_file({str(file)!r})\n"
        f"timm.create_model({name!r}, num_classes=0).load_state_dict(weights)\n"
        f"torchvision.models.{name}().load_state_dict(weights, strict=False)  # fc stays random"
        if (checkpoint.model.width, checkpoint.model.stem) == (64, "imagenet")
        else f"{file}: {name} of width {checkpoint.model.width} with the {checkpoint.model.stem} stem. "
        "The names are torchvision's; the shapes are not those of its standard network."
    )
