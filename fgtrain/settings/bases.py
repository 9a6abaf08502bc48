"""The settings of the bases that other methods build on. A docstring under a field is its `--help`."""

from dataclasses import dataclass
from typing import Any, Literal

from .common import need


def need_widths(prefix: str, settings: Any, *names: str) -> None:
    """InputError unless these settings are 1 or more."""
    for name in names:
        value = getattr(settings, name)
        need(value >= 1, f"{prefix}.{name}", value, "1 or more")


@dataclass(frozen=True)
class SimsiamSettings:
    """SimSiam (Chen & He 2021)."""

    hidden: Literal["auto"] | int = "auto"
    """Width of the projector's two hidden layers. auto: that of the encoder's features, as in the authors' code: 2048
    for a ResNet-50, 512 for a ResNet-18."""
    dim: int = 2048
    """Width of the projection."""
    bottleneck: int = 512
    """Hidden width of the predictor."""

    def __post_init__(self) -> None:
        need(self.hidden == "auto" or self.hidden >= 1, "simsiam.hidden", self.hidden, "auto, or 1 or more")
        need_widths("simsiam", self, "dim", "bottleneck")


@dataclass(frozen=True)
class SimclrSettings:
    """SimCLR (Chen et al. 2020)."""

    hidden: int = 2048
    """Hidden width of the projector."""
    dim: int = 128
    """Width of the projection."""
    tau: float = 0.1
    """Temperature of NT-Xent."""

    def __post_init__(self) -> None:
        need_widths("simclr", self, "hidden", "dim")
        need(self.tau > 0, "simclr.tau", self.tau, "above 0")


@dataclass(frozen=True)
class ByolSettings:
    """BYOL (Grill et al. 2020)."""

    hidden: int = 4096
    """Hidden width of projector and predictor."""
    dim: int = 256
    """Width of the projection."""
    ema: float = 0.996
    """Initial momentum of the target network; it rises to 1 along half a cosine."""

    def __post_init__(self) -> None:
        need_widths("byol", self, "hidden", "dim")
        need(0 <= self.ema <= 1, "byol.ema", self.ema, "0 to 1")


@dataclass(frozen=True)
class MocoSettings:
    """MoCo v2 (Chen et al. 2020)."""

    dim: int = 128
    """Width of the projection."""
    norm: bool = False
    """Batch norm in the head's hidden layer, as in MoCo v3. Without it all projections of a small network can stay
    equal for many epochs."""
    tau: float = 0.2
    """Temperature of InfoNCE."""
    queue: Literal["auto"] | int = "auto"
    """Number of negatives. auto: the largest power of two up to the number of training images, so that an image is
    rarely its own negative; the paper uses 65536."""
    ema: float = 0.999
    """Momentum of the key network."""
    norm_splits: Literal["auto"] | int = "auto"
    """Number of parts into which batch norm splits a batch, so that a query and its key share no statistics, as on the
    authors' 8 GPUs. auto: 8 in one process, or fewer so that each part has at least 16 samples; 1 with several
    processes, since each of them computes its own part. 1: the whole batch."""
    symmetric: bool = False
    """Use each view once as query and once as key, as CVSA always does."""

    def __post_init__(self) -> None:
        need_widths("moco", self, "dim")
        need(self.tau > 0, "moco.tau", self.tau, "above 0")
        splits = self.norm_splits
        need(splits == "auto" or splits >= 1, "moco.norm-splits", splits, "auto, or 1 or more")
        need(self.queue == "auto" or self.queue >= 1, "moco.queue", self.queue, "auto, or 1 or more")
        need(0 <= self.ema <= 1, "moco.ema", self.ema, "0 to 1")

    def need_queue(self, batch_size: int) -> None:
        """InputError if the queue is smaller than a batch."""
        allowed = f"auto, or at least --data.batch-size {batch_size}, so that a batch fits into the queue"
        need(self.queue == "auto" or self.queue >= batch_size, "moco.queue", self.queue, allowed)
