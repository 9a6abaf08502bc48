"""The cases of tools/bench.py step, and the arithmetic that each method's definition asks for."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fgtrain.settings.common import Config, Model
from fgtrain.settings.comparisons import RelativeSettings
from fgtrain.settings.methods import AlignSettings, MocoSettings, ReconstructSettings, SynthPairConfig
from fgtrain.settings.recipes import RECIPES

VIT, LITE0 = Model("vit_small_patch16_224"), Model("tf_efficientnet_lite0")
CLASSES, MOST_VIEWS = 200, 8
NARROW = AlignSettings(hidden=512)
ATTENTION = 1.01
"""LCR and SAM: Grad-CAM stops at the last map, and the branch has 3 million multiply-adds."""


@dataclass(frozen=True)
class Case:
    """A config, the case that it is compared with, and what a step must compute for one image."""

    config: Config
    base: str | None = None
    passes: dict[int, float] = field(default_factory=dict)
    """Side of a view in pixels -> forward passes of the encoder; a backward pass counts as two. Empty: not stated."""
    heads: Callable[[int, int], float] = lambda dim, size: 0.0
    """Channels of the last map, side of the views -> billions of operations in heads. Heads count where they matter."""


def cases(size: int = 96) -> dict[str, Case]:
    """Name -> case, for views of `size` pixels. A base comes before the cases that build on it."""
    symmetric, pair = MocoSettings(symmetric=True), RECIPES["synth-pair"]()
    assert isinstance(pair, SynthPairConfig)
    cvsa, byol = RECIPES["cvsa"](), RECIPES["byol"]()
    small, patch, object_size = local_size(size), RelativeSettings().side(size), 32 * round(1.75 * size / 32)
    return {
        "byol": Case(byol, None, {size: 8}),
        "cvsa": Case(cvsa, "byol"),
        f"cvsa --align.hidden {NARROW.hidden}": Case(replace(cvsa, align=NARROW), "byol"),
        "cvsa --align.stages 3 4": Case(replace(cvsa, align=AlignSettings(stages=(3, 4))), "byol"),
        "moco": Case(RECIPES["moco"](), None, {size: 4}),
        "moco-sinkhorn": Case(RECIPES["moco-sinkhorn"](), "moco", {size: 4}),
        "moco --moco.symmetric": Case(replace(RECIPES["moco"](), moco=symmetric), None, {size: 8}),
        "cvsa-moco": Case(RECIPES["cvsa-moco"](), "moco --moco.symmetric"),
        "simsiam": Case(RECIPES["simsiam"](), None, {size: 6}),
        "simclr": Case(RECIPES["simclr"](), None, {size: 6}),
        "byol, ViT-S/16": Case(replace(byol, model=VIT)),
        "cvsa, ViT-S/16": Case(replace(cvsa, model=VIT), "byol, ViT-S/16"),
        "cvsa, ViT-S/16, narrow": Case(replace(cvsa, model=VIT, align=NARROW), "byol, ViT-S/16"),
        "byol, EfficientNet-Lite0": Case(replace(byol, model=LITE0)),
        "cvsa, EfficientNet-Lite0": Case(replace(cvsa, model=LITE0), "byol, EfficientNet-Lite0"),
        "cvsa, EfficientNet-Lite0, narrow": Case(replace(cvsa, model=LITE0, align=NARROW), "byol, EfficientNet-Lite0"),
        "supervised": Case(RECIPES["supervised"](), "moco", {size: 3}),
        "rotation": Case(RECIPES["rotation"](), "moco", {size: 4 * 3}),
        "relative-location": Case(RECIPES["relative-location"](), "moco", {patch: 9 * 3}),
        "looc": Case(RECIPES["looc"](), "moco", {size: 3 + 2}),
        "lcr": Case(RECIPES["lcr"](), "moco", {size: 4 * ATTENTION}),
        "lcr-byol": Case(RECIPES["lcr-byol"](), "byol", {size: 8 * ATTENTION}),
        "sam": Case(RECIPES["sam"](), "supervised", {size: 3 * ATTENTION}),
        "lewel": Case(RECIPES["lewel"](), "byol", {size: 8}, lewel_heads),
        "dino": Case(RECIPES["dino"](), "moco", {size: 2 * 3 + 2, small: 8 * 3}),
        "foreground": Case(RECIPES["foreground"](), "moco", {size: 2 * 3}),
        "foreground-saliencymix": Case(RECIPES["foreground-saliencymix"](), "moco", {size: 2 * 3}),
        "insloc": Case(RECIPES["insloc"](), "moco", {size: 4}),
        "papn": Case(RECIPES["papn"](), "moco", {size: 4 * 4}),
        "box-distill": Case(RECIPES["box-distill"](), "supervised", {size: 3, object_size: 1}),
        "contrastive-crop-own, finding boxes": Case(RECIPES["contrastive-crop-own"](), "moco", {size: 1}),
        # The cost of each part of synthesized pairs: the decoder, the pair of decoded images, the Grad-CAM scores.
        "synth-pair --pair.nu 0": Case(replace(pair, pair=replace(pair.pair, nu=0.0)), "moco"),
        "synth-pair --pair.perturb none": Case(replace(pair, pair=replace(pair.pair, perturb="none")), "moco"),
        "synth-pair": Case(pair, "moco"),
        "synth-pair, the paper's decoder": Case(
            replace(pair, reconstruct=ReconstructSettings(width=64, depth=2)), "moco"
        ),
    }


def lewel_heads(dim: int, size: int) -> float:
    """Two online views, with gradients, and two target views. The projectors process the pooled feature and every
    position, and 64 aligned embeddings; the predictors process one and 64 vectors."""
    positions, hidden, out, aligned = (size // 32) ** 2, 4096, 256, 64
    projectors = (1 + positions + aligned) * (dim * hidden + hidden * out)
    predictors = (1 + aligned) * 2 * out * hidden
    return 2 * (2 * 3 * (projectors + predictors) + 2 * projectors) / 1e9


def model_of(config: Config, backbone: str) -> Model:
    """The network of a case: its own if it names one, else `backbone`."""
    return config.model if config.model in (VIT, LITE0) else Model(backbone)


def local_size(size: int) -> int:
    """Side of the small views beside views of `size` pixels: 96 for 224, in multiples of 8."""
    return max(8, 8 * round(size * 96 / 224 / 8))
