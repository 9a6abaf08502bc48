"""One function per recipe: its published settings, its command and its source.

`fgtrain run NAME` starts from these settings, and flags change them. A method's own name (`cvsa`, `moco`) has the
published optimiser and schedule with a ResNet-18 and batches of 256 for one GPU. A name with a dataset in it is a row
of a paper's table with everything the paper states. The CVSA paper uses the annotated boxes, so those rows need a shard
set with the detector gt, or --data.detector. Every recipe runs on any dataset.
"""

from collections.abc import Callable
from dataclasses import replace

from fgdata.views.spec import ViewSpec

from .bases import LCR_MOCO
from .common import Config, Data, Model, Optim
from .comparison_recipes import COMPARISON_RECIPES
from .distillation import DISTILLATION_RECIPES
from .methods import (
    AlignSettings,
    ByolConfig,
    CvsaConfig,
    MocoConfig,
    MocoSettings,
    PairSettings,
    ReconstructSettings,
    SimclrConfig,
    SimsiamConfig,
    SynthPairConfig,
)
from .multicrop import MULTICROP_RECIPES
from .papn import PAPN_RECIPES
from .regions import REGION_RECIPES
from .view_recipes import VIEW_RECIPES

ADAMW = Optim(name="adamw", lr=5e-4, weight_decay=0.05, exclude_norm_and_bias=True, warmup_epochs=2.0)
LARS = Optim(name="lars", lr=0.6, momentum=0.9, weight_decay=1.5e-6, exclude_norm_and_bias=True, warmup_epochs=10.0)
SGD = Optim(name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-4)
RESNET50 = Model("resnet50")
ZERO_INIT = Model(zero_init_residual=True)
SWAP = ViewSpec(crop="saliency-swap")
LARGE = Data(batch_size=1024, detector="gt")


def moco() -> MocoConfig:
    """MoCo v2 from scratch on RandomResizedCrop views: SGD 0.03 per 256 samples, cosine.

    fgtrain run moco

    Chen, Fan, Girshick, He, arXiv 2003.04297.
    """
    return MocoConfig(optim=SGD)


def simsiam() -> SimsiamConfig:
    """SimSiam from scratch on RandomResizedCrop views: SGD 0.05 per 256 samples, cosine; constant for the predictor.

    fgtrain run simsiam

    Residual blocks start as the identity, as in the authors' code. Chen, He, CVPR 2021.
    """
    return SimsiamConfig(model=ZERO_INIT, optim=replace(SGD, lr=0.05), sync_norm=True)


def byol() -> ByolConfig:
    """BYOL from scratch on RandomResizedCrop views: LARS 0.6 per 256 samples as the CVSA paper tunes it, cosine.

    fgtrain run byol

    Crop, colour and blur are MoCo v2's, the same for both views; the paper has more blur in the first view and
    solarises the second. Grill et al., NeurIPS 2020.
    """
    return ByolConfig(optim=LARS, sync_norm=True)


def simclr() -> SimclrConfig:
    """SimCLR from scratch on RandomResizedCrop views: LARS 0.3 per 256 samples, cosine. The paper's batch size is 4096.

    fgtrain run simclr

    Crop, colour and blur are MoCo v2's; the paper's colour jitter is twice as strong. Residual blocks start as the
    identity, as in the authors' code. Chen, Kornblith, Norouzi, Hinton, ICML 2020.
    """
    return SimclrConfig(model=ZERO_INIT, optim=replace(LARS, lr=0.3, weight_decay=1e-6), sync_norm=True)


def cvsa() -> CvsaConfig:
    """CVSA on BYOL from scratch: SaliencySwap views and the alignment loss.

    fgtrain run cvsa

    The paper calls training from scratch on the fine-grained set "second stage only". CUB, ResNet-50, 800 epochs,
    fine-tuned: 66.88, BYOL 64.85. Wu et al., BMVC 2022, Table 1.
    """
    return CvsaConfig(views=SWAP, optim=LARS, sync_norm=True)


