"""The settings of the bases that other methods build on. A docstring under a field is its `--help`."""

from dataclasses import dataclass
from typing import Any, Literal

from .common import MOST, MOST_CHANNELS, need, need_between, need_temperature

MOST_ROWS = 1 << 40
"""Most rows of a queue or bank that are considered; the machine's memory is the real limit."""
HEAVIEST = 1e6
"""Largest weight of a loss, and largest standard deviation of noise."""


def need_widths(prefix: str, settings: Any, *names: str) -> None:
    """InputError unless these settings are widths of a layer."""
    for name in names:
        need_between(1, getattr(settings, name), MOST_CHANNELS, f"{prefix}.{name}")


def need_auto(value: str | int, most: int, flag: str) -> None:
    """InputError unless `value` is auto or a number from 1 to `most`."""
    need(value == "auto" or (isinstance(value, int) and 1 <= value <= most), flag, value, f"auto, or 1 to {most:,}")


@dataclass(frozen=True)
class SimsiamSettings:
    """SimSiam (Chen & He 2021)."""

    hidden: Literal["auto"] | int = "auto"
    """Width of the projector's two hidden layers. auto: that of the encoder's features, as in the authors' code: 2048
    for a ResNet-50, 512 for a ResNet-18."""
    dim: int = 2048
    """Output dimension of the projector."""
    bottleneck: int = 512
    """Hidden width of the predictor."""

    def __post_init__(self) -> None:
        need_auto(self.hidden, MOST_CHANNELS, "simsiam.hidden")
        need_widths("simsiam", self, "dim", "bottleneck")


@dataclass(frozen=True)
class SimclrSettings:
    """SimCLR (Chen et al. 2020)."""

    hidden: int = 2048
    """Hidden width of the projector."""
    dim: int = 128
    """Output dimension of the projector."""
    tau: float = 0.1
    """Temperature of NT-Xent."""

    def __post_init__(self) -> None:
        need_widths("simclr", self, "hidden", "dim")
        need_temperature(self.tau, "simclr.tau")


@dataclass(frozen=True)
class ByolSettings:
    """BYOL (Grill et al. 2020)."""

    hidden: int = 4096
    """Hidden width of projector and predictor."""
    dim: int = 256
    """Output dimension of the projector."""
    ema: float = 0.996
    """Initial momentum of the target network; it rises to 1 on a cosine schedule."""

    def __post_init__(self) -> None:
        need_widths("byol", self, "hidden", "dim")
        need_between(0, self.ema, 1, "byol.ema")


@dataclass(frozen=True)
class MocoSettings:
    """MoCo v2 (Chen et al. 2020)."""

    dim: int = 128
    """Output dimension of the projector."""
    norm: bool = False
    """Batch norm in the head's hidden layer, as in MoCo v3. Without it all projections of a small network can stay
    equal for many epochs."""
    tau: float = 0.2
    """Temperature of InfoNCE."""
    queue: Literal["auto"] | int = "auto"
    """Number of negatives. auto: the largest power of two up to the number of training images, with which 12 to 50 % of
    the images are among their own negatives, or 3 to 12 % where a batch adds two keys of each image, as with
    --moco.symmetric and in CVSA; the paper uses 65536."""
    ema: float = 0.999
    """Momentum of the key network."""
    norm_splits: Literal["auto"] | int = "auto"
    """Number of parts into which batch norm splits a batch, so that a query and its key share no statistics, as on the
    authors' 8 GPUs. auto: 8 in one process, or fewer so that each part has at least 16 samples; 1 with several
    processes, since each of them computes its own part. 1: the whole batch."""
    symmetric: bool = False
    """Use each view once as query and once as key, as CVSA always does."""
    targets: Literal["identity", "sinkhorn"] = "identity"
    """Which keys are positives. identity: the key of the same image. sinkhorn: every key of the batch, weighted by a
    soft assignment of the keys to one another, so that similar images are not pushed apart (ours, after ReSA and
    CLUE); the other keys of the batch are then also negatives."""
    targets_eps: float = 0.05
    """sinkhorn: temperature of the assignment; towards 0 each key is assigned to itself alone."""

    def __post_init__(self) -> None:
        need_widths("moco", self, "dim")
        need_temperature(self.tau, "moco.tau")
        need_auto(self.norm_splits, MOST, "moco.norm-splits")
        need_auto(self.queue, MOST_ROWS, "moco.queue")
        need_between(0, self.ema, 1, "moco.ema")
        need_temperature(self.targets_eps, "moco.targets-eps")

    def need_queue(self, batch_size: int) -> None:
        """InputError if the queue is smaller than a batch."""
        allowed = f"auto, or at least --data.batch-size {batch_size}, so that a batch fits into the queue"
        need(self.queue == "auto" or self.queue >= batch_size, "moco.queue", self.queue, allowed)


LCR_MOCO = MocoSettings(dim=256, queue=65536)
"""MoCo v2 in LCR's code, which the synthesized-pair paper follows: a wider head than in MoCo v2's own."""
