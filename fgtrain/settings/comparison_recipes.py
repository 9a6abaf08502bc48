"""One recipe per method that the papers compare with, in the form of recipes.py.

A published figure is for the dataset and test that its line names. Where we do not have the figures of a table, the
recipe says so.
"""

from dataclasses import replace

from fgdata.views.spec import ViewSpec

from .bases import LCR_MOCO, MocoSettings
from .common import Data, Model, Optim
from .comparisons import (
    AttendSettings,
    LcrConfig,
    LewelConfig,
    LoocConfig,
    RelativeLocationConfig,
    RotationConfig,
    SamConfig,
    SupervisedConfig,
)
from .methods import MocoConfig, SimclrConfig, SimsiamConfig

RESNET50 = Model("resnet50")
PLAIN = ViewSpec(views=1, area=(0.08, 1.0), jitter=0.0, grayscale=0.0, blur=0.0)
CONTEXT = replace(PLAIN, size=255, area=(0.5, 0.76), aspect=(1.0, 1.0), flip=0.0, grayscale=0.66)
"""OpenMixup resizes the short side to 292 and cuts a random square of 255: 0.76 of a square image, 0.57 of one of 4:3.
No square has more than 0.75 of an image of 4:3, so shares above that would always give the whole central square."""


def simclr_cub_r50() -> SimclrConfig:
    """SimCLR with ResNet-50, 800 epochs: a row of the CVSA paper.

    fgtrain run simclr-cub-r50 --data.shards shards/cub

    Fine-tuned: Aircraft 72.42; published figures of the other sets not included. After COCO alone: CUB 68.30, NAbirds
    73.51, Aircraft 81.18, Cars 85.93. The paper does not state the batch size. Wu et al., BMVC 2022, Tables 1 and 2.
    """
    optim = Optim(name="lars", lr=0.3, weight_decay=1e-6, exclude_norm_and_bias=True, warmup_epochs=10.0)
    return SimclrConfig(model=replace(RESNET50, zero_init_residual=True), optim=optim, epochs=800, sync_norm=True)


def moco_cub_r50_imagenet() -> MocoConfig:
    """MoCo v2 with ResNet-50 from ImageNet weights, 100 epochs, batches of 128: the baseline of the synthesized pairs.

    fgtrain run moco-cub-r50-imagenet --data.shards shards/cub

    CUB, linear: 68.30, as users of LCR's code quote its paper; they reach 59.9. The learning rate of 0.03 is for
    batches of 128, so 0.06 per 256 here; the head has 256 channels, as theirs. Wang et al., ECCV 2024, Tables 1 to 5
    (published figures not included).
    """
    data, optim = Data(batch_size=128), Optim(lr=0.06)
    return MocoConfig(data=data, model=RESNET50, optim=optim, epochs=100, init="imagenet", moco=LCR_MOCO)


