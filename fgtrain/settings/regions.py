"""Settings and recipes of two methods that build images from two sources: foreground (images of the set against those
of other sets) and InsLoc (pasted crops). A docstring under a field is its `--help`."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fgdata.views.spec import ViewSpec

from .bases import MocoSettings, need_auto
from .common import Config, Data, Model, Optim, need, need_between, need_plain


@dataclass(frozen=True)
class MixSettings:
    """Mixing each image with another one of the batch."""

    kind: Literal["none", "mixup", "cutmix", "saliencymix"] = "none"
    """mixup: a weighted mean of both (Zhang et al. 2018). cutmix: a rectangle of the other one at a random place (Yun
    et al. 2019). saliencymix: a rectangle around the centre of the other one's box (after Uddin et al. 2021, who use
    its most salient pixel); images of other sets, which have no box, give a random place."""
    alpha: float = 1.0
    """The first image's share is Beta(alpha, alpha)-distributed."""
    per: Literal["pair", "batch"] = "pair"
    """Draw one share for each pair, or one for all pairs of a batch."""

    def __post_init__(self) -> None:
        need_between(0.001, self.alpha, 1000, "mix.alpha")


@dataclass(frozen=True)
class InslocSettings:
    """InsLoc (Yang et al. 2021) without a feature pyramid."""

    bins: Literal["auto"] | int = "auto"
    """Side of a region's map, cut from the network's map of stride 16. auto: 14, or that of the whole view's map if it
    is smaller."""
    iou: float = 0.5
    """The query's box is a random anchor that overlaps the pasted crop by more than this IoU, 0 to 0.99; the
    best anchor, if none does. `overlap` in metrics.jsonl is the mean IoU."""

    def __post_init__(self) -> None:
        need_auto(self.bins, 128, "insloc.bins")
        need_between(0, self.iou, 0.99, "insloc.iou")


@dataclass(frozen=True)
class ForegroundConfig(Config):
    method: ClassVar[str] = "foreground"
    objective: ClassVar[str] = "fgtrain.objectives.foreground:Foreground"
    kind: ClassVar[str] = "pretext"
    view_count: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("backgrounds",)

    views: ViewSpec = ViewSpec(views=1)
    mix: MixSettings = MixSettings()


@dataclass(frozen=True)
class InslocConfig(Config):
    method: ClassVar[str] = "insloc"
    objective: ClassVar[str] = "fgtrain.objectives.insloc:Insloc"
    kind: ClassVar[str] = "contrastive + detection"

    views: ViewSpec = ViewSpec(crop="paste")
    moco: MocoSettings = MocoSettings()
    insloc: InslocSettings = InslocSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        need_plain(self, "computes the stages of its network one by one")
        self.moco.need_queue(self.data.batch_size)
        need(not self.moco.symmetric, "moco.symmetric", "on", "off: only the query's box is moved")
        need(self.moco.targets == "identity", "moco.targets", self.moco.targets, "identity, with insloc")
        need(self.views.crop == "paste", "views.crop", self.views.crop, "paste, whose place is the region")
        networks = ("resnet18", "resnet50")
        ok = self.model.backbone in networks
        need(ok, "model.backbone", self.model.backbone, f"{' and '.join(networks)}, whose last stage sees regions")


RESNET50 = Model("resnet50")
BINARY = Optim(lr=0.1)


def foreground() -> ForegroundConfig:
    """Images of the set against images of other sets, from scratch: SGD 0.1 per 256 samples, cosine.

    fgtrain run foreground --data.backgrounds shards/coco

    A network that tells them apart also localises: Wu et al., BMVC 2022, Figure A1 right (published figures not
    included). MoCo v2's views; a batch has as many images of the other sets.
    """
    return ForegroundConfig(optim=BINARY)


def foreground_mixup() -> ForegroundConfig:
    """foreground with Mixup, which harms localisation in the CVSA paper.

    fgtrain run foreground-mixup --data.backgrounds shards/coco

    Wu et al., BMVC 2022, Figure A1 right (published figures not included); the paper does not state alpha.
    """
    return replace(foreground(), mix=MixSettings("mixup"))


def foreground_cutmix() -> ForegroundConfig:
    """foreground with CutMix, which helps localisation in the CVSA paper.

    fgtrain run foreground-cutmix --data.backgrounds shards/coco

    Wu et al., BMVC 2022, Figure A1 right (published figures not included); the paper does not state alpha.
    """
    return replace(foreground(), mix=MixSettings("cutmix"))


def foreground_saliencymix() -> ForegroundConfig:
    """foreground with SaliencyMix around the centre of the set's boxes, which helps localisation in the CVSA paper.

    fgtrain run foreground-saliencymix --data.backgrounds shards/coco

    Wu et al., BMVC 2022, Figure A1 right (published figures not included); the paper does not state alpha, and uses the
    most salient pixel.
    """
    return replace(foreground(), views=ViewSpec(views=1, boxes=True), mix=MixSettings("saliencymix"))


def foreground_cub_r50() -> ForegroundConfig:
    """foreground with ResNet-50, 800 epochs: CUB against COCO, the CVSA paper's experiment. Its --mix.kind: four rows.

    fgtrain run foreground-cub-r50 --data.shards shards/cub --data.backgrounds shards/coco

    Wu et al., BMVC 2022, appendix A and Figure A1 right (published figures not included).
    """
    return replace(foreground(), model=RESNET50, epochs=800)


def insloc() -> InslocConfig:
    """InsLoc on MoCo v2: random crops pasted onto other images, contrasted by regions; 256 px, from scratch.

    fgtrain run insloc

    SGD 0.03 per 256 samples with Nesterov's momentum. The authors published the version with a feature pyramid only:
    COCO, box AP 41.4, MoCo v2 39.8; without it 39.5, MoCo v2 38.9, R50-C4, 200 epochs of ImageNet. A method for
    detection. Yang, Wu, Zhou, Lin, CVPR 2021.
    """
    views = ViewSpec(size=256, crop="paste", aspect=(0.5, 2.0))
    return InslocConfig(views=views, optim=Optim(lr=0.03, nesterov=True))


def insloc_cub_r50() -> InslocConfig:
    """InsLoc with ResNet-50, 800 epochs: a row of the CVSA paper.

    fgtrain run insloc-cub-r50 --data.shards shards/cub

    Fine-tuned: Aircraft 73.43; published figures of the other sets not included. After COCO: CUB 67.94, NAbirds 76.36,
    Aircraft 81.54, Cars 86.38. Wu et al., BMVC 2022, Tables 1 and 2.
    """
    return replace(insloc(), data=Data(), model=RESNET50, epochs=800, moco=MocoSettings(queue=65536))


REGION_RECIPES = {
    "foreground": foreground,
    "foreground-mixup": foreground_mixup,
    "foreground-cutmix": foreground_cutmix,
    "foreground-saliencymix": foreground_saliencymix,
    "foreground-cub-r50": foreground_cub_r50,
    "insloc": insloc,
    "insloc-cub-r50": insloc_cub_r50,
}
