"""One recipe per system that the papers compare themselves with, in the form of recipes.py.

A published figure is for the dataset and test that its line names. Where we could not read a table's cell, the recipe
says that no number is legible.
"""

from dataclasses import replace

from fgdata.views.spec import ViewSpec

from .common import Data, Model, Optim
from .comparisons import LoocConfig, RelativeLocationConfig, RotationConfig, SupervisedConfig

RESNET50 = Model("resnet50")
PLAIN = ViewSpec(views=1, area=(0.08, 1.0), jitter=0.0, grayscale=0.0, blur=0.0)
CONTEXT = replace(PLAIN, size=255, area=(0.76, 1.0), aspect=(1.0, 1.0), flip=0.0, grayscale=0.66)
"""OpenMixup resizes the short side to 292 and cuts a random square of 255, (255 / 292)^2 = .76 of a square image."""


def supervised() -> SupervisedConfig:
    """Cross-entropy on the labels of the train split, from scratch: the upper bound. SGD 0.1 per 256 samples, cosine.

    fgtrain run supervised

    RandomResizedCrop and flip only. The figures of its encoder are not comparable with those of methods that see no
    labels.
    """
    return SupervisedConfig(views=PLAIN, optim=Optim(lr=0.1))


def supervised_cub_r50_scratch() -> SupervisedConfig:
    """Supervised with ResNet-50, 800 epochs, from scratch: the upper bound of the CVSA paper.

    fgtrain run supervised-cub-r50-scratch --data.shards shards/cub

    CUB, fine-tuned: 67.82, linear 49.85, MaxBoxAcc 37.31. The paper states no settings for it; the optimiser is that of
    its appendix A.1. Wu et al., BMVC 2022, Table A1.
    """
    return replace(supervised(), model=RESNET50, epochs=800)


def supervised_cub_r50() -> SupervisedConfig:
    """Supervised with ResNet-50 from ImageNet weights, 100 epochs, batches of 128, 0.01 per 256 samples.

    fgtrain run supervised-cub-r50 --data.shards shards/cub

    The upper bound of the synthesized-pair paper; no number is legible. The learning rate is ours. Wang et al., ECCV
    2024, Tables 3 and 4.
    """
    return replace(
        supervised(), data=Data(batch_size=128), model=RESNET50, optim=Optim(lr=0.01), epochs=100, init="imagenet"
    )


def rotation() -> RotationConfig:
    """Which of four quarter turns, from scratch: SGD 0.4 per 256 images, cosine. A step costs three of MoCo v2.

    fgtrain run rotation

    OpenMixup's settings (0.2 for 128 images in four turns each), with a cosine in place of its steps; RandomResizedCrop
    and flip only. Gidaris, Singh, Komodakis, ICLR 2018.
    """
    return RotationConfig(views=PLAIN, optim=Optim(lr=0.4, warmup_epochs=5.0), sync_norm=True)


def rotation_cub_r50() -> RotationConfig:
    """Rotation with ResNet-50, 800 epochs: a row of the CVSA paper.

    fgtrain run rotation-cub-r50 --data.shards shards/cub

    Fine-tuned: CUB 66.67, NAbirds 73.01, Aircraft 72.67, Cars 75.48; CUB, linear 15.46, MaxBoxAcc 34.69. The paper does
    not state the batch size. Wu et al., BMVC 2022, Tables 1 and A1.
    """
    return replace(rotation(), model=RESNET50, epochs=800)


def relative_location() -> RelativeLocationConfig:
    """In which of eight directions a patch lies from another, from scratch: SGD 0.1 per 256 images, cosine.

    fgtrain run relative-location

    OpenMixup's settings (0.2 for 512 images), with a cosine in place of its steps. Two views of three are grey, or the
    network would solve the task by chromatic aberration. Doersch, Gupta, Efros, ICCV 2015.
    """
    return RelativeLocationConfig(views=CONTEXT, optim=Optim(lr=0.1, warmup_epochs=5.0))


def relative_location_cub_r50() -> RelativeLocationConfig:
    """Relative location with ResNet-50, 800 epochs: a row of the CVSA paper.

    fgtrain run relative-location-cub-r50 --data.shards shards/cub

    Fine-tuned: CUB 65.89, NAbirds 72.60, Aircraft 72.24, Cars 75.27. The paper does not state the batch size. Wu et
    al., BMVC 2022, Table 1.
    """
    return replace(relative_location(), model=RESNET50, epochs=800)


def looc() -> LoocConfig:
    """LooC with rotation on MoCo v2, from scratch: SGD 0.03 per 256 samples, cosine. A step costs 1.25 of MoCo v2.

    fgtrain run looc

    The authors published no code; the terms of the loss and the queues are our reading. The encoder's pooled features
    are evaluated, without the heads. Xiao, Wang, Efros, Darrell, ICLR 2021.
    """
    return LoocConfig()


def looc_cub_r50() -> LoocConfig:
    """LooC with ResNet-50, 800 epochs: LooC* of the CVSA paper.

    fgtrain run looc-cub-r50 --data.shards shards/cub

    Fine-tuned: Aircraft 72.49; no number is legible for the other sets. After COCO: CUB 68.71, NAbirds 74.45, Aircraft
    81.75, Cars 85.90. Wu et al., BMVC 2022, Tables 1 and 2.
    """
    return replace(looc(), model=RESNET50, epochs=800)
