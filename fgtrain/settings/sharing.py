"""The flags of `fgtrain embed` and `fgtrain push`. A docstring under a field is its `--help`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fgdata.errors import InputError
from fgdata.files.hub import NAME, check_licence
from fgdata.files.output import check_output
from fgdata.stores.flag import Place

from .common import Switch
from .evaluations import RunOrCheckpoint


@dataclass(frozen=True)
class Embed:
    """Write the encoder's feature of every image to a Parquet file: one row per image with id, file, class, label,
    split and feature. These are the features that `fgtrain eval knn` uses: of the central square, without crops."""

    run: RunOrCheckpoint
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    source: Annotated[Positional[Place], arg(metavar="FOLDER-or-SHARDS")]
    """A shard set or its URL, or a folder of images: IMAGE, CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE."""
    out: Path = Path("features.parquet")
    """File to write; the name ends in .parquet."""
    size: int | None = None
    """Side of the images in pixels. Default: the run's view size."""
    device: str = "auto"
    """cpu, cuda, cuda:N or mps. auto: cuda if available, else cpu."""

    def __post_init__(self) -> None:
        check_output(self.out, (".parquet",), "--out")


@dataclass(frozen=True)
class Push:
    """Publish the encoder of a run as a model of the Hugging Face hub: safetensors and a config.json, from which
    timm.create_model("hf-hub:ORG/NAME", pretrained=True) builds it, a model card, and results.jsonl."""

    run: RunOrCheckpoint
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    to: Annotated[Positional[str], arg(metavar="hf://ORG/NAME")]
    """The model's address; it is created if it does not exist."""
    private: Switch = False
    """Create a private model instead of a public one. One that exists must be private."""
    licence: str | None = None
    """Licence of the weights, by the hub's name: mit, apache-2.0, cc-by-nc-4.0, ... Default: the card says that it is
    unknown. Weights that continue others' have their terms, and images may forbid some uses."""

    def __post_init__(self) -> None:
        if not re.fullmatch(f"hf://{NAME}", self.to):
            raise InputError(
                f"{self.to} is not the address of a model on the Hugging Face hub: hf://ORG/NAME, such as "
                "hf://my-lab/cvsa-cub"
            )
        check_licence(self.licence)
