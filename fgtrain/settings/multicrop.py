"""Settings and recipes of DINO, which learns from global and local crops. A docstring under a field is its `--help`."""

from dataclasses import dataclass, replace
from typing import ClassVar

from fgdata.views.spec import Local, ViewSpec

from .bases import need_widths
from .common import LARGEST, MOST_CHANNELS, Config, Data, Model, Optim, need_between, need_temperature


@dataclass(frozen=True)
class DinoSettings:
    """DINO (Caron et al. 2021)."""

    hidden: int = 2048
    """Width of the head's two hidden layers."""
    bottleneck: int = 256
    """Dimension of the unit vectors before the last layer."""
    norm: bool = False
    """Batch norm in the head's hidden layers, an option of the authors' code. Without it the outputs of a run of few
    steps become uniform (docs/training.md)."""
    dim: int = 4096
    """Number of outputs (prototypes). The paper's 65536 are for ImageNet; a few thousand images cannot fill them."""
    ema: float = 0.996
    """Initial momentum of the teacher; it rises to 1 on a cosine schedule. The authors advise 0.9995 for batches of
    256, which needs long runs: half of the teacher is then older than 1,386 steps."""
    tau: float = 0.1
    """Temperature of the student."""
    teacher_tau: float = 0.04
    """Temperature of the teacher, after its warm-up. Above 0.07 most runs collapse."""
    teacher_tau_start: float = 0.04
    """Temperature of the teacher at the start of its warm-up."""
    teacher_tau_epochs: float = 0.0
    """Epochs in which the teacher's temperature rises linearly; 0: none. The authors use 0.04 to 0.07 in 30 epochs for
    a ViT-S."""
    centre: float = 0.9
    """Momentum of the centre, which is subtracted from the teacher's outputs."""
    freeze_epochs: float = 1.0
    """Number of epochs at the start in which the last layer is frozen."""

    def __post_init__(self) -> None:
        need_widths("dino", self, "hidden", "bottleneck")
        need_between(2, self.dim, MOST_CHANNELS, "dino.dim")
        for name in ("ema", "centre"):
            need_between(0, getattr(self, name), 1, f"dino.{name}")
        for name in ("tau", "teacher_tau", "teacher_tau_start"):
            need_temperature(getattr(self, name), f"dino.{name.replace('_', '-')}")
        for name in ("teacher_tau_epochs", "freeze_epochs"):
            need_between(0, getattr(self, name), LARGEST, f"dino.{name.replace('_', '-')}")


@dataclass(frozen=True)
class DinoConfig(Config):
    method: ClassVar[str] = "dino"
    objective: ClassVar[str] = "fgtrain.objectives.dino:Dino"
    kind: ClassVar[str] = "self-distillation"
    takes_local: ClassVar[bool] = True

    views: ViewSpec = ViewSpec(local=Local(count=8))
    dino: DinoSettings = DinoSettings()


GLOBAL_AND_LOCAL = ViewSpec(
    area=(0.14, 1.0), saturation=0.2, blur=(1.0, 0.1), solarize=(0.0, 0.2), local=Local(count=8, area=(0.05, 0.14))
)
CONVOLUTIONAL = Optim(lr=0.03, warmup_epochs=10.0, clip=3.0, clip_by="parameter", exclude_norm_and_bias=True)
TRANSFORMER = replace(CONVOLUTIONAL, name="adamw", lr=5e-4, weight_decay=0.04, weight_decay_end=0.4)


def dino() -> DinoConfig:
    """DINO with two global and eight local crops (multi-crop), from scratch: SGD 0.03 per 256 samples.

    fgtrain run dino

    The authors' command for a ResNet. The teacher is kept, as they evaluate it. ImageNet, ResNet-50: kNN 67.5, linear
    75.3, after longer training with settings that are not known to us. Caron et al., ICCV 2021.
    """
    return DinoConfig(views=GLOBAL_AND_LOCAL, optim=CONVOLUTIONAL, sync_norm=True)


def dino_box() -> DinoConfig:
    """DINO whose local crops lie inside the set's boxes, so that they show parts of the object.

    fgtrain run dino-box

    Otherwise as dino. The settings are ours.
    """
    return replace(dino(), views=replace(GLOBAL_AND_LOCAL, local=replace(GLOBAL_AND_LOCAL.local, inside_box=True)))


def dino_cub_r50() -> DinoConfig:
    """DINO with ResNet-50 from ImageNet weights, 100 epochs, batches of 128, 65,536 prototypes.

    fgtrain run dino-cub-r50 --data.shards shards/cub

    A row of the synthesized-pair paper's Table 3 (published figures not included). The paper states no settings for
    it: these are the authors' command for a ResNet-50. Wang et al., ECCV 2024.
    """
    return replace(
        dino(),
        data=Data(batch_size=128),
        model=Model("resnet50"),
        epochs=100,
        init="imagenet",
        dino=DinoSettings(dim=65536),
    )


def dino_vit() -> DinoConfig:
    """DINO with a ViT-S/16 from scratch, 100 epochs: AdamW 0.0005 per 256 samples, weight decay from 0.04 to 0.4.

    fgtrain run dino-vit

    The authors' command, with 65,536 prototypes. ImageNet: kNN 69.3, linear 73.8. Caron et al., ICCV 2021, README of
    the code.
    """
    return DinoConfig(
        data=Data(batch_size=512),
        views=replace(GLOBAL_AND_LOCAL, area=(0.4, 1.0), local=Local(count=8, area=(0.05, 0.4))),
        model=Model("vit_small_patch16_224", drop_path=0.1),
        optim=TRANSFORMER,
        epochs=100,
        dino=DinoSettings(dim=65536),
    )


MULTICROP_RECIPES = {"dino": dino, "dino-box": dino_box, "dino-cub-r50": dino_cub_r50, "dino-vit": dino_vit}
