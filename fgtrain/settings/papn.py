"""Settings and recipes of PAPN, whose crops and colours grow stronger with the stage. A docstring under a field is its
`--help`."""

from dataclasses import dataclass, replace
from typing import ClassVar

from fgdata.views.spec import ViewSpec

from .bases import HEAVIEST, MocoSettings, need_widths
from .common import Config, Data, Model, Optim, need, need_between, need_plain

STRENGTHS = (0.45, 0.7, 0.95)
"""Of the views of stages 2, 3 and 4; the last view of each side is MoCo v2's."""
QUERY, KEY = (0.2, 0.7), (0.7, 1.0)
"""Range of a crop's area at full strength; a weaker one only raises the lower end towards the upper one."""


def _areas(low: float, high: float) -> tuple[tuple[float, float], ...]:
    return (*((round(high - (high - low) * s, 4), high) for s in STRENGTHS), (0.2, 1.0))


STAGED = ViewSpec(views=8, area=_areas(*QUERY) + _areas(*KEY), strength=(*STRENGTHS, 1.0) * 2)
"""Four views for the query, then four for the key."""


@dataclass(frozen=True)
class PapnSettings:
    """PAPN (Tan, Wei, Zhao, ICCV 2025)."""

    parts: int = 5
    """Learned prototypes of parts."""
    dim: int = 128
    """Output dimension of the projector of a stage."""
    weight: float = 1.0
    """Weight of the alignment of the stages."""

    def __post_init__(self) -> None:
        need_widths("papn", self, "parts", "dim")
        need_between(0, self.weight, HEAVIEST, "papn.weight")


@dataclass(frozen=True)
class PapnConfig(Config):
    method: ClassVar[str] = "papn"
    objective: ClassVar[str] = "fgtrain.objectives.papn:Papn"
    kind: ClassVar[str] = "contrastive + alignment"
    view_count: ClassVar[int] = 8

    views: ViewSpec = STAGED
    moco: MocoSettings = MocoSettings(dim=256, norm=True, tau=0.15, norm_splits=1)
    papn: PapnSettings = PapnSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        need_plain(self, "computes the stages of its network one by one")
        self.moco.need_queue(self.data.batch_size)
        need(not self.moco.symmetric, "moco.symmetric", "on", "off: the views of papn have different roles")


def papn() -> PapnConfig:
    """PAPN from scratch: MoCo v2, parts, and stages aligned on views that grow stronger.

    fgtrain run papn

    SGD 0.06 per 256 samples. Batch norm uses the whole batch, as the authors' does over their GPUs. Evaluations use the
    pooled feature and those of the parts. Tan, Wei, Zhao, ICCV 2025.
    """
    return PapnConfig(optim=Optim(lr=0.06), sync_norm=True)


def papn_cub_r50() -> PapnConfig:
    """PAPN with ResNet-50 from ImageNet weights, 100 epochs, batches of 128, 4,096 negatives.

    fgtrain run papn-cub-r50 --data.shards shards/cub

    Published figures not included. The authors start from torchvision's newer weights (IMAGENET1K_V2), so their figures
    are not comparable with those of the other papers; for that use --init imagenet. They choose the epoch on the test
    split.
    """
    return replace(
        papn(),
        data=Data(batch_size=128),
        model=Model("resnet50"),
        epochs=100,
        init="imagenet-v2",
        moco=replace(PapnConfig().moco, queue=4096),
    )


PAPN_RECIPES = {"papn": papn, "papn-cub-r50": papn_cub_r50}
