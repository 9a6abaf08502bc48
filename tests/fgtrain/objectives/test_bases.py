"""BYOL, SimSiam, SimCLR and MoCo: their losses against their equations."""

import math

import pytest
import torch
from objective_cases import CASES, batch, double, small, without_batch_statistics
from torch import Tensor, nn

from fgdata.views import Local, ViewSpec
from fgtrain import objectives
from fgtrain.settings.methods import (
    MocoConfig,
    MocoSettings,
    SimsiamConfig,
)


def cosine(p: Tensor, h: Tensor) -> float:
    return sum(float(a @ b / a.norm() / b.norm()) for a, b in zip(p, h)) / len(p)


@torch.no_grad()
def test_byol_loss_matches_its_equation():
    objective, views = without_batch_statistics(CASES["byol"]()), double(batch())["views"]
    p = [objective.predictor(objective.projector(objective.encoder(view).pooled)) for view in views]
    h = [objective.target_projector(objective.target_encoder(view).pooled) for view in views]
    loss, _ = objective({"views": views}, 0.0)
    assert loss.item() == pytest.approx(-cosine(p[0], h[1]) / 2 - cosine(p[1], h[0]) / 2, abs=1e-12)


@torch.no_grad()
def test_simsiam_loss_matches_its_equation():
    objective, views = without_batch_statistics(CASES["simsiam"]()), double(batch())["views"]
    z = [objective.projector(objective.encoder(view).pooled) for view in views]
    p = [objective.predictor(row) for row in z]
    loss, _ = objective({"views": views}, 0.0)
    assert loss.item() == pytest.approx(-cosine(p[0], z[1]) / 2 - cosine(p[1], z[0]) / 2, abs=1e-12)


def test_simsiam_heads_are_the_published_ones():
    objective = objectives.build(SimsiamConfig(), samples=40, classes=3)
    kinds = [type(m).__name__ for m in (*objective.projector, *objective.predictor)]
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds == [*hidden, *hidden, "Linear", "BatchNorm1d", *hidden, "Linear"]
    assert not objective.projector[-1].affine
    layers = [m for m in objective.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in layers] == [512, 512, 2048, 512, 2048]  # the first two as wide as the features
    assert [m.bias is not None for m in layers] == [False, False, False, False, True]
    constant = [n for n, _ in objective.named_parameters() if n.startswith(tuple(objective.rates))]
    assert constant == [n for n, _ in objective.named_parameters() if "predictor" in n]
    assert constant


@torch.no_grad()
def test_simclr_loss_matches_its_equation():
    objective, views = without_batch_statistics(CASES["simclr"]()), double(batch())["views"]
    z = torch.cat([objective.projector(objective.encoder(view).pooled) for view in views])
    z = z / z.norm(dim=1, keepdim=True)
    expected = 0.0
    for i in range(12):
        below = sum(math.exp(float(z[i] @ z[j]) / 0.1) for j in range(12) if j != i)
        expected -= math.log(math.exp(float(z[i] @ z[(i + 6) % 12]) / 0.1) / below) / 12
    assert objective({"views": views}, 0.0)[0].item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [False, True])
def test_moco_loss_matches_its_equation(symmetric: bool):
    objective = without_batch_statistics(small(MocoConfig, moco=MocoSettings(dim=8, symmetric=symmetric)))
    views = double(batch())["views"]
    expected = 0.0
    for query, key in ((0, 1), (1, 0))[: 1 + symmetric]:
        q = objective.projector(objective.encoder(views[query]).pooled)
        k = objective.target_projector(objective.target_encoder(views[key]).pooled)
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        for a, b in zip(q, k):
            above = math.exp(float(a @ b) / 0.2)
            below = above + sum(math.exp(float(a @ c) / 0.2) for c in objective.queue.keys)
            expected -= math.log(above / below) / 6 / (1 + symmetric)
    assert objective({"views": views}, 0.0)[0].item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [False, True])
def test_soft_positives_of_moco_match_their_equation(symmetric: bool):
    """The assignment is that of the keys to one another: columns and rows of exp(cosine / eps) divided by their sums,
    three times. Keys of the batch and of the queue share the softmax."""
    moco = MocoSettings(dim=8, symmetric=symmetric, targets="sinkhorn", targets_eps=0.5)
    objective, views = without_batch_statistics(small(MocoConfig, moco=moco)), double(batch())["views"]
    expected = 0.0
    for query, key in ((0, 1), (1, 0))[: 1 + symmetric]:
        q = objective.projector(objective.encoder(views[query]).pooled)
        k = objective.target_projector(objective.target_encoder(views[key]).pooled)
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        share = [[math.exp(float(a @ b) / 0.5) for b in k] for a in k]
        for _ in range(3):
            sums = [sum(row[j] for row in share) for j in range(6)]
            share = [[x / sums[j] for j, x in enumerate(row)] for row in share]
            share = [[x / sum(row) for x in row] for row in share]
        for i in range(6):
            below = sum(math.exp(float(q[i] @ c) / 0.2) for c in (*k, *objective.queue.keys))
            for j in range(6):
                expected -= share[i][j] * math.log(math.exp(float(q[i] @ k[j]) / 0.2) / below) / 6 / (1 + symmetric)
    assert objective({"views": views}, 0.0)[0].item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
def test_small_views_are_compared_with_the_targets_of_the_large_ones():
    """The loss is the mean over all pairs of a target and another view: BYOL has 2 (1 + L), plain MoCo 1 + L."""
    objective, data = without_batch_statistics(CASES["byol-local"]()), double(batch(name="byol-local"))
    images = [*data["views"], *data["local"]]
    p = [objective.predictor(objective.projector(objective.encoder(x).pooled)) for x in images]
    h = [objective.target_projector(objective.target_encoder(x).pooled) for x in data["views"]]
    pairs = [cosine(p[v], h[g]) for g in range(2) for v in range(5) if v != g]
    assert objective(data, 0.0)[0].item() == pytest.approx(-sum(pairs) / 8, abs=1e-12)
    for symmetric in (False, True):
        views = ViewSpec(size=64, local=Local(count=3, size=32))
        moco = small(MocoConfig, views=views, moco=MocoSettings(dim=8, symmetric=symmetric))
        objective = without_batch_statistics(moco)
        q = [objective.projector(objective.encoder(x).pooled) for x in images]
        k = [objective.target_projector(objective.target_encoder(x).pooled) for x in data["views"]]
        losses = []
        for g in (0, 1) if symmetric else (1,):
            for v in (v for v in range(5) if v != g):
                a, b = q[v] / q[v].norm(dim=1, keepdim=True), k[g] / k[g].norm(dim=1, keepdim=True)
                scores = torch.cat([(a * b).sum(1, keepdim=True), a @ objective.queue.keys.T], 1) / 0.2
                losses.append(-float(scores.log_softmax(1)[:, 0].mean()))
        assert len(losses) == (8 if symmetric else 4)
        assert objective(data, 0.0)[0].item() == pytest.approx(sum(losses) / len(losses), abs=1e-12)