def simsiam_cub_r50() -> SimsiamConfig:
    """SimSiam with ResNet-50 from ImageNet weights, 100 epochs, batches of 128: a row of the synthesized-pair paper.

    fgtrain run simsiam-cub-r50 --data.shards shards/cub

    A learning rate of 0.05 for batches of 128, here 0.1 per 256. Wang et al., ECCV 2024, Table 3 (published
    figures not included).
    """
    data, model = Data(batch_size=128), replace(RESNET50, zero_init_residual=True)
    return SimsiamConfig(data=data, model=model, optim=Optim(lr=0.1), epochs=100, init="imagenet", sync_norm=True)


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

    The upper bound of the synthesized-pair paper; published figures not included. The learning rate is ours. Wang et
    al., ECCV 2024, Tables 3 and 4.
    """
    return replace(
        supervised(), data=Data(batch_size=128), model=RESNET50, optim=Optim(lr=0.01), epochs=100, init="imagenet"
    )


def rotation() -> RotationConfig:
    """Predicts which of four rotations was applied, from scratch: SGD 0.4 per 256 images, cosine.

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
    """Predicts in which of eight directions one patch lies from another, from scratch: SGD 0.1 per 256 images, cosine.

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
    """LooC with rotation on MoCo v2, from scratch: SGD 0.03 per 256 samples, cosine.

    fgtrain run looc

    The authors published no code; the terms of the loss and the queues are our reading. The encoder's pooled features
    are evaluated, without the heads. Xiao, Wang, Efros, Darrell, ICLR 2021.
    """
    return LoocConfig()


def looc_cub_r50() -> LoocConfig:
    """LooC with ResNet-50, 800 epochs: LooC* of the CVSA paper.

    fgtrain run looc-cub-r50 --data.shards shards/cub

    Fine-tuned: Aircraft 72.49; published figures of the other sets not included. After COCO: CUB 68.71, NAbirds 74.45,
    Aircraft 81.75, Cars 85.90. Wu et al., BMVC 2022, Tables 1 and 2.
    """
    return replace(looc(), model=RESNET50, epochs=800)


def moco_sinkhorn() -> MocoConfig:
    """MoCo v2 with soft positives: every key of the batch, by its share in a Sinkhorn assignment. From scratch.

    fgtrain run moco-sinkhorn

    SGD 0.03 per 256 samples, cosine. Neither paper's code was found: the temperature of 0.05, and the other keys of the
    batch as negatives, are our reading. After ReSA (ICML 2025) and CLUE (submitted to ICLR 2026).
    """
    return MocoConfig(moco=MocoSettings(targets="sinkhorn"))


def moco_sinkhorn_cub_r50() -> MocoConfig:
    """moco-sinkhorn with ResNet-50 from ImageNet weights, 100 epochs, batches of 128.

    fgtrain run moco-sinkhorn-cub-r50 --data.shards shards/cub

    CUB, linear: 65.82, with plain InfoNCE 62.29, as a reviewer of CLUE quotes it. The settings are those of the MoCo v2
    that LCR and the synthesized-pair paper compare with.
    """
    return replace(
        moco_sinkhorn(),
        data=Data(batch_size=128),
        model=RESNET50,
        optim=Optim(lr=0.06),
        epochs=100,
        init="imagenet",
        moco=replace(LCR_MOCO, targets="sinkhorn"),
    )


def lcr() -> LcrConfig:
    """LCR on MoCo v2 from scratch: attention, fitted to Grad-CAM of the contrastive loss, weights the pooling in tests.

    fgtrain run lcr

    The target is scaled in each image (ours): that of the authors' code is flat. Shu, van den Hengel, Liu, CVPR 2023.
    """
    return LcrConfig(moco=MocoSettings(dim=256))


def lcr_byol() -> LcrConfig:
    """LCR on BYOL from scratch: LARS 0.3 per 256 samples, cosine.

    fgtrain run lcr-byol

    The divergence is that of both views; the authors' code uses the first. It also crops from 0.08 of the image,
    solarises one in five of the second views, and keeps the target's momentum at 0.996; here the views are MoCo v2's,
    and it rises to 1 as in BYOL. Shu, van den Hengel, Liu, CVPR 2023.
    """
    optim = Optim(name="lars", lr=0.3, weight_decay=1.5e-6, exclude_norm_and_bias=True, warmup_epochs=10.0)
    return LcrConfig(base="byol", optim=optim, sync_norm=True)


def lcr_cub_r50() -> LcrConfig:
    """LCR on MoCo v2 with ResNet-50 from ImageNet weights, 100 epochs, batches of 128: a row of both later papers.

    fgtrain run lcr-cub-r50 --data.shards shards/cub

    CUB, linear: 71.31, MoCo v2 68.30, as users of the authors' code quote the paper's Table 2; they reach 64.7 to 66.9.
    The learning rate of 0.03 is for batches of 128, so 0.06 per 256 here. The authors choose the epoch on the
    test split. Shu, van den Hengel, Liu, CVPR 2023; Wang et al., ECCV 2024, Table 3.
    """
    return replace(
        lcr(),
        data=Data(batch_size=128),
        model=RESNET50,
        optim=Optim(lr=0.06),
        epochs=100,
        init="imagenet",
        moco=LCR_MOCO,
    )


def lcr_byol_cub_r50() -> LcrConfig:
    """LCR on BYOL with ResNet-50 from ImageNet weights, 100 epochs, batches of 128.

    fgtrain run lcr-byol-cub-r50 --data.shards shards/cub

    Published figures not included. Shu, van den Hengel, Liu, CVPR 2023.
    """
    return replace(lcr_byol(), data=Data(batch_size=128), model=RESNET50, epochs=100, init="imagenet")


def sam_ssl_cub_r50() -> LcrConfig:
    """SAM without labels: lcr-cub-r50 with 16 filters, and the network's own pooled feature at test time.

    fgtrain run sam-ssl-cub-r50 --data.shards shards/cub

    The row "SAM" of the synthesized-pair paper; published figures not included. Shu et al., ECCV 2022 and CVPR 2023;
    Wang et al., ECCV 2024, Table 3.
    """
    return replace(lcr_cub_r50(), attend=AttendSettings(filters=16, pool="mean"))


def sam_ssl_bilinear_cub_r50() -> LcrConfig:
    """sam-ssl-cub-r50 with the attended feature at test time.

    fgtrain run sam-ssl-bilinear-cub-r50 --data.shards shards/cub

    Published figures not included. Shu, van den Hengel, Liu, CVPR 2023.
    """
    return replace(lcr_cub_r50(), attend=AttendSettings(filters=16))


def sam() -> SamConfig:
    """Supervised training with attention fitted to the activation map of the true class, for few labels.

    fgtrain run sam

    SGD 0.001 for batches of 24, ten times that for the classifier, Nesterov. A cosine in place of the paper's steps;
    RandomResizedCrop and flip without its RandAugment. Shu, Yu, Xu, Liu, ECCV 2022.
    """
    return SamConfig(views=PLAIN, optim=Optim(lr=0.001 * 256 / 24, nesterov=True))


def sam_cub_r50() -> SamConfig:
    """SAM with ResNet-50 from ImageNet weights, batches of 24, 120 epochs (30,000 steps of CUB's train split).

    fgtrain run sam-cub-r50 --data.shards shards/cub

    Published figures not included. Shu, Yu, Xu, Liu, ECCV 2022.
    """
    return replace(sam(), data=Data(batch_size=24), model=RESNET50, epochs=120, init="imagenet")


def lewel() -> LewelConfig:
    """LEWEL on BYOL, from scratch: LARS 0.45 per 256 samples, cosine.

    fgtrain run lewel

    The version with synchronised batch norm. The views are BYOL's, with crops of a fifth of the image or more. Huang et
    al., CVPR 2022.
    """
    optim = Optim(name="lars", lr=0.45, weight_decay=1e-6, exclude_norm_and_bias=True, warmup_epochs=10.0)
    views = ViewSpec(saturation=0.2, blur=(1.0, 0.1), solarize=(0.0, 0.2))
    return LewelConfig(views=views, optim=optim, sync_norm=True)


def lewel_cub_r50() -> LewelConfig:
    """LEWEL with ResNet-50 from ImageNet weights, 100 epochs, batches of 128: a row of the synthesized-pair paper.

    fgtrain run lewel-cub-r50 --data.shards shards/cub

    Published figures not included; the paper does not state the base. Wang et al., ECCV 2024, Table 3.
    """
    return replace(lewel(), data=Data(batch_size=128), model=RESNET50, epochs=100, init="imagenet")


COMPARISON_RECIPES = {
    "simclr-cub-r50": simclr_cub_r50,
    "moco-cub-r50-imagenet": moco_cub_r50_imagenet,
    "simsiam-cub-r50": simsiam_cub_r50,
    "supervised": supervised,
    "supervised-cub-r50-scratch": supervised_cub_r50_scratch,
    "supervised-cub-r50": supervised_cub_r50,
    "rotation": rotation,
    "rotation-cub-r50": rotation_cub_r50,
    "relative-location": relative_location,
    "relative-location-cub-r50": relative_location_cub_r50,
    "looc": looc,
    "looc-cub-r50": looc_cub_r50,
    "moco-sinkhorn": moco_sinkhorn,
    "moco-sinkhorn-cub-r50": moco_sinkhorn_cub_r50,
    "lcr": lcr,
    "lcr-byol": lcr_byol,
    "lcr-cub-r50": lcr_cub_r50,
    "lcr-byol-cub-r50": lcr_byol_cub_r50,
    "sam-ssl-cub-r50": sam_ssl_cub_r50,
    "sam-ssl-bilinear-cub-r50": sam_ssl_bilinear_cub_r50,
    "sam": sam,
    "sam-cub-r50": sam_cub_r50,
    "lewel": lewel,
    "lewel-cub-r50": lewel_cub_r50,
}
