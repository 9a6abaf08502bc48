"""Compares recipes with the papers. Learning rates here are the actual ones, for the recipe's own batch size."""

from dataclasses import replace

import pytest

from fgtrain.settings import file, recipes
from fgtrain.settings.bases import MocoSettings
from fgtrain.studies import declaration

# name: method, base | backbone | batch, learning rate on it, weight decay, optimiser | epochs | crop
PUBLISHED = {
    # He et al. 2020, Chen et al. 2020: lr 0.03 at batch 256, weight decay 1e-4
    "moco": ("moco", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "rrc"),
    "moco-cub-r50": ("moco", "", "resnet50", 256, 0.03, 1e-4, "sgd", 800, "rrc"),
    "moco-swap-cub-r18": ("moco", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "saliency-swap"),
    # Chen and He 2021, section 3: lr 0.05 at batch 256, weight decay 1e-4
    "simsiam": ("simsiam", "", "resnet18", 256, 0.05, 1e-4, "sgd", 400, "rrc"),
    # Chen et al. 2020, section 2.2: lr 0.3 x batch / 256, weight decay 1e-6, LARS
    "simclr": ("simclr", "", "resnet18", 256, 0.3, 1e-6, "lars", 400, "rrc"),
    # CVSA: lr 0.6 (Cars 0.3) x batch / 256, batch 1024, section 3.1 and appendix A.1; the rest as BYOL: LARS, 1.5e-6
    "byol": ("byol", "", "resnet18", 256, 0.6, 1.5e-6, "lars", 400, "rrc"),
    "byol-cub-r50": ("byol", "", "resnet50", 1024, 2.4, 1.5e-6, "lars", 800, "rrc"),
    "byol-cub-r18": ("byol", "", "resnet18", 1024, 2.4, 1.5e-6, "lars", 400, "rrc"),
    "byol-swap-cub-r18": ("byol", "", "resnet18", 1024, 2.4, 1.5e-6, "lars", 400, "saliency-swap"),
    "cvsa": ("cvsa", "byol", "resnet18", 256, 0.6, 1.5e-6, "lars", 400, "saliency-swap"),
    "cvsa-moco": ("cvsa", "moco", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "saliency-swap"),
    "cvsa-cub-r18": ("cvsa", "byol", "resnet18", 1024, 2.4, 1.5e-6, "lars", 400, "saliency-swap"),
    "cvsa-cub-r50": ("cvsa", "byol", "resnet50", 1024, 2.4, 1.5e-6, "lars", 800, "saliency-swap"),
    "cvsa-cub-r50-dual": ("cvsa", "byol", "resnet50", 1024, 2.4, 1.5e-6, "lars", 800, "saliency-swap"),
    "cvsa-cars-r50": ("cvsa", "byol", "resnet50", 1024, 1.2, 1.5e-6, "lars", 800, "saliency-swap"),
    # CVSA, appendix A.1, for a task of two classes: lr 0.1, weight decay 1e-4; the rate from ImageNet weights is ours
    "supervised": ("supervised", "", "resnet18", 256, 0.1, 1e-4, "sgd", 400, "rrc"),
    "supervised-cub-r50-scratch": ("supervised", "", "resnet50", 256, 0.1, 1e-4, "sgd", 800, "rrc"),
    "supervised-cub-r50": ("supervised", "", "resnet50", 128, 0.005, 1e-4, "sgd", 100, "rrc"),
    # OpenMixup: rotation lr 0.2 at 128 images, relative location 0.2 at 512, weight decay 1e-4
    "rotation": ("rotation", "", "resnet18", 256, 0.4, 1e-4, "sgd", 400, "rrc"),
    "rotation-cub-r50": ("rotation", "", "resnet50", 256, 0.4, 1e-4, "sgd", 800, "rrc"),
    "relative-location": ("relative-location", "", "resnet18", 256, 0.1, 1e-4, "sgd", 400, "rrc"),
    "relative-location-cub-r50": ("relative-location", "", "resnet50", 256, 0.1, 1e-4, "sgd", 800, "rrc"),
    # LooC: as MoCo v2 here
    "looc": ("looc", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "rrc"),
    "looc-cub-r50": ("looc", "", "resnet50", 256, 0.03, 1e-4, "sgd", 800, "rrc"),
    # Soft positives: as MoCo v2 of the two protocols
    "moco-sinkhorn": ("moco", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "rrc"),
    "moco-sinkhorn-cub-r50": ("moco", "", "resnet50", 128, 0.03, 1e-4, "sgd", 100, "rrc"),
    # LCR: lr 0.03 at 128 images; on BYOL LARS 0.3 per 256, 1.5e-6. SAM: lr 0.001 at 24 images, 30,000 steps
    "lcr": ("lcr", "moco", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "rrc"),
    "lcr-byol": ("lcr", "byol", "resnet18", 256, 0.3, 1.5e-6, "lars", 400, "rrc"),
    "lcr-cub-r50": ("lcr", "moco", "resnet50", 128, 0.03, 1e-4, "sgd", 100, "rrc"),
    "lcr-byol-cub-r50": ("lcr", "byol", "resnet50", 128, 0.15, 1.5e-6, "lars", 100, "rrc"),
    "sam-ssl-cub-r50": ("lcr", "moco", "resnet50", 128, 0.03, 1e-4, "sgd", 100, "rrc"),
    "sam-ssl-bilinear-cub-r50": ("lcr", "moco", "resnet50", 128, 0.03, 1e-4, "sgd", 100, "rrc"),
    "sam": ("sam", "", "resnet18", 256, 0.001 * 256 / 24, 1e-4, "sgd", 400, "rrc"),
    "sam-cub-r50": ("sam", "", "resnet50", 24, 0.001, 1e-4, "sgd", 120, "rrc"),
    # LEWEL: LARS 7.2 at 4096 images, 1e-6
    "lewel": ("lewel", "", "resnet18", 256, 0.45, 1e-6, "lars", 400, "rrc"),
    "lewel-cub-r50": ("lewel", "", "resnet50", 128, 0.225, 1e-6, "lars", 100, "rrc"),
    # ContrastiveCrop and DiLo: the base's; the rows of the papers' tables have their protocols
    "contrastive-crop": ("moco", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "contrastive"),
    "contrastive-crop-byol": ("byol", "", "resnet18", 256, 0.6, 1.5e-6, "lars", 400, "contrastive"),
    "contrastive-crop-cub-r50": ("moco", "", "resnet50", 128, 0.03, 1e-4, "sgd", 100, "contrastive"),
    "contrastive-crop-own": ("moco", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "contrastive"),
    "contrastive-crop-own-cub-r50": ("moco", "", "resnet50", 128, 0.03, 1e-4, "sgd", 100, "contrastive"),
    "simccrop": ("moco", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "contrastive"),
    "dilo": ("moco", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "matte-paste"),
    "dilo-byol": ("byol", "", "resnet18", 256, 0.6, 1.5e-6, "lars", 400, "matte-paste"),
    "dilo-cub-r50": ("byol", "", "resnet50", 1024, 2.4, 1.5e-6, "lars", 800, "matte-paste"),
    # Grill et al. 2020, appendix: lr 0.2 x batch / 256; Chen et al. 2020, section 2.2: 0.3 x batch / 256
    "byol-imagenet": ("byol", "", "resnet50", 4096, 3.2, 1.5e-6, "lars", 1000, "rrc"),
    "simclr-imagenet": ("simclr", "", "resnet50", 4096, 4.8, 1e-6, "lars", 1000, "rrc"),
    # DINO, the code's commands: SGD 0.03 x batch / 256 for a ResNet-50, AdamW 0.0005 x batch / 256 for a ViT-S
    "dino": ("dino", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "rrc"),
    "dino-cub-r50": ("dino", "", "resnet50", 128, 0.015, 1e-4, "sgd", 100, "rrc"),
    "dino-vit": ("dino", "", "vit_small_patch16_224", 512, 0.001, 0.04, "adamw", 100, "rrc"),
    # CVSA, appendix A.1, for a task of two classes
    "foreground": ("foreground", "", "resnet18", 256, 0.1, 1e-4, "sgd", 400, "rrc"),
    "foreground-mixup": ("foreground", "", "resnet18", 256, 0.1, 1e-4, "sgd", 400, "rrc"),
    "foreground-cutmix": ("foreground", "", "resnet18", 256, 0.1, 1e-4, "sgd", 400, "rrc"),
    "foreground-saliencymix": ("foreground", "", "resnet18", 256, 0.1, 1e-4, "sgd", 400, "rrc"),
    "foreground-cub-r50": ("foreground", "", "resnet50", 256, 0.1, 1e-4, "sgd", 800, "rrc"),
    # InsLoc, the code: lr 0.03 at batch 256, weight decay 1e-4
    "insloc": ("insloc", "", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "paste"),
    "insloc-cub-r50": ("insloc", "", "resnet50", 256, 0.03, 1e-4, "sgd", 800, "paste"),
    # PAPN, the code: lr 0.03 at batch 128, weight decay 1e-4
    "papn": ("papn", "", "resnet18", 256, 0.06, 1e-4, "sgd", 400, "rrc"),
    "papn-cub-r50": ("papn", "", "resnet50", 128, 0.03, 1e-4, "sgd", 100, "rrc"),
    # The systems that the two papers compare with, in their protocols
    "simclr-cub-r50": ("simclr", "", "resnet50", 256, 0.3, 1e-6, "lars", 800, "rrc"),
    "moco-cub-r50-imagenet": ("moco", "", "resnet50", 128, 0.03, 1e-4, "sgd", 100, "rrc"),
    "simsiam-cub-r50": ("simsiam", "", "resnet50", 128, 0.05, 1e-4, "sgd", 100, "rrc"),
    # Synthesized pairs, appendix B: lr 0.03 (SimSiam 0.05) and weight decay 1e-4, batch 128, 100 epochs
    "synth-pair": ("synth-pair", "moco", "resnet18", 256, 0.03, 1e-4, "sgd", 400, "rrc"),
    "synth-pair-simsiam": ("synth-pair", "simsiam", "resnet18", 256, 0.05, 1e-4, "sgd", 400, "rrc"),
    "synth-pair-cub-r50": ("synth-pair", "moco", "resnet50", 128, 0.03, 1e-4, "sgd", 100, "rrc"),
    "synth-pair-simsiam-cub-r50": ("synth-pair", "simsiam", "resnet50", 128, 0.05, 1e-4, "sgd", 100, "rrc"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_values(name: str):
    c = recipes.RECIPES[name]()
    rate = c.optim.lr * c.data.batch_size / 256
    found = (c.method, getattr(c, "base", ""), c.model.backbone, c.data.batch_size, pytest.approx(rate))
    assert PUBLISHED[name] == (*found, c.optim.weight_decay, c.optim.name, c.epochs, c.views.crop)
    assert c.optim.momentum == 0.9
    excluded = c.optim.name == "lars" or c.method == "dino"  # SimCLR, section 2.2; BYOL, section 3.3; DINO's code
    assert c.optim.exclude_norm_and_bias == excluded
    pretext = c.method in ("rotation", "relative-location")  # OpenMixup: 5 epochs
    assert c.optim.warmup_epochs == (10 if excluded else 5 if pretext else 0)


def test_every_recipe_is_compared_with_a_paper_or_says_that_it_is_ours():
    ours = {"demo", "dino-box", "byol-vit", "cvsa-vit", "cvsa-convnext", "cvsa-lite0", "synth-pair-lite0"}
    ours |= {"box-distill", "box-distill-lite0"}
    assert set(recipes.RECIPES) - set(PUBLISHED) == ours
    for name in ours - {"demo"}:
        assert "settings are ours" in (recipes.RECIPES[name].__doc__ or "").replace("\n    ", " "), name


def test_rows_on_moco_of_the_synthesized_pairs_differ_only_in_their_method():
    """MoCo v2 of LCR's code, whose protocol the paper follows: a head of 256 channels, 65,536 negatives."""
    rows = {}
    for row in declaration.load("synth-pair-table-3").rows:
        config = recipes.RECIPES[row.recipe]()
        config = file.from_dict(file.merge(file.to_dict(config), row.settings), row.name)
        if hasattr(config, "moco") and getattr(config, "base", "moco") == "moco":
            rows[row.name] = config.moco
    assert rows.keys() == {"MoCo v2", "DiLo", "ContrastiveCrop", "SAM", "LCR", "Synthesized pairs"}
    assert set(rows.values()) == {MocoSettings(dim=256, queue=65536, tau=0.2, ema=0.999, norm=False)}
    soft = recipes.RECIPES["moco-sinkhorn-cub-r50"]().moco
    assert replace(soft, targets="identity") == rows["MoCo v2"]


def test_the_settings_of_each_method_are_published_ones():
    byol, cvsa, moco, simsiam, simclr, pair = (
        recipes.RECIPES[name]() for name in ("byol", "cvsa", "moco", "simsiam", "simclr", "synth-pair-cub-r50")
    )
    assert (byol.byol.hidden, byol.byol.dim, byol.byol.ema) == (4096, 256, 0.996)
    assert (cvsa.byol, cvsa.align.dim, cvsa.align.stages, cvsa.align.weight) == (byol.byol, 256, (4,), 1)
    assert cvsa.views.patch_area == 0.5
    assert (moco.moco.dim, moco.moco.tau, moco.moco.ema) == (128, 0.2, 0.999)
    assert (simsiam.simsiam.hidden, simsiam.simsiam.dim, simsiam.simsiam.bottleneck) == ("auto", 2048, 512)
    assert (simclr.simclr.dim, simclr.simclr.tau) == (128, 0.1)
    p = pair.pair
    crop, centre, dilo = (recipes.RECIPES[name]().views for name in ("contrastive-crop-cub-r50", "simccrop", "dilo"))
    assert (crop.crop_alpha, crop.crop_box, centre.crop_box, dilo.matte) == (0.6, "detector", "centre", 0.3)
    own = recipes.RECIPES["contrastive-crop-own-cub-r50"]()  # Peng et al. 2022, the code's configs for ImageNet
    assert (own.views.crop_box, own.views.crop_alpha) == ("given", 0.6)
    assert (own.own_boxes.first, own.own_boxes.every, own.own_boxes.threshold) == (20, 20, 0.1)
    soft = recipes.RECIPES["moco-sinkhorn-cub-r50"]().moco
    assert (soft.targets, soft.targets_eps, soft.queue) == ("sinkhorn", 0.05, 65536)
    v = recipes.RECIPES["byol-imagenet"]().views  # Grill et al. 2020, Table 6
    assert (v.area, v.jitter, v.brightness, v.contrast, v.saturation, v.hue) == ((0.08, 1), 0.8, 0.4, 0.4, 0.2, 0.1)
    assert (v.grayscale, v.blur, v.solarize, v.sigma) == (0.2, (1, 0.1), (0, 0.2), (0.1, 2))
    v = recipes.RECIPES["simclr-imagenet"]().views  # Chen et al. 2020, appendix A, strength 1
    assert (v.area, v.jitter, v.brightness, v.contrast, v.saturation, v.hue) == ((0.08, 1), 0.8, 0.8, 0.8, 0.8, 0.2)
    assert (v.grayscale, v.blur, v.solarize) == (0.2, 0.5, 0)
    assert (p.kappa_quantile, p.bank_normalize) == (0, "l2")  # Eq. 6 as printed
    assert (p.alpha, p.nu, p.eps_gradcam, p.eps_variance, p.kappa, p.bank) == (1, 0.5, 0.1, 0.05, 0.02, 5632)
    assert (pair.moco.queue, pair.init, pair.reconstruct.epochs, pair.reconstruct.lr) == (65536, "imagenet", 200, 1e-4)
    assert recipes.RECIPES["cvsa-cub-r50-dual"]().freeze_stages == 2
    assert recipes.RECIPES["moco-cub-r50"]().moco.queue == 65536
