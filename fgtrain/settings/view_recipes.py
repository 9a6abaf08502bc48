"""Recipes that are a base with other views, in the form of recipes.py: ContrastiveCrop, DiLo, and the views with which
BYOL and SimCLR were published.

`--views.crop contrastive` and `--views.crop matte-paste` also work under every other method.
"""

from dataclasses import replace

from fgdata.views.spec import ViewSpec

from .bases import LCR_MOCO, SimclrSettings
from .common import Data, Model, Optim
from .methods import ByolConfig, MocoConfig, SimclrConfig

RESNET50 = Model("resnet50")
SGD = Optim(name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-4)
LARS = Optim(name="lars", lr=0.6, momentum=0.9, weight_decay=1.5e-6, exclude_norm_and_bias=True, warmup_epochs=10.0)
BOXED = ViewSpec(crop="contrastive")
CENTRED = ViewSpec(crop="contrastive", crop_box="centre")
OWN = ViewSpec(crop="contrastive", crop_box="given")
PASTED = ViewSpec(crop="matte-paste")
BYOL_VIEWS = ViewSpec(area=(0.08, 1.0), saturation=0.2, blur=(1.0, 0.1), solarize=(0.0, 0.2))
SIMCLR_VIEWS = ViewSpec(area=(0.08, 1.0), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)


def contrastive_crop() -> MocoConfig:
    """MoCo v2 on crops whose centre lies in the set's boxes (ContrastiveCrop), from scratch. No extra cost.

    fgtrain run contrastive-crop

    The paper finds the boxes with the network during training; here they are the detector's. Most centres are near a
    box's edges, so that the two crops differ. Peng et al., CVPR 2022.
    """
    return MocoConfig(views=BOXED, optim=SGD)


def contrastive_crop_byol() -> ByolConfig:
    """BYOL on crops whose centre lies in the set's boxes (ContrastiveCrop), from scratch. No extra cost.

    fgtrain run contrastive-crop-byol

    The optimiser is that of the recipe byol. Peng et al., CVPR 2022.
    """
    return ByolConfig(views=BOXED, optim=LARS, sync_norm=True)


def contrastive_crop_cub_r50() -> MocoConfig:
    """ContrastiveCrop on MoCo v2 with ResNet-50 from ImageNet weights, 100 epochs, batches of 128.

    fgtrain run contrastive-crop-cub-r50 --data.shards shards/cub

    contrastive-crop-own-cub-r50, a row of Wang et al., ECCV 2024, Table 3 (published figures not included), with the
    detector's boxes instead of the network's.
    """
    return MocoConfig(
        data=Data(batch_size=128),
        views=BOXED,
        model=RESNET50,
        optim=replace(SGD, lr=0.06),
        epochs=100,
        init="imagenet",
        moco=LCR_MOCO,
    )


def contrastive_crop_own() -> MocoConfig:
    """MoCo v2 on crops whose centre lies in a box that the network itself finds (ContrastiveCrop), from scratch.

    fgtrain run contrastive-crop-own

    RandomResizedCrop until epoch 20; then, and after every 20 epochs, each image's box is found on the last map with
    threshold 0.1: 1.25 % more arithmetic. It needs no boxes. ResNet-18, SimCLR, 500 epochs, linear: CIFAR-100 61.91,
    without 60.30, as notes on the paper quote it. Peng et al., CVPR 2022.
    """
    return MocoConfig(views=OWN, optim=SGD)


def contrastive_crop_own_cub_r50() -> MocoConfig:
    """ContrastiveCrop as published, on MoCo v2 with ResNet-50 from ImageNet weights, 100 epochs, batches of 128.

    fgtrain run contrastive-crop-own-cub-r50 --data.shards shards/cub

    A row of the synthesized-pair paper's Table 3 (published figures not included), with the settings of its MoCo v2;
    the paper does not state the base. The boxes are found after epochs 20, 40, 60 and 80. Wang et al., ECCV 2024.
    """
    return replace(contrastive_crop_cub_r50(), views=OWN)


