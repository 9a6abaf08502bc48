"""One function per published row: the settings it was published with, its command and its source.

`fgtrain run NAME` starts from these; every flag changes one of them. The run's shard set must carry boxes for CVSA.
"""

from collections.abc import Callable
from dataclasses import replace

from fgdata.views.spec import ViewSpec
from fgtrain.config import Config, Data, Model, Optim
from fgtrain.methods import Align, ByolConfig, CvsaConfig, Moco, MocoConfig

LARS = Optim(name="lars", lr=0.6, momentum=0.9, weight_decay=1.5e-6, exclude_norm_and_bias=True, warmup_epochs=10.0)
SGD = Optim(name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-4)


def byol() -> ByolConfig:
    """BYOL from scratch on RandomResizedCrop views: the baseline of the CVSA paper.

    fgtrain run byol --epochs 800 --model.backbone resnet50 --data.batch-size 1024

    Grill et al., NeurIPS 2020; Wu et al., BMVC 2022, Table 1 (CUB, fine-tuned: 64.85).
    """
    return ByolConfig(optim=LARS)


def moco() -> MocoConfig:
    """MoCo v2 from scratch on RandomResizedCrop views.

    fgtrain run moco --epochs 800 --model.backbone resnet50

    Chen et al., 2020; Wu et al., BMVC 2022, Table 1.
    """
    return MocoConfig(optim=SGD)


def cvsa() -> CvsaConfig:
    """CVSA on BYOL: SaliencySwap views and the alignment loss, from scratch ("second stage only").

    fgtrain run cvsa --epochs 800 --model.backbone resnet50 --data.batch-size 1024

    Wu et al., BMVC 2022, Table 1 (CUB, fine-tuned: 66.88); ResNet-18, 400 epochs: Table A2.
    """
    return CvsaConfig(views=ViewSpec(crop="saliency-swap"), optim=LARS)


def cvsa_moco() -> CvsaConfig:
    """CVSA on symmetric MoCo v2: SaliencySwap views and the alignment loss, from scratch.

    fgtrain run cvsa-moco --epochs 400

    Wu et al., BMVC 2022, Figure 3 (MoCo.v2 with SaliencySwap).
    """
    return replace(cvsa(), base="moco", optim=SGD)


def demo() -> CvsaConfig:
    """CVSA on MoCo made small enough for minutes on two cores: 64 px, a ResNet-18 of half width, narrow heads, AdamW.

    fgtrain run demo --data.shards shards/demo

    Colour jitter keeps the hue and never greys: the drawn birds differ in the colours of their field marks.
    """
    return CvsaConfig(
        data=Data(batch_size=64),
        views=ViewSpec(size=64, crop="saliency-swap", hue=0.02, grayscale=0.0),
        model=Model(width=32),
        optim=Optim(name="adamw", lr=0.004, weight_decay=1e-4),
        base="moco",
        moco=Moco(norm=True, ema=0.99),
        align=Align(hidden=128, dim=64),
        epochs=60,
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "cvsa": cvsa,
    "byol": byol,
    "moco": moco,
    "cvsa-moco": cvsa_moco,
    "demo": demo,
}
