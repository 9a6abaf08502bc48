"""The passes that an estimate counts, against those counted by hand: passes of a 224 px view per training image."""

from dataclasses import replace

import pytest

from fgtrain.settings.recipes import RECIPES
from fgtrain.studies.estimate import PASSES, passes

COUNTED = {
    **{"moco": 4, "simsiam": 6, "simclr": 6, "byol": 8, "supervised": 3, "sam": 3, "rotation": 12, "looc": 5},
    **{"relative-location": 2.2, "lcr": 4, "lcr-byol": 8, "lewel": 10.3, "dino": 12.4, "insloc": 5.2, "papn": 16},
    **{"cvsa": 8, "cvsa-moco": 8, "contrastive-crop": 4, "dilo": 4, "dilo-byol": 8, "foreground": 6},
    "box-distill": 3 + 1.75**2,
}


@pytest.mark.parametrize("recipe", COUNTED)
def test_the_passes_of_a_method_are_the_counted_ones(recipe: str):
    config = RECIPES[recipe]()
    scale = (config.views.size / 224) ** 2  # an estimate multiplies with the operations of a view of its own size
    assert passes(config) * scale == pytest.approx(COUNTED[recipe], rel=0.02)


def test_settings_change_the_passes_of_a_method():
    dino, distill, moco = RECIPES["dino"](), RECIPES["box-distill-lite0"](), RECIPES["moco"]()
    views = replace(dino.views, size=64, local=replace(dino.views.local, size=32))
    assert passes(replace(dino, views=views)) == 3 * (2 + 8 / 4) + 2
    assert passes(replace(distill, distill=replace(distill.distill, size=128))) == 4
    assert passes(replace(moco, moco=replace(moco.moco, symmetric=True))) == 8
    assert passes(RECIPES["synth-pair-simsiam"]()) == passes(RECIPES["synth-pair"]()) + 2
    assert "a plug-in" not in PASSES
