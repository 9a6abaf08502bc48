"""Encoders on disk: load one from a checkpoint, export one for other libraries."""

import json
import shutil
from pathlib import Path
from shlex import quote
from typing import Any, get_args, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from fgdata.errors import InputError, counted, printable
from fgdata.files.output import check_output

from ..printing import say
from ..runs.checkpoint import Checkpoint
from ..runs.files import parse_json, raise_system_error, read_json, read_through, whole, write_json
from ..runs.state import checksum
from ..settings.common import NARROWEST, WIDEST, Model, need
from ..settings.evaluations import Export
from .encoder import Encoder
from .portable import write_onnx
from .resnet import BLOCKS

OTHER = "Name an earlier checkpoint of the run: a folder under its checkpoints/."


def load_encoder(checkpoint: Checkpoint) -> Encoder:
    """Loads the encoder of a checkpoint, on the CPU and in training mode.

    InputError when the file is damaged, or its tensors do not match the network in its metadata. Nothing is allocated
    for a network that the file does not contain.

        encoder = load_encoder(Checkpoint.find(Path("runs/cvsa"))).eval()
    """
    file, model = checkpoint.file, checkpoint.model
    expected = {k: tuple(v.shape) for k, v in sketch(checkpoint).state_dict().items()}
    try:
        read_through(file)
        with safe_open(file, "pt") as opened:
            shapes = {k: tuple(opened.get_slice(k).get_shape()) for k in opened.keys()}  # noqa: SIM118
        if different := sorted(k for k in expected.keys() | shapes.keys() if expected.get(k) != shapes.get(k)):
            raise InputError(
                f"{file} does not contain the network in its metadata, a {model.backbone} of width {model.width} with "
                f"the {model.stem} stem: {counted(len(different), 'tensor')} differ, such as "
                f"{printable(different[0])[:100]}. {OTHER}"
            )
        weights = load_file(file)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise_system_error(str(file), error)
        raise InputError(f"{file} cannot be read: {error}. {OTHER}") from error
    if checkpoint.crc32 not in (None, checksum(weights)):
        raise InputError(f"{file} is damaged: its weights do not match the checksum in its metadata. {OTHER}")
    encoder = Encoder(model)
    encoder.load_state_dict(weights)
    if checkpoint.normalisation is not None:
        encoder.mean, encoder.std = checkpoint.normalisation
    return encoder


def sketch(checkpoint: Checkpoint) -> Encoder:
    """The network in the metadata of a checkpoint, on the meta device. InputError when it cannot be built."""
    file, model = checkpoint.file, checkpoint.model
    stems = get_args(get_type_hints(Model)["stem"])
    sizes = NARROWEST <= model.width <= WIDEST and 0 <= model.attend <= WIDEST and 0 <= model.parts <= WIDEST
    if model.stem not in stems or not sizes or not 0 <= model.drop_path < 1:
        raise InputError(
            f"{file} states a {printable(model.backbone)} of width {model.width} with the {printable(model.stem)} "
            f"stem, drop path {model.drop_path}, {model.attend} filters of attention and {model.parts} parts in its "
            f"metadata; allowed: width {NARROWEST} to {WIDEST:,}, stem {' or '.join(stems)}, drop path 0 to below 1, "
            f"0 to {WIDEST:,} filters or parts. It is damaged, or from another version of fgtrain. {OTHER}"
        )
    try:
        with torch.device("meta"):
            return Encoder(model)
    except InputError as error:
        raise InputError(
            f"{file} states a network in its metadata that cannot be built: {error} It is damaged, or from another "
            f"version of fgtrain or timm. {OTHER}"
        ) from error


