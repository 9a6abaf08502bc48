"""Recipes of views: they train on a set that has what they need, and name the command where it lacks it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memory_set import MemorySet
from trainable import metrics, small

from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.views import load
from fgtrain.engine import lifecycle
from fgtrain.settings import common
from fgtrain.settings.recipes import RECIPES
from fgtrain.show.listing import needs


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "mapped"
    build(
        read("drawn", classes=2, images_per_class=9, size=48),
        out,
        saliency=("spectral-residual",),
        workers=1,
        keep_maps=True,
    )
    return out


NEEDS = {
    **{
        "contrastive-crop": "boxes",
        "simccrop": "",
        "contrastive-crop-own": "",
        "dilo": "maps",
        "dilo-cub-r50": "maps",
        "dino-box": "boxes",
    },
    **{"foreground": "backgrounds", "foreground-saliencymix": "backgrounds, boxes", "dino-cub-r50": ""},
}


def config(name: str, shards: Path, out: Path) -> common.Config:
    settings = small(shards, out, name)
    views = replace(RECIPES[name]().views, size=32)
    return replace(settings, data=common.Data(shards, batch_size=8), views=views, epochs=1)


@pytest.mark.parametrize("name", ["contrastive-crop", "simccrop", "dilo-byol", "byol-imagenet", "simclr-imagenet"])
def test_recipes_of_views_train(name: str, mapped: Path, tmp_path: Path):
    run = lifecycle.train(config(name, mapped, tmp_path / "run"), name)
    assert [line["step"] for line in metrics(run)] == [1]


@pytest.mark.parametrize("name", ["dilo", "dilo-byol"])
def test_a_set_without_maps_is_refused_with_the_command_that_makes_them(name: str, drawn_set: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"has no saliency maps by spectral-residual.*build-shards.*--keep-maps"):
        lifecycle.train(config(name, drawn_set, tmp_path / "run"), name)
    assert not (tmp_path / "run").exists()


def test_a_set_without_boxes_is_refused_with_the_command_that_adds_them():
    shards: Any = MemorySet(4)
    shards.detectors = ()
    for name in ("contrastive-crop", "contrastive-crop-byol"):
        with pytest.raises(InputError, match="has no boxes, which these views need.*fgdata add memory --saliency rbd"):
            load(shards, views=RECIPES[name]().views, batch_size=2)
    views = replace(RECIPES["simccrop"]().views, size=32)
    with load(shards, views=views, batch_size=2) as loader:
        next(iter(loader))


def test_the_list_shows_what_views_need():
    shown = {name: needs(RECIPES[name]()) for name in NEEDS}
    assert shown == NEEDS
