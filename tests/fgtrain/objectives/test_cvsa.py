"""CVSA: its loss against its equation."""

import pytest
import torch
from objective_cases import CASES, batch, double, small, without_batch_statistics

from fgdata.views import ViewSpec
from fgtrain.objectives.losses import alignment, attention
from fgtrain.settings.methods import (
    CvsaConfig,
)


@torch.no_grad()
@pytest.mark.parametrize("name", ["cvsa", "cvsa-moco", "cvsa-stage-3"])
def test_cvsa_loss_is_the_base_plus_both_halves_of_every_stage(name: str):
    objective, data = without_batch_statistics(CASES[name]()), double(batch())
    settings, expected = objective.align, 0.0
    _, logs = objective(data, 0.0)
    for stage, aligner in objective.aligners.items():
        z = [objective.base.encoder(view).maps[int(stage)] for view in data["views"]]
        z_target = [objective.base.target_encoder(view).maps[int(stage)] for view in data["views"]]
        p = [aligner.predictor(aligner.projector(x)) for x in z]
        h = [aligner.target_projector(x) for x in z_target]
        for q, k in ((0, 1), (1, 0)):
            a = attention(p[q], h[k], settings.normalize, settings.scale)
            expected += float(alignment(a, data["masks"][q], tuple(p[q].shape[2:]), settings.reduction))
    assert logs["align"].item() == pytest.approx(expected, abs=1e-12)
    base, _ = objective.base(data, 0.0)
    total = base.item() + settings.weight * expected
    assert objective(data, 0.0)[0].item() == pytest.approx(total, abs=1e-12)


@torch.no_grad()
def test_cvsa_aligns_with_the_mattes_of_matte_paste():
    """Mattes that are the masks give the same loss; half of each, another."""
    objective, data = without_batch_statistics(CASES["cvsa"]()), double(batch())
    spec = ViewSpec(size=64, crop="matte-paste")
    matted = without_batch_statistics(small(CvsaConfig, views=spec))
    assert (objective.views.masks, objective.views.mattes) == (True, False)
    assert (matted.views.masks, matted.views.mattes) == (False, True)
    masks = data.pop("masks")
    expected = objective(data | {"masks": masks}, 0.0)[1]["align"]
    assert torch.equal(matted(data | {"mattes": masks}, 0.0)[1]["align"], expected)
    assert matted(data | {"mattes": masks / 2}, 0.0)[1]["align"] != expected
