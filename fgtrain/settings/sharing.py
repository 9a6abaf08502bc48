"""The flags of the commands that give results to other programs: `fgtrain embed`. A docstring under a field is its
`--help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fgdata.files.output import check_output

from .evaluations import RunOrCheckpoint


@dataclass(frozen=True)
class Embed:
    """Write the encoder's feature of every image to a Parquet file: one row per image with id, file, class, label,
    split and feature. These are the features that `fgtrain eval knn` uses: of the central square, without crops."""

    run: RunOrCheckpoint
    """Run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
    source: Annotated[Positional[Path], arg(metavar="FOLDER-or-SHARDS")]
    """A shard set, or a folder of images: IMAGE, CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE."""
    out: Path = Path("features.parquet")
    """File to write; the name ends in .parquet."""
    size: int | None = None
    """Side of the images in pixels. Default: the run's view size."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda if available, else cpu."""

    def __post_init__(self) -> None:
        check_output(self.out, (".parquet",), "--out")
