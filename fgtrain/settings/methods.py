"""The settings of every method, and one config per method. A docstring under a field is its `--help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from .bases import HEAVIEST, MOST_ROWS, ByolSettings, MocoSettings, SimclrSettings, SimsiamSettings, need_widths
from .common import LARGEST, MOST, Config, need, need_between, need_temperature
from .comparisons import (
    LcrConfig,
    LewelConfig,
    LoocConfig,
    RelativeLocationConfig,
    RotationConfig,
    SamConfig,
    SupervisedConfig,
)
from .distillation import BoxDistillConfig
from .multicrop import DinoConfig
from .papn import PapnConfig
from .regions import ForegroundConfig, InslocConfig

WIDEST_DECODER = 10_000


@dataclass(frozen=True)
class AlignSettings:
    """Cross-view saliency alignment (Wu et al. 2022, Eq. 3-5)."""

    stages: tuple[int, ...] = (4,)
    """Levels of the network whose maps are aligned: 3 (stride 16), 4 (the last, stride 32) or both. A ViT has its patch
    grid as level 4 only."""
    hidden: int = 4096
    """Hidden channels of the convolutional projector and predictor. 512 reduces their cost to an eighth."""
    dim: int = 256
    """Channels of the convolutional projection."""
    normalize: Literal["none", "cosine"] = "none"
    """none: the plain dot product of Eq. 3, whose sigmoid saturates. cosine: unit vectors times `scale`."""
    scale: float = 8.0
    """Factor on the cosine; has no effect with none."""
    reduction: Literal["mean", "sum"] = "mean"
    """Reduction over positions. mean keeps the loss on the scale of the contrastive loss; sum is the squared norm of
    Eq. 5."""
    weight: float = 1.0
    """Weight of the alignment loss relative to the contrastive loss."""

    def __post_init__(self) -> None:
        stages = " ".join(map(str, self.stages)) or "empty"
        need(self.stages in ((3,), (4,), (3, 4), (4, 3)), "align.stages", stages, "3, 4 or both: 3 4")
        need_widths("align", self, "hidden", "dim")
        need_between(0.001, self.scale, 1000, "align.scale")
        need_between(0, self.weight, HEAVIEST, "align.weight")


@dataclass(frozen=True)
class PairSettings:
    """Synthesized pairs (Wang et al. 2024, Eq. 3-8)."""

    perturb: Literal["both", "gradcam", "low-variance", "random", "none"] = "both"
    """Noise on the features. gradcam: where the contrastive loss is insensitive (Eq. 5). low-variance: where images
    hardly differ (Eq. 6). random: eps-gradcam on every dimension. none: the pair is the same image twice."""
    alpha: float = 1.0
    """Weight of the reconstruction loss."""
    nu: float = 0.5
    """Weight of the pair loss; 0: no pairs."""
    eps_gradcam: float = 0.1
    """Largest standard deviation of the gradcam and random noise, in units of a feature."""
    eps_variance: float = 0.05
    """Largest standard deviation of the low-variance noise, in units of a feature."""
    kappa_quantile: float = 0.2
    """Share of the dimensions that get low-variance noise: those that vary least over the bank (ours). 0: those below
    `kappa`, as in the paper."""
    kappa: float = 0.02
    """With --pair.kappa-quantile 0: dimensions whose variance over the bank is below this get low-variance noise."""
    bank: int = 5632
    """Number of features kept for the variance: those of the latest images."""
    bank_normalize: Literal["rms", "l2", "none"] = "rms"
    """Divisor of each dimension of the bank before its variance is taken. rms: its root mean square, so that the
    variance is in [0, 1]. l2: its norm, as printed in the paper; the variance is then below 1 / bank, and the paper's
    kappa selects every dimension. none: 1."""
    tau: float = 0.2
    """Temperature of the pair loss and of the loss used by gradcam."""
    denominator: Literal["paper", "nt-xent"] = "paper"
    """Denominator of those two losses. paper: without the positive, as in its Eq. 1 and 7. nt-xent: with it, as in
    SimCLR."""
    statistics: Literal["real", "all"] = "real"
    """Images that update the running statistics of batch norm, which evaluations use. all: decoded images too."""

    def __post_init__(self) -> None:
        need_between(0, self.kappa_quantile, 1, "pair.kappa-quantile")
        for name in ("alpha", "nu", "eps_gradcam", "eps_variance"):
            need_between(0, getattr(self, name), HEAVIEST, f"pair.{name.replace('_', '-')}")
        need_between(0, self.kappa, LARGEST, "pair.kappa")
        need_between(2, self.bank, MOST_ROWS, "pair.bank")
        need_temperature(self.tau, "pair.tau")


@dataclass(frozen=True)
class ReconstructSettings:
    """The decoder of synthesized pairs and its warm-up (frozen encoder, images without augmentation, Adam)."""

    width: int = 32
    """Width, an even number; the channels go from 8 times this down to half of it."""
    depth: int = 0
    """Residual blocks per stage. Width 64 and depth 2 mirror a ResNet-18."""
    epochs: int = 200
    """Epochs of warm-up; 0: no warm-up."""
    lr: float = 1e-4
    """Learning rate of the warm-up."""
    batch_size: int = 128
    """Images per step of the warm-up."""

    def __post_init__(self) -> None:
        even = 2 <= self.width <= WIDEST_DECODER and self.width % 2 == 0
        need(even, "reconstruct.width", self.width, f"an even number from 2 to {WIDEST_DECODER:,}")
        need_between(0, self.depth, 100, "reconstruct.depth")
        need(0 <= self.epochs <= MOST, "reconstruct.epochs", self.epochs, f"0 for no warm-up, or 1 to {MOST:,}")
        need(0 < self.lr <= LARGEST, "reconstruct.lr", self.lr, f"above 0, at most {LARGEST:g}")
        batch = self.batch_size
        need(2 <= batch <= MOST, "reconstruct.batch-size", batch, f"2 or more, as batch norm needs, up to {MOST:,}")


@dataclass(frozen=True)
class ByolConfig(Config):
    method: ClassVar[str] = "byol"
    objective: ClassVar[str] = "fgtrain.objectives.bases:Byol"
    takes_local: ClassVar[bool] = True

    byol: ByolSettings = ByolSettings()


@dataclass(frozen=True)
class SimsiamConfig(Config):
    method: ClassVar[str] = "simsiam"
    objective: ClassVar[str] = "fgtrain.objectives.bases:Simsiam"

    simsiam: SimsiamSettings = SimsiamSettings()


@dataclass(frozen=True)
class SimclrConfig(Config):
    method: ClassVar[str] = "simclr"
    objective: ClassVar[str] = "fgtrain.objectives.bases:Simclr"

    simclr: SimclrSettings = SimclrSettings()


@dataclass(frozen=True)
class MocoConfig(Config):
    method: ClassVar[str] = "moco"
    objective: ClassVar[str] = "fgtrain.objectives.bases:Moco"
    takes_local: ClassVar[bool] = True

    moco: MocoSettings = MocoSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.moco.need_queue(self.data.batch_size)
        soft = self.moco.targets == "sinkhorn" and self.views.local.count > 0
        need(not soft, "moco.targets", self.moco.targets, "identity, with --views.local.count")


@dataclass(frozen=True)
class CvsaConfig(Config):
    method: ClassVar[str] = "cvsa"
    kind: ClassVar[str] = "contrastive + alignment"
    needs: ClassVar[tuple[str, ...]] = ("boxes",)
    objective: ClassVar[str] = "fgtrain.objectives.cvsa:Cvsa"

    base: Literal["byol", "moco"] = "byol"
    """Contrastive objective that the alignment loss is added to."""
    byol: ByolSettings = ByolSettings()
    moco: MocoSettings = MocoSettings()
    align: AlignSettings = AlignSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base == "moco":
            self.moco.need_queue(self.data.batch_size)


@dataclass(frozen=True)
class SynthPairConfig(Config):
    method: ClassVar[str] = "synth-pair"
    kind: ClassVar[str] = "contrastive + synthesis"
    objective: ClassVar[str] = "fgtrain.objectives.synth_pair:SynthPair"

    base: Literal["moco", "simsiam"] = "moco"
    """Contrastive objective that the pairs are added to."""
    moco: MocoSettings = MocoSettings()
    simsiam: SimsiamSettings = SimsiamSettings()
    pair: PairSettings = PairSettings()
    reconstruct: ReconstructSettings = ReconstructSettings()
    decoder: Path | None = None
    """decoder.safetensors of another run with the same encoder, instead of a warm-up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base == "moco":
            self.moco.need_queue(self.data.batch_size)
        need(self.views.size % 32 == 0, "views.size", self.views.size, "a multiple of 32, the stride of the decoder")


METHODS: dict[str, type[Config]] = {
    config.method: config
    for config in (
        *(ByolConfig, MocoConfig, SimsiamConfig, SimclrConfig, CvsaConfig, SynthPairConfig),
        *(SupervisedConfig, RotationConfig, RelativeLocationConfig, LoocConfig, LcrConfig, SamConfig, LewelConfig),
        *(DinoConfig, ForegroundConfig, InslocConfig, PapnConfig, BoxDistillConfig),
    )
}