def cvsa_moco() -> CvsaConfig:
    """CVSA on symmetric MoCo v2 from scratch: SaliencySwap views and the alignment loss.

    fgtrain run cvsa-moco

    SaliencySwap improves MoCo v2 as it does BYOL: Wu et al., BMVC 2022, Figure 3.
    """
    return replace(cvsa(), base="moco", optim=SGD, sync_norm=False)


def moco_cub_r50() -> MocoConfig:
    """MoCo v2 with ResNet-50, 800 epochs, and the queue of its paper: a baseline of the CVSA paper.

    fgtrain run moco-cub-r50 --data.shards shards/cub

    CUB, fine-tuned: 63.21, linear 15.03. Wu et al., BMVC 2022, Tables 1 and A1.
    """
    return replace(moco(), model=RESNET50, epochs=800, moco=MocoSettings(queue=65536))


def byol_cub_r50() -> ByolConfig:
    """BYOL with ResNet-50, 800 epochs, batches of 1024: the baseline of the CVSA paper.

    fgtrain run byol-cub-r50 --data.shards shards/cub

    CUB, fine-tuned: 64.85, linear 15.24. Wu et al., BMVC 2022, Tables 1 and A1.
    """
    return replace(byol(), model=RESNET50, epochs=800, data=Data(batch_size=1024))


def cvsa_cub_r50() -> CvsaConfig:
    """CVSA on BYOL with ResNet-50 from scratch, 800 epochs, batches of 1024. NAbirds and Aircraft: the same.

    fgtrain run cvsa-cub-r50 --data.shards shards/cub

    Fine-tuned: CUB 66.88, NAbirds 73.75, Aircraft 74.55. Wu et al., BMVC 2022, Table 1.
    """
    return replace(cvsa(), model=RESNET50, epochs=800, data=LARGE)


def cvsa_cars_r50() -> CvsaConfig:
    """cvsa-cub-r50 with the paper's learning rate for Stanford Cars, 0.3 per 256 samples.

    fgtrain run cvsa-cars-r50 --data.shards shards/cars

    Cars, fine-tuned: 77.45, BYOL 75.87. Wu et al., BMVC 2022, Table 1.
    """
    return replace(cvsa_cub_r50(), optim=replace(LARS, lr=0.3))


def cvsa_cub_r50_dual() -> CvsaConfig:
    """cvsa-cub-r50 as the second of two stages: from pretrained weights, with the stem and two stages frozen.

    fgtrain run cvsa-cub-r50-dual --data.shards shards/cub --init BYOL-CHECKPOINT

    The paper starts from BYOL on ImageNet (CUB, fine-tuned: 77.10, BYOL alone 76.63; Wu et al., BMVC 2022, Table 3) or
    on COCO (Table 2). Without --init it starts from torchvision's supervised ImageNet weights.
    """
    return replace(cvsa_cub_r50(), init="imagenet", freeze_stages=2)


def byol_cub_r18() -> ByolConfig:
    """BYOL with ResNet-18, 400 epochs, batches of 1024: the baseline of the CVSA paper's ablations.

    fgtrain run byol-cub-r18 --data.shards shards/cub

    Wu et al., BMVC 2022, Figure 3 left (without a number).
    """
    return replace(byol(), data=Data(batch_size=1024))


def byol_swap_cub_r18() -> ByolConfig:
    """byol-cub-r18 on SaliencySwap views: CVSA without its alignment loss.

    fgtrain run byol-swap-cub-r18 --data.shards shards/cub

    CUB, fine-tuned: RBD 64.34, ground truth 64.35. Wu et al., BMVC 2022, Table A2.
    """
    return replace(byol_cub_r18(), views=SWAP, data=LARGE)


def cvsa_cub_r18() -> CvsaConfig:
    """CVSA on BYOL with ResNet-18, 400 epochs, batches of 1024: the ablations of the CVSA paper.

    fgtrain run cvsa-cub-r18 --data.shards shards/cub

    CUB, fine-tuned: RBD 64.97, ground truth 65.02. Wu et al., BMVC 2022, Table A2.
    """
    return replace(cvsa(), data=LARGE)


