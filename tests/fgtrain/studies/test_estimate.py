"""The passes that an estimate counts, against those counted by hand: passes of a 224 px view per training image."""

from dataclasses import replace
from pathlib import Path

import pytest

from fgtrain.settings.recipes import RECIPES
from fgtrain.studies.estimate import PASSES, estimate, passes
from fgtrain.studies.plan import Job
from fgtrain.studies.sets import DataSet

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


def test_the_time_of_a_set_that_is_not_built_is_unknown_and_not_0(tmp_path: Path):
    def job(name: str, data: DataSet) -> Job:
        return Job(tmp_path / name, 0, "moco", RECIPES["moco"](), data)

    known, other = (job(name, DataSet(name, f"shards/{name}", train)) for name, train in (("a", 5994), ("b", 0)))
    alone = estimate([(other, [])], [other], "cpu")
    assert str(alone) == "unknown until shards/b is built"
    both = estimate([(known, []), (other, [])], [known, other], "cpu")
    assert both.hours == estimate([(known, [])], [known, other], "cpu").hours > 0
    assert str(both).endswith("not measured yet), and more, unknown until shards/b is built")
    assert "unknown" not in str(estimate([(known, [])], [known, other], "cpu"))
    assert estimate([], [other], "cpu").unknown == (), "nothing is left to do"