def simccrop() -> MocoConfig:
    """MoCo v2 on crops whose centre lies in the middle of the image (SimCCrop), from scratch. It needs no boxes.

    fgtrain run simccrop

    The box of the centres is half as wide and high as the image. Peng et al., CVPR 2022.
    """
    return MocoConfig(views=CENTRED, optim=SGD)


def dilo() -> MocoConfig:
    """MoCo v2 on views of which 30 % show the object cut out along its saliency map over another image (DiLo).

    fgtrain run dilo

    Needs a set that was built with --keep-maps. The authors published no code: the size and place of the object are
    ours. ImageNet, ResNet-50, linear: 69.2, MoCo v2 67.5, as notes on the paper quote it. Zhao, Wu, Lau, Lin, AAAI
    2021.
    """
    return MocoConfig(views=PASTED, optim=SGD)


def dilo_byol() -> ByolConfig:
    """BYOL on views of which 30 % show the object cut out along its saliency map over another image (DiLo).

    fgtrain run dilo-byol

    Needs a set that was built with --keep-maps. The optimiser is that of the recipe byol. Zhao, Wu, Lau, Lin, AAAI
    2021.
    """
    return ByolConfig(views=PASTED, optim=LARS, sync_norm=True)


def dilo_cub_r50() -> ByolConfig:
    """DiLo on BYOL with ResNet-50, 800 epochs, batches of 1024: a row of the CVSA paper. NAbirds and others: the same.

    fgtrain run dilo-cub-r50 --data.shards shards/cub

    Fine-tuned: CUB 66.16, NAbirds 73.12, Aircraft 73.52, Cars 76.36. Needs a set with maps: fgdata build-shards
    --dataset cub --saliency rbd --keep-maps. Wu et al., BMVC 2022, Table 1.
    """
    return replace(dilo_byol(), model=RESNET50, epochs=800, data=Data(batch_size=1024))


def byol_imagenet() -> ByolConfig:
    """BYOL as published for ImageNet: its two kinds of views, ResNet-50, 1000 epochs, batches of 4096.

    fgtrain run byol-imagenet --data.shards shards/imagenet

    The first view is always blurred, the second one in ten; one in five of the second is solarised. LARS 0.2 per 256
    samples. Residual blocks start as the identity, as in the authors' code. ImageNet, linear: 74.3. Grill et al.,
    NeurIPS 2020, Table 1 and appendix B.
    """
    return ByolConfig(
        data=Data(batch_size=4096),
        views=BYOL_VIEWS,
        model=replace(RESNET50, zero_init_residual=True),
        optim=replace(LARS, lr=0.2),
        epochs=1000,
        sync_norm=True,
    )


def simclr_imagenet() -> SimclrConfig:
    """SimCLR as published for ImageNet: jitter of strength 1, ResNet-50, 1000 epochs, batches of 4096.

    fgtrain run simclr-imagenet --data.shards shards/imagenet

    LARS 0.3 per 256 samples, temperature 0.1. Residual blocks start as the identity, as in the authors' code. ImageNet,
    linear: 69.3. Chen, Kornblith, Norouzi, Hinton, ICML 2020, Table 6 and appendix A.
    """
    return SimclrConfig(
        data=Data(batch_size=4096),
        views=SIMCLR_VIEWS,
        model=replace(RESNET50, zero_init_residual=True),
        optim=replace(LARS, lr=0.3, weight_decay=1e-6),
        epochs=1000,
        sync_norm=True,
        simclr=SimclrSettings(tau=0.1),
    )


VIEW_RECIPES = {
    "contrastive-crop": contrastive_crop,
    "contrastive-crop-byol": contrastive_crop_byol,
    "contrastive-crop-cub-r50": contrastive_crop_cub_r50,
    "contrastive-crop-own": contrastive_crop_own,
    "contrastive-crop-own-cub-r50": contrastive_crop_own_cub_r50,
    "simccrop": simccrop,
    "dilo": dilo,
    "dilo-byol": dilo_byol,
    "dilo-cub-r50": dilo_cub_r50,
    "byol-imagenet": byol_imagenet,
    "simclr-imagenet": simclr_imagenet,
}