def moco_swap_cub_r18() -> MocoConfig:
    """MoCo v2 with ResNet-18, 400 epochs, on SaliencySwap views.

    fgtrain run moco-swap-cub-r18 --data.shards shards/cub

    Wu et al., BMVC 2022, Figure 3 left (without a number).
    """
    return replace(moco(), views=SWAP, data=Data(detector="gt"), moco=MocoSettings(queue=65536))


def synth_pair() -> SynthPairConfig:
    """Synthesized pairs on MoCo v2 from scratch, with a small decoder. docs/training.md has the cost of a step.

    fgtrain run synth-pair

    Over MoCo v2, mean of CUB, Cars and Aircraft, ResNet-50, linear: +3.31. Wang et al., ECCV 2024, Table 1.
    """
    return SynthPairConfig(optim=SGD)


def synth_pair_simsiam() -> SynthPairConfig:
    """Synthesized pairs on SimSiam from scratch, with a small decoder.

    fgtrain run synth-pair-simsiam

    They improve SimSiam as they do MoCo v2: Wang et al., ECCV 2024, Table 3.
    """
    return SynthPairConfig(base="simsiam", model=ZERO_INIT, optim=replace(SGD, lr=0.05), sync_norm=True)


def synth_pair_cub_r50() -> SynthPairConfig:
    """Synthesized pairs on MoCo v2 with ResNet-50 from ImageNet weights, 100 epochs, batches of 128.

    fgtrain run synth-pair-cub-r50 --data.shards shards/cub

    The queue is the paper's, the head that of LCR's MoCo v2, and Eq. 6 is used as printed, so every dimension gets
    low-variance noise; the decoder has 27.0 M parameters and a warm-up of 200 epochs. Cars, Aircraft, GTSRB and ISIC
    2017 use the same settings. The paper's learning rate of 0.03 is for its batches of 128, so 0.06 per 256 here.
    Wang et al., ECCV 2024, Table 1.
    """
    return SynthPairConfig(
        data=Data(batch_size=128),
        model=RESNET50,
        optim=replace(SGD, lr=0.06),
        epochs=100,
        init="imagenet",
        moco=LCR_MOCO,
        pair=PairSettings(kappa_quantile=0.0, bank_normalize="l2"),
        reconstruct=ReconstructSettings(width=64, depth=2),
    )


def synth_pair_simsiam_cub_r50() -> SynthPairConfig:
    """synth-pair-cub-r50 on SimSiam: a learning rate of 0.05 for batches of 128, here 0.1 per 256.

    fgtrain run synth-pair-simsiam-cub-r50 --data.shards shards/cub

    Wang et al., ECCV 2024, Table 3.
    """
    return replace(
        synth_pair_cub_r50(), base="simsiam", moco=MocoSettings(), optim=replace(SGD, lr=0.1), sync_norm=True
    )


def byol_vit() -> ByolConfig:
    """BYOL on a ViT-S/16 from DINOv3's weights: AdamW, layer-wise decay, a tenth of the usual rate.

    fgtrain run byol-vit

    The settings are ours, after common practice in fine-tuning a ViT (layer decay 0.75, drop path 0.1, clipping at 1).
    """
    return ByolConfig(
        model=Model("vit_small_patch16_dinov3", drop_path=0.1),
        optim=replace(ADAMW, lr=1e-4, layer_decay=0.75, clip=1.0, warmup_epochs=5.0),
        epochs=100,
        init="timm:vit_small_patch16_dinov3.lvd1689m",
        sync_norm=True,
    )


def cvsa_vit() -> CvsaConfig:
    """CVSA on BYOL on a ViT-S/16 from DINOv3's weights; the loss aligns its patch grid.

    fgtrain run cvsa-vit

    byol-vit with SaliencySwap views and the alignment loss, whose heads are narrow, as the tokens are. The settings are
    ours.
    """
    base, align = byol_vit(), AlignSettings(hidden=512)
    return CvsaConfig(
        views=SWAP, model=base.model, optim=base.optim, epochs=base.epochs, init=base.init, sync_norm=True, align=align
    )


