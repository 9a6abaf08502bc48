"""The settings of the systems that both papers compare themselves with. A docstring under a field is its `--help`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fgdata.views.spec import ViewSpec

from .bases import MocoSettings, need_widths
from .common import Config, need


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
        need(self.patch == "auto" or self.patch >= 1, "relative.patch", self.patch, "auto, or 1 or more")
        need(0 <= self.dropout < 1, "relative.dropout", self.dropout, "0 to below 1")

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
