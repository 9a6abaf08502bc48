"""The settings of every method, and one config per method. A docstring under a field is its `--help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from .bases import ByolSettings, MocoSettings, SimclrSettings, SimsiamSettings, need_widths
from .common import Config, need
from .comparisons import LoocConfig, RelativeLocationConfig, RotationConfig, SupervisedConfig
from .multicrop import DinoConfig
from .regions import ForegroundConfig, InslocConfig


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
        need(self.scale > 0, "align.scale", self.scale, "above 0")
        need(self.weight >= 0, "align.weight", self.weight, "0 or more")


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
        need(0 <= self.kappa_quantile <= 1, "pair.kappa-quantile", self.kappa_quantile, "0 to 1")
        for name in ("alpha", "nu", "eps_gradcam", "eps_variance", "kappa"):
            need(getattr(self, name) >= 0, f"pair.{name.replace('_', '-')}", getattr(self, name), "0 or more")
        need(self.bank >= 2, "pair.bank", self.bank, "2 or more")
        need(self.tau > 0, "pair.tau", self.tau, "above 0")


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
        need(self.width >= 2 and self.width % 2 == 0, "reconstruct.width", self.width, "an even number, 2 or more")
        need(self.depth >= 0, "reconstruct.depth", self.depth, "0 or more")
        need(self.epochs >= 0, "reconstruct.epochs", self.epochs, "0 for no warm-up, or more")
        need(self.lr > 0, "reconstruct.lr", self.lr, "above 0")
        need(self.batch_size >= 2, "reconstruct.batch-size", self.batch_size, "2 or more, as batch norm needs")


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
        *(SupervisedConfig, RotationConfig, RelativeLocationConfig, LoocConfig),
        *(DinoConfig, ForegroundConfig, InslocConfig),
    )
}
