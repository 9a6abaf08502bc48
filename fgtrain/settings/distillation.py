"""Settings and recipes of box distillation. A docstring under a field is its `--help`."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fgdata.views.spec import ViewSpec

from .bases import HEAVIEST, MOST_ROWS, need_auto
from .common import Config, Data, Model, Optim, need, need_between, need_temperature

GENTLE = ViewSpec(
    views=1, area=(0.3, 1.0), brightness=0.2, contrast=0.3, saturation=0.2, hue=0.0, grayscale=0.0, blur=0.0
)
"""Views that keep the colours by which species differ."""
ADAMW = Optim(name="adamw", lr=2e-3, weight_decay=0.01, exclude_norm_and_bias=True, warmup_epochs=1.0)


@dataclass(frozen=True)
class DistillSettings:
    """Box distillation (ours)."""

    size: Literal["auto"] | int = "auto"
    """Side of the teacher's view, the object's box grown by 15 % to a square, in pixels. Larger shows more detail and
    costs more: a teacher's pass is a forward pass at this size. auto: 1.75 times --views.size, as measured, rounded to
    a multiple of 32, or the next smaller size that the network takes."""
    tau: float = 0.05
    """Temperature of the similarities to the images of the bank."""
    weight: float = 1.0
    """Weight of the distance to the teacher's feature relative to the relations to other images."""
    bank: Literal["auto"] | int = "auto"
    """Images whose teacher's features are kept. auto: all training images, at most 65,536."""

    def __post_init__(self) -> None:
        ok = self.size == "auto" or (isinstance(self.size, int) and 8 <= self.size <= 4096)
        need(ok, "distill.size", self.size, "auto, or 8 to 4096")
        need_temperature(self.tau, "distill.tau")
        need_between(0, self.weight, HEAVIEST, "distill.weight")
        need_auto(self.bank, MOST_ROWS, "distill.bank")


@dataclass(frozen=True)
class BoxDistillConfig(Config):
    method: ClassVar[str] = "box-distill"
    objective: ClassVar[str] = "fgtrain.objectives.distillation:BoxDistill"
    kind: ClassVar[str] = "distillation"
    view_count: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("boxes", "weights")

    views: ViewSpec = GENTLE
    distill: DistillSettings = DistillSettings()


def box_distill() -> BoxDistillConfig:
    """Continued pre-training from given weights: predicts the features of the enlarged box from the whole image.

    fgtrain run box-distill --init WEIGHTS

    The starting network, frozen, sees the box; the same network in training sees views of the whole image. No labels.
    Batch norm keeps the statistics of the weights, whatever --norm says.
    The method and its settings are ours: the boxes are privileged information that only training has (Lopez-Paz et
    al., ICLR 2016).
    """
    return BoxDistillConfig(optim=ADAMW, epochs=20)


def box_distill_lite0() -> BoxDistillConfig:
    """box-distill on an EfficientNet-Lite0 from ImageNet weights, sized for two cores: 128 px, batch 64, 12 epochs.

    fgtrain run box-distill-lite0

    The stem and two of seven stages are frozen. The settings are ours. RESULTS.md has related figures.
    """
    return BoxDistillConfig(
        data=Data(batch_size=64),
        views=replace(GENTLE, size=128),
        model=Model("tf_efficientnet_lite0"),
        optim=ADAMW,
        epochs=12,
        init="timm:tf_efficientnet_lite0.in1k",
        freeze_stages=2,
    )


DISTILLATION_RECIPES = {"box-distill": box_distill, "box-distill-lite0": box_distill_lite0}