def cvsa_convnext() -> CvsaConfig:
    """CVSA on BYOL on a ConvNeXt-Tiny from ImageNet weights: AdamW, layer-wise decay.

    fgtrain run cvsa-convnext

    The settings are ours, those of cvsa-vit.
    """
    return replace(cvsa_vit(), model=Model("convnext_tiny", drop_path=0.1), init="timm:convnext_tiny.fb_in1k")


def cvsa_lite0() -> CvsaConfig:
    """CVSA as a second stage on an EfficientNet-Lite0 from ImageNet weights, sized for two cores: 128 px, batch 64.

    fgtrain run cvsa-lite0

    Batch norm keeps its ImageNet statistics: the poor statistics of small batches cause most of the accuracy loss of a
    second stage. The stem and four of seven stages are frozen. The settings are ours.
    """
    return CvsaConfig(
        data=Data(batch_size=64),
        views=replace(SWAP, size=128),
        model=Model("tf_efficientnet_lite0"),
        optim=replace(ADAMW, lr=2e-4),
        epochs=20,
        init="timm:tf_efficientnet_lite0.in1k",
        freeze_stages=4,
        norm="hold",
        align=AlignSettings(hidden=512),
    )


def synth_pair_lite0() -> SynthPairConfig:
    """Synthesized pairs as a second stage on an EfficientNet-Lite0 from ImageNet weights, sized for two cores.

    fgtrain run synth-pair-lite0

    cvsa-lite0's settings on MoCo v2, with a small decoder. The settings are ours.
    """
    base = cvsa_lite0()
    return SynthPairConfig(
        data=base.data,
        views=ViewSpec(size=128),
        model=base.model,
        optim=base.optim,
        epochs=20,
        init=base.init,
        freeze_stages=4,
        norm="hold",
        moco=MocoSettings(ema=0.99),
        reconstruct=ReconstructSettings(epochs=20, batch_size=64),
    )


def demo() -> CvsaConfig:
    """CVSA on MoCo, small enough to train in minutes on two cores: 64 px, a half-width ResNet-18, narrow heads, AdamW.

    fgtrain run demo --data.shards shards/demo

    Colour jitter changes the hue little and no view is grey, as the drawn birds differ in the colours of field marks.
    """
    return CvsaConfig(
        data=Data(batch_size=64),
        views=ViewSpec(size=64, crop="saliency-swap", hue=0.02, grayscale=0.0),
        model=Model(width=32),
        optim=Optim(name="adamw", lr=0.004, weight_decay=1e-4),
        base="moco",
        moco=MocoSettings(norm=True, ema=0.99),
        align=AlignSettings(hidden=128, dim=64),
        epochs=60,
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "cvsa": cvsa,
    "cvsa-moco": cvsa_moco,
    "moco": moco,
    "simsiam": simsiam,
    "byol": byol,
    "simclr": simclr,
    "cvsa-cub-r50": cvsa_cub_r50,
    "cvsa-cub-r50-dual": cvsa_cub_r50_dual,
    "cvsa-cars-r50": cvsa_cars_r50,
    "cvsa-cub-r18": cvsa_cub_r18,
    "byol-cub-r50": byol_cub_r50,
    "byol-cub-r18": byol_cub_r18,
    "byol-swap-cub-r18": byol_swap_cub_r18,
    "moco-cub-r50": moco_cub_r50,
    "moco-swap-cub-r18": moco_swap_cub_r18,
    "synth-pair": synth_pair,
    "synth-pair-simsiam": synth_pair_simsiam,
    "synth-pair-cub-r50": synth_pair_cub_r50,
    "synth-pair-simsiam-cub-r50": synth_pair_simsiam_cub_r50,
    "byol-vit": byol_vit,
    "cvsa-vit": cvsa_vit,
    "cvsa-convnext": cvsa_convnext,
    "cvsa-lite0": cvsa_lite0,
    "synth-pair-lite0": synth_pair_lite0,
    "demo": demo,
    **COMPARISON_RECIPES,
    **VIEW_RECIPES,
    **MULTICROP_RECIPES,
    **PAPN_RECIPES,
    **DISTILLATION_RECIPES,
    **REGION_RECIPES,
}
