"""Weights that --init names by their project: torchvision's ImageNet weights, timm's, and those of a hub."""

from pathlib import Path
from shlex import quote
from typing import Any

import torch

from fgdata.errors import InputError
from fgdata.files.hub import hub_file, reading_hub

from .weights import Table, WeightsFile, read

VERSIONS = {"imagenet": "IMAGENET1K_V1", "imagenet-v2": "IMAGENET1K_V2"}


def find(init: str, backbone: str) -> WeightsFile:
    """What --init names. InputError when it cannot be read or downloaded."""
    if init in VERSIONS:
        return _imagenet(init, backbone)
    if init.startswith(("timm:", "hf-hub:")):
        return _timm(init, backbone)
    return read(Path(init))


def imagenet_weights(backbone: str, init: str = "imagenet") -> Any:
    """torchvision's entry for the ImageNet weights of a backbone, with their URL. InputError when it has none."""
    from torchvision.models import get_model_weights

    try:
        entries: Any = get_model_weights(backbone)
    except ValueError as error:
        raise InputError(
            f"--init {init}: torchvision has no {backbone}. Use timm's weights: --init timm:{backbone}"
        ) from error
    if VERSIONS[init] not in entries.__members__:
        raise InputError(
            f"--init {init}: torchvision has no {VERSIONS[init]} weights for {backbone}; allowed: "
            f"{', '.join(name for name, version in VERSIONS.items() if version in entries.__members__)}."
        )
    return entries[VERSIONS[init]]


def _imagenet(init: str, backbone: str) -> WeightsFile:
    """torchvision's weights; downloaded once. IMAGENET1K_V1 is the usual start in this field's papers."""
    weights = imagenet_weights(backbone, init)
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    published = file.stem.rpartition("-")[2]  # the first digits of the file's sha256
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(file), published, progress=False)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"--init {init}: {weights.url} could not be loaded ({error}). If this machine has no network, copy "
                f"that file to {quote(str(file.parent))}, or name a local copy: --init FILE"
            ) from error
    source = read(file)
    if not source.sha256.startswith(published):
        raise InputError(
            f"--init {init}: {file} is damaged: its sha256 begins with {source.sha256[:8]}, and {published} was "
            f"published. Remove it to download it again:\n  rm {quote(str(file))}"
        )
    views = weights.transforms()
    return source._replace(normalisation=(tuple(views.mean), tuple(views.std)))


def _timm(init: str, backbone: str) -> WeightsFile:
    """The weights that timm loads for a name, or for ORG/NAME of the Hugging Face hub; it keeps them in its cache."""
    import timm

    kind, _, name = init.partition(":")
    name = name or backbone
    if kind == "timm" and not timm.is_model(name.partition(".")[0]):
        raise InputError(
            f"--init {init}: timm {timm.__version__} has no {name}. Allowed: timm:NAME, such as timm:{backbone}"
        )
    address = _address(init, name) if kind == "timm" else hub_file(name)
    with reading_hub() as unreachable:
        try:
            network: Any = timm.create_model(name if kind == "timm" else init, pretrained=True, num_classes=0)
        except Exception as error:  # of urllib, the hub, safetensors and timm
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            reason = f"{unreachable}, and it is not in the cache" if unreachable else reason
            raise InputError(
                f"--init {init}: {address} could not be loaded ({reason}). If this machine has no network, download "
                "that file on another one, copy it here, and name it: --init FILE"
            ) from error
    config = network.pretrained_cfg
    normalisation = tuple(config["mean"]), tuple(config["std"])
    return WeightsFile(Path(init), "", [Table("", dict(network.state_dict()))], normalisation)


def _address(init: str, name: str) -> str:
    """The file of timm's weights. InputError if it has none of this name."""
    from timm.models import get_pretrained_cfg

    try:
        config: Any = get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        config = None
    if config is None or not config.has_weights:
        raise InputError(
            f"--init {init}: timm has no weights of this name. Names with weights: "
            f"python -c \"import timm; print(*timm.list_pretrained('{name.partition('.')[0]}*'))\""
        )
    return hub_file(config.hf_hub_id) if config.hf_hub_id else config.url or config.file