def run_export(flags: Export) -> None:
    """Copies the encoder of a run to a file and prints how to load it in other libraries.

    InputError when the checkpoint is damaged or the file cannot be written.
    """
    checkpoint, file = Checkpoint.find(flags.run), flags.file
    check_output(file, (".safetensors", ".onnx"), "FILE", [checkpoint.file])
    onnx = file.suffix.lower() == ".onnx"
    need(onnx or flags.size is None, "size", flags.size, "only for a FILE that ends in .onnx")
    inside = any(p.name == "checkpoints" and (p.parent / "config.json").is_file() for p in file.resolve().parents)
    if inside or file.with_name("state.pt").exists():
        raise InputError(f"{file} is inside the checkpoints of a run. Choose another folder for FILE.")
    if onnx:
        say(*write_onnx(load_encoder(checkpoint), checkpoint.size if flags.size is None else flags.size, file))
        return
    config = file.with_name("config.json")
    if config.exists() and "architecture" not in read_json(config):
        raise InputError(
            f"{config} exists and is not a timm config, which export writes there. Choose another folder for FILE."
        )
    write_weights(checkpoint, file)
    plain = is_standard(checkpoint.model)
    name, at = checkpoint.model.backbone, quote(str(file))
    lines = [f"{file}: {name}, width {checkpoint.model.width}, {checkpoint.model.stem} stem, step {checkpoint.step:,}."]
    if plain:
        lines += [
            f"weights = safetensors.torch.load_file({str(file)!r})",
            f"timm.create_model({name!r}, num_classes=0).load_state_dict(weights)",
        ]
        if file.name == "model.safetensors":
            lines.append(f"timm.create_model({f'local-dir:{file.parent}'!r}, pretrained=True)  # reads {config.name}")
        if name in BLOCKS:
            lines.append(f"torchvision.models.{name}().load_state_dict(weights, strict=False)  # fc stays random")
    else:
        lines.append(
            "The names are torchvision's; the shapes are not those of its standard network, so other libraries cannot "
            "load it. In Python, with fgtrain installed:"
        )
    lines.append(f"import fgtrain.networks; encoder = fgtrain.networks.load({str(file)!r})")
    lines.append("encoder(images).pooled  # images normalised by encoder.mean and encoder.std")
    if checkpoint.model.attend or checkpoint.model.parts:
        lines.append(
            f"{'The prototypes of parts are' if checkpoint.model.parts else 'The attention branch is'} left out: the "
            "file's feature is the network's own, not the one that evaluations of the run use."
        )
    shape = "" if plain else f" --model.width {checkpoint.model.width} --model.stem {checkpoint.model.stem}"
    lines.append(f"fgtrain run byol --init {at} --model.backbone {name}{shape}  # or eval knn --weights")
    say(*lines)


def is_standard(model: Model) -> bool:
    """Whether timm has the network under its name."""
    return (model.width, model.stem) == (64, "imagenet")


def write_weights(checkpoint: Checkpoint, file: Path, settings: bool = True) -> Encoder:
    """Writes the weights without attention branch or parts, and for a network of timm a config.json beside them -> the
    encoder without them.

    settings: keep the settings of the run, which name files of this machine, in the metadata. InputError when the
    checkpoint is damaged or a file cannot be written.
    """
    encoder = load_encoder(checkpoint)
    branch = encoder.attend or encoder.parts
    encoder.attend = encoder.parts = None  # other libraries refuse unknown names
    expected = checksum(dict(encoder.state_dict()))
    with whole(file) as part:
        if branch is None and settings:
            shutil.copyfile(checkpoint.file, part)
        else:
            part.write_bytes(rewritten(checkpoint.file, encoder, expected, settings))
        if checksum(load_file(part)) != expected:
            raise InputError(
                f"{file} was written, but reading it back gives other weights. Check the disk, or choose another "
                "folder for FILE."
            )
    if is_standard(checkpoint.model):
        write_json(file.with_name("config.json"), timm_config(encoder))
    return encoder


def rewritten(file: Path, encoder: Encoder, crc32: int, settings: bool) -> bytes:
    """The weights of an encoder as safetensors, with the metadata of `file` but without attention branch or parts, and
    perhaps without settings."""
    with safe_open(file, "pt") as opened:
        about = parse_json(opened.metadata()["fgtrain"])
    left_out = ("attend", "parts") if settings else ("attend", "parts", "settings")
    about = {k: v for k, v in about.items() if k not in left_out} | {"crc32": crc32}
    return save(dict(encoder.state_dict()), metadata={"fgtrain": json.dumps(about, sort_keys=True)})


def load(file: str | Path) -> Encoder:
    """The encoder of a run, a checkpoint folder or an exported file, on the CPU and in evaluation mode.

    InputError when there is none, or it is damaged.

        features = load("cvsa.safetensors")(images)  # (B, 3, S, S) -> Features
    """
    return load_encoder(Checkpoint.find(Path(file))).eval()


def timm_config(encoder: Encoder) -> dict[str, Any]:
    """What timm reads beside a file of weights: the architecture, without a classifier, and its input."""
    own: Any = encoder.network.pretrained_cfg
    size = list(own.get("input_size", (3, 224, 224)))
    return {
        "architecture": encoder.model.backbone.partition(".")[0],
        "num_classes": 0,
        "num_features": encoder.dim,
        "pretrained_cfg": {
            "input_size": size,
            "fixed_input_size": bool(own.get("fixed_input_size", False)),
            "interpolation": "bilinear",
            "crop_pct": 0.875,
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "num_classes": 0,
            "first_conv": own.get("first_conv", "conv1"),
            "classifier": own.get("classifier", "fc"),
        },
    }
