"""A setting that another one turns off is named before the first step, and only then."""

import pytest
import tyro

from fgtrain.settings.idle import RULES, describe_idle
from fgtrain.settings.methods import METHODS
from fgtrain.settings.recipes import RECIPES

OFF_AND_ON = [
    ("cvsa", "--moco.tau 0.1", "--base moco"),
    ("cvsa", "--base moco --byol.ema 0.5", "--base byol"),
    ("synth-pair", "--simsiam.dim 64", "--base simsiam"),
    ("moco", "--moco.targets-eps 0.1", "--moco.targets sinkhorn"),
    ("cvsa", "--align.scale 4", "--align.normalize cosine"),
    ("synth-pair", "--pair.perturb low-variance --pair.eps-gradcam 0.2", "--pair.perturb both"),
    ("synth-pair", "--pair.perturb random --pair.bank 100", "--pair.perturb both"),
    ("synth-pair", "--pair.kappa 0.1", "--pair.kappa-quantile 0"),
    *(
        ("synth-pair", f"--pair.nu 0 --pair.{flag}", "--pair.nu 1")
        for flag in (
            *("tau 0.1", "perturb none", "eps-gradcam 0.2", "eps-variance 0.2", "kappa-quantile 0.1", "bank 100"),
            *("bank-normalize l2", "denominator nt-xent", "statistics all"),
        )
    ),
    ("synth-pair", "--pair.nu 0 --pair.kappa-quantile 0 --pair.kappa 0.1", "--pair.nu 1"),
    ("foreground", "--mix.alpha 0.5", "--mix.kind mixup"),
    ("foreground", "--mix.per batch", "--mix.kind cutmix"),
    ("byol", "--model.backbone convnext_atto --model.zero-init-residual", "--model.backbone resnet50"),
    ("synth-pair", "--reconstruct.epochs 0 --reconstruct.lr 0.1", "--reconstruct.epochs 2"),
    ("dino", "--dino.teacher-tau-start 0.02", "--dino.teacher-tau-epochs 10"),
    ("byol", "--views.patch-area 0.2", "--views.crop saliency-swap"),
    ("byol", "--views.crop saliency-swap --views.paste-area 0.4", "--views.crop matte-paste"),
    ("byol", "--views.matte 0.2", "--views.crop matte-paste"),
    ("byol", "--views.crop-box given", "--views.crop contrastive"),
    ("byol", "--own-boxes.every 5", "--views.crop contrastive --views.crop-box given"),
    ("byol", "--views.crop saliency-swap --views.area 0.1 1", "--views.crop rrc"),
    ("byol", "--views.crop centre --views.aspect 0.5 2", "--views.crop rrc"),
    ("byol", "--views.jitter 0 --views.hue 0.2", "--views.jitter 0.5"),
    ("byol", "--views.blur 0 --views.sigma 1 2", "--views.blur 0 0.2"),
    ("byol", "--views.jitter 0 --views.grayscale 0 --views.blur 0 --views.strength 0.5", "--views.jitter 0.5"),
    ("byol", "--views.local.inside-box", "--views.local.count 2"),
    ("byol", "--optim.name adamw --optim.momentum 0.5", "--optim.name sgd"),
    ("byol", "--optim.clip-by parameter", "--optim.clip 1"),
    ("byol", "--data.backgrounds shards/coco", "--views.crop paste"),
    ("byol", "--extend runs/old --init imagenet", "--extend None"),
]


def lines(method: str, flags: str) -> list[str]:
    return describe_idle(tyro.cli(METHODS[method], args=flags.split()))


@pytest.mark.parametrize(("method", "off", "on"), OFF_AND_ON)
def test_a_setting_without_effect_is_named_with_what_turns_it_on(method: str, off: str, on: str):
    flag = [word for word in off.split() if word.startswith("--")][-1]
    named = [line for line in lines(method, off) if line.startswith(f"{flag} ")]
    assert len(named) == 1
    assert on.split()[0] in named[0]
    assert lines(method, f"{off} {on}") == []


def test_all_values_that_turn_a_setting_on_are_named():
    for off, values in (
        ("low-variance --pair.eps-gradcam 0.2", ("both", "gradcam", "random")),
        ("random --pair.eps-variance 0.2", ("both", "low-variance")),
    ):
        (line,) = lines("synth-pair", f"--pair.perturb {off}")
        assert all(value in line for value in values)
        assert all(lines("synth-pair", f"--pair.perturb {off} --pair.perturb {value}") == [] for value in values)


def test_every_rule_is_tried():
    tried = " ".join(off for _, off, _ in OFF_AND_ON)
    assert all(any(f"--{flag}" in tried for flag in rule.flags) for rule in RULES)


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_has_a_setting_without_effect(name: str):
    assert describe_idle(RECIPES[name]()) == []


def test_a_group_of_another_base_names_only_what_differs():
    config = tyro.cli(METHODS["cvsa"], args="--moco.tau 0.1 --moco.dim 64".split())
    assert [line.split()[0] for line in describe_idle(config)] == ["--moco.dim", "--moco.tau"]


def test_small_views_above_the_size_of_the_others_and_a_last_layer_that_never_learns():
    assert lines("byol", "--views.size 64 --views.local.count 2") == [
        "the local crops (96 px) are larger than the global ones (64 px); for half of their side: --views.local.size 32"
    ]
    assert "the last layer never learns" in lines("dino", "--epochs 1")[0]
    assert lines("dino", "--epochs 2") == []
