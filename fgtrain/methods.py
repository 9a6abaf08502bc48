"""The settings of every method, and one config per method. A docstring under a field is its `--help`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fgtrain.config import Config


@dataclass(frozen=True)
class Byol:
    """BYOL (Grill et al. 2020)."""

    hidden: int = 4096
    """Hidden width of projector and predictor."""
    dim: int = 256
    """Width of the projection."""
    ema: float = 0.996
    """Momentum of the target network at the start; it rises to 1 along half a cosine."""


@dataclass(frozen=True)
class Moco:
    """MoCo v2 (Chen et al. 2020)."""

    dim: int = 128
    """Width of the projection."""
    norm: bool = False
    """Batch norm in the head's hidden layer, as MoCo v3 has it. Without it a small network can stay for long where
    all projections are equal."""
    tau: float = 0.2
    """Temperature of InfoNCE."""
    queue: Literal["auto"] | int = "auto"
    """Negatives kept. auto: the largest power of two that is not above the number of training images, so that no
    image is its own negative for long; the paper has 65536."""
    ema: float = 0.999
    """Momentum of the key network."""
    symmetric: bool = False
    """Use each view once as query and once as key. CVSA always does."""


@dataclass(frozen=True)
class Align:
    """Cross-view saliency alignment (Wu et al. 2022, Eq. 3-5)."""

    stages: tuple[int, ...] = (4,)
    """Stages of the network whose maps are aligned: 3, 4 or both."""
    hidden: int = 4096
    """Hidden channels of the convolutional projector and predictor."""
    dim: int = 256
    """Channels of the convolutional projection."""
    normalize: Literal["none", "cosine"] = "none"
    """none: the plain dot product of Eq. 3, whose sigmoid saturates. cosine: unit vectors times `scale`."""
    scale: float = 8.0
    """Factor on the cosine; unused by none."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over positions. mean keeps the loss on the scale of the contrastive one; sum is the squared norm of Eq. 5."""
    weight: float = 1.0
    """Weight of the alignment loss beside the contrastive loss."""


@dataclass(frozen=True)
class ByolConfig(Config):
    method: ClassVar[str] = "byol"
    objective: ClassVar[str] = "fgtrain.objectives.bases:Byol"

    byol: Byol = Byol()


@dataclass(frozen=True)
class MocoConfig(Config):
    method: ClassVar[str] = "moco"
    objective: ClassVar[str] = "fgtrain.objectives.bases:Moco"

    moco: Moco = Moco()


@dataclass(frozen=True)
class CvsaConfig(Config):
    method: ClassVar[str] = "cvsa"
    objective: ClassVar[str] = "fgtrain.objectives.cvsa:Cvsa"

    base: Literal["byol", "moco"] = "byol"
    """Contrastive objective beneath the alignment."""
    byol: Byol = Byol()
    moco: Moco = Moco()
    align: Align = Align()


METHODS: dict[str, type[Config]] = {config.method: config for config in (ByolConfig, MocoConfig, CvsaConfig)}
