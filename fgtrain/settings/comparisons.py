"""The settings of the methods that both papers compare with. A docstring under a field is its `--help`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fgdata.views.spec import ViewSpec

from .bases import HEAVIEST, ByolSettings, MocoSettings, need_auto, need_widths
from .common import Config, need, need_between, need_plain, need_temperature


@dataclass(frozen=True)
class RelativeSettings:
    """Relative location (Doersch et al. 2015), as OpenMixup trains it."""

    patch: Literal["auto"] | int = "auto"
    """Side of a patch in pixels. A view has 3 x 3 cells, with a patch at a random place in each. auto: three quarters
    of a cell, to the nearest multiple of 8: 64 for views of 255."""
    hidden: int = 4096
    """Hidden width of the classifier of pairs."""
    dropout: float = 0.5
    """Share of the hidden features that is dropped in training."""

    def __post_init__(self) -> None:
        need_widths("relative", self, "hidden")
        need_auto(self.patch, 4096, "relative.patch")
        need_between(0, self.dropout, 0.99, "relative.dropout")

    def side(self, size: int) -> int:
        """Side of a patch in views of `size` pixels."""
        return max(8, 8 * round(size // 3 * 0.75 / 8)) if self.patch == "auto" else self.patch


@dataclass(frozen=True)
class LoocSettings:
    """LooC with rotation (Xiao et al. 2021)."""

    positives: Literal["first", "all"] = "first"
    """Positives in the space that is invariant to all augmentations. first: the key with a turn of its own. all: also
    the key with the query's turn; the loss is then the mean of both."""


@dataclass(frozen=True)
class AttendSettings:
    """Attention fitted to maps of what explains the loss (LCR, Shu et al. 2023) or the class (SAM, Shu et al. 2022)."""

    filters: int = 32
    """1x1 filters of the attention branch, whose maximum is the attention. Few filters can only fit what many images
    have in common."""
    tau: float = 0.4
    """Temperature of the softmax over the positions of both maps."""
    target: Literal["scaled", "raw"] = "scaled"
    """Map that the attention is fitted to. scaled: divided by its largest value in each image. raw: as it is, like the
    authors' code; for a contrastive loss it is so small that its softmax is uniform."""
    weight: float = 1.28
    """Weight of the divergence, a mean over images. The authors sum over the images of a batch with weight 0.01; this
    is 0.01 x 128 for LCR, and 0.01 x 24 for SAM."""
    pool: Literal["attend", "mean"] = "attend"
    """Feature that evaluations use. attend: the mean over positions weighted by the attention, of length 1. mean: the
    pooled feature of the network."""
    detach: bool = False
    """Fit only the branch: the divergence has no gradient to the encoder."""

    def __post_init__(self) -> None:
        need_widths("attend", self, "filters")
        need_temperature(self.tau, "attend.tau")
        need_between(0, self.weight, HEAVIEST, "attend.weight")


@dataclass(frozen=True)
class LewelSettings:
    """LEWEL on BYOL (Huang et al. 2022)."""

    hidden: int = 4096
    """Hidden width of the projectors and predictors."""
    dim: int = 256
    """Output dimension of the projectors, and number of maps."""
    heads: int = 4
    """Groups of channels, each with its own maps; a divisor of `dim` and of the network's channels."""
    scale: float = 1.0
    """Temperature of the softmax over positions. At 1 the first maps are nearly flat: `map_entropy` in metrics.jsonl is
    the entropy relative to a flat map."""
    weight: float = 0.5
    """Weight of the aligned embeddings; the pooled ones have 1 minus this."""
    ema: float = 0.996
    """Initial momentum of the target network; it rises to 1 on a cosine schedule."""

    def __post_init__(self) -> None:
        need_widths("lewel", self, "hidden", "dim", "heads")
        need(self.dim % self.heads == 0, "lewel.heads", self.heads, f"a divisor of --lewel.dim {self.dim}")
        need_temperature(self.scale, "lewel.scale")
        need_between(0, self.weight, 1, "lewel.weight")
        need_between(0, self.ema, 1, "lewel.ema")


@dataclass(frozen=True)
class SupervisedConfig(Config):
    method: ClassVar[str] = "supervised"
    objective: ClassVar[str] = "fgtrain.objectives.pretext:supervised"
    kind: ClassVar[str] = "supervised"
    view_count: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("labels",)

    views: ViewSpec = ViewSpec(views=1)


@dataclass(frozen=True)
class RotationConfig(Config):
    method: ClassVar[str] = "rotation"
    objective: ClassVar[str] = "fgtrain.objectives.pretext:rotation"
    kind: ClassVar[str] = "pretext"
    view_count: ClassVar[int] = 1

    views: ViewSpec = ViewSpec(views=1)


@dataclass(frozen=True)
class RelativeLocationConfig(Config):
    method: ClassVar[str] = "relative-location"
    objective: ClassVar[str] = "fgtrain.objectives.pretext:relative_location"
    kind: ClassVar[str] = "pretext"
    view_count: ClassVar[int] = 1

    views: ViewSpec = ViewSpec(views=1)
    relative: RelativeSettings = RelativeSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        cell, side = self.views.size // 3, self.relative.side(self.views.size)
        allowed = f"at most {cell}, a third of --views.size {self.views.size}"
        need(side <= cell, "relative.patch", side, allowed)


@dataclass(frozen=True)
class LoocConfig(Config):
    method: ClassVar[str] = "looc"
    objective: ClassVar[str] = "fgtrain.objectives.looc:Looc"
    kind: ClassVar[str] = "contrastive + rotation"
    view_count: ClassVar[int] = 3

    views: ViewSpec = ViewSpec(views=3)
    moco: MocoSettings = MocoSettings()
    looc: LoocSettings = LoocSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.moco.need_queue(self.data.batch_size)
        need(not self.moco.symmetric, "moco.symmetric", "on", "off: the three views of looc have different roles")
        need(self.moco.targets == "identity", "moco.targets", self.moco.targets, "identity, with looc")


@dataclass(frozen=True)
class LcrConfig(Config):
    method: ClassVar[str] = "lcr"
    objective: ClassVar[str] = "fgtrain.objectives.attend:Lcr"
    kind: ClassVar[str] = "contrastive + attention"

    base: Literal["moco", "byol"] = "moco"
    """Contrastive objective that the divergence is added to."""
    sign: Literal["loss", "evidence"] = "loss"
    """Positions that the target marks. loss: where the activation raises the loss, as published. evidence: where it
    lowers the loss."""
    moco: MocoSettings = MocoSettings()
    byol: ByolSettings = ByolSettings()
    attend: AttendSettings = AttendSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        need_plain(self, "differentiates inside the network")
        if self.base == "moco":
            self.moco.need_queue(self.data.batch_size)


@dataclass(frozen=True)
class SamConfig(Config):
    method: ClassVar[str] = "sam"
    objective: ClassVar[str] = "fgtrain.objectives.attend:Sam"
    kind: ClassVar[str] = "supervised + attention"
    view_count: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("labels",)

    views: ViewSpec = ViewSpec(views=1)
    attend: AttendSettings = AttendSettings(filters=16, target="raw", weight=0.24, pool="mean")

    def __post_init__(self) -> None:
        super().__post_init__()
        need_plain(self, "differentiates inside the network")


@dataclass(frozen=True)
class LewelConfig(Config):
    method: ClassVar[str] = "lewel"
    objective: ClassVar[str] = "fgtrain.objectives.lewel:Lewel"
    kind: ClassVar[str] = "contrastive + alignment"

    lewel: LewelSettings = LewelSettings()
