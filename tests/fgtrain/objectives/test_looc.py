"""LooC with rotation: its loss against closed forms, its queues and its turns."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainable import fix_batch_norm

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.objectives import looc
from fgtrain.settings.bases import MocoSettings
from fgtrain.settings.common import Data, Model
from fgtrain.settings.comparisons import LoocConfig, LoocSettings


def build(**more) -> Any:
    """The objective in float64 with batch norm in evaluation mode."""
    config = LoocConfig(
        model=Model(width=8),
        data=Data(batch_size=4),
        views=ViewSpec(size=32, views=3),
        moco=MocoSettings(dim=8),
        looc=LoocSettings(**more),
    )
    objective = objectives.build(config, samples=16).double().train()
    fix_batch_norm(objective)
    return objective


def batch(n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"views": torch.randn(3, n, 3, 32, 32, generator=generator, dtype=torch.float64)}


def turns(patch: pytest.MonkeyPatch, query: list[int], other: list[int]) -> None:
    patch.setattr(looc, "draw_turns", lambda *_: torch.tensor([query, other]))


def nce(q: Tensor, k: Tensor, negatives: Tensor, tau: float = 0.2) -> float:
    """InfoNCE as a loop; `negatives` (B, M, d) of each query."""
    total = 0.0
    for a, b, others in zip(q, k, negatives):
        above = math.exp(float(a @ b) / tau)
        total -= math.log(above / (above + sum(math.exp(float(a @ c) / tau) for c in others))) / len(q)
    return total


@torch.no_grad()
def rows(encoder: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    z = head(encoder(x).pooled)
    return z / z.norm(dim=1, keepdim=True)


@torch.no_grad()
def test_equal_turns_and_tied_heads_give_two_losses_of_moco(monkeypatch: pytest.MonkeyPatch):
    objective, data = build(), batch()
    base = objective.base
    base.projector.second.load_state_dict(base.projector.first.state_dict())
    base.target_projector.second.load_state_dict(base.target_projector.first.state_dict())
    objective.queue.keys.copy_(base.queue.keys)
    turns(monkeypatch, [0, 0, 0, 0], [0, 0, 0, 0])
    x, x_0, x_1 = data["views"]
    q = rows(base.encoder, base.projector.first, x)
    k_0, k_1 = (rows(base.target_encoder, base.target_projector.first, view) for view in (x_0, x_1))
    queue = base.queue.keys.expand(4, -1, -1)
    expected = nce(q, k_0, queue) / 2 + nce(q, k_1, queue) / 2
    assert objective(data, 0.0)[0].item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("positives", ["first", "all"])
def test_the_loss_is_its_equation(positives: str, monkeypatch: pytest.MonkeyPatch):
    objective, data = build(positives=positives), batch()
    base = objective.base
    turns(monkeypatch, [0, 1, 2, 3], [0, 0, 2, 1])  # the second and the fourth differ
    x, x_0, x_1 = (
        torch.stack([image.rot90(r, (1, 2)) for image, r in zip(view, by)])
        for view, by in zip(data["views"], ([0, 1, 2, 3], [0, 0, 2, 1], [0, 1, 2, 3]))
    )
    q, k_0, k_1 = [], [], []
    for name in ("first", "second"):
        q.append(rows(base.encoder, getattr(base.projector, name), x))
        k_0.append(rows(base.target_encoder, getattr(base.target_projector, name), x_0))
        k_1.append(rows(base.target_encoder, getattr(base.target_projector, name), x_1))
    loss_0 = nce(q[0], k_0[0], base.queue.keys.expand(4, -1, -1))
    if positives == "all":
        loss_0 = loss_0 / 2 + nce(q[0], k_1[0], base.queue.keys.expand(4, -1, -1)) / 2
    negatives: Any = [[*objective.queue.keys, *([k_0[1][i]] if i in (1, 3) else [])] for i in range(4)]
    loss_1 = nce(q[1], k_1[1], negatives)
    loss, logs = objective(data, 0.0)
    assert logs["leave_one_out"].item() == pytest.approx(loss_1, abs=1e-12)
    assert loss.item() == pytest.approx((loss_0 + loss_1) / 2, abs=1e-12)


def test_an_opposite_key_of_the_same_image_has_the_closed_form():
    """q = k_1, k_0 = -q, K keys orthogonal to q: -log(e^(1/t) / (e^(1/t) + e^(-1/t) + K))."""
    q = torch.eye(8, dtype=torch.float64)[:1]
    queue = torch.eye(8, dtype=torch.float64)[1:5]
    for other, expected in ((-1.0, math.exp(-5)), (-math.inf, 0.0)):
        loss = looc.info_nce(q, q, queue, 0.2, torch.full((1, 1), other, dtype=torch.float64))
        assert loss.item() == pytest.approx(-math.log(math.exp(5) / (math.exp(5) + expected + 4)), abs=1e-12)


def test_each_queue_holds_the_keys_of_its_own_space(monkeypatch: pytest.MonkeyPatch):
    objective, data = build(), batch()
    base = objective.base
    turns(monkeypatch, [0, 1, 2, 3], [3, 2, 1, 0])
    k_0 = rows(
        base.target_encoder, base.target_projector.first, looc.turn(data["views"][1], torch.tensor([3, 2, 1, 0]))
    )
    k_1 = rows(base.target_encoder, base.target_projector.second, looc.turn(data["views"][2], torch.arange(4)))
    before = objective.queue.keys.clone()
    objective(data, 0.0)
    assert torch.equal(objective.queue.keys, before)  # keys are added after the step
    objective.after_step(0.0)
    torch.testing.assert_close(base.queue.keys[:4], k_0)
    torch.testing.assert_close(objective.queue.keys[:4], k_1)


def test_each_head_learns_from_its_own_term(monkeypatch: pytest.MonkeyPatch):
    objective, data = build(), batch()
    turns(monkeypatch, [0, 1, 2, 3], [3, 2, 1, 0])
    monkeypatch.setattr(looc, "info_nce", lambda q, k, queue, tau, more=None: (q * k).sum() * (more is None))
    objective(data, 0.0)[0].backward()
    first, second = (
        list(head.parameters()) for head in (objective.base.projector.first, objective.base.projector.second)
    )
    assert all(p.grad.abs().sum() > 0 for p in first)
    assert all(p.grad.abs().sum() == 0 for p in second)


def test_turns_are_uniform_and_counter_clockwise():
    torch.manual_seed(0)
    drawn = looc.draw_turns(20_000, torch.device("cpu"))
    for row in drawn:
        counts = row.bincount(minlength=4).double()
        assert ((counts - 5000) ** 2 / 5000).sum() < 16.3  # chi-square with 3 degrees of freedom, p = .001
    assert (drawn[0] == drawn[1]).float().mean().item() == pytest.approx(0.25, abs=0.015)  # independent
    x, r = torch.randn(4, 3, 6, 6), torch.tensor([2, 0, 3, 1])
    assert torch.equal(looc.turn(x, r), torch.stack([image.rot90(int(by), (1, 2)) for image, by in zip(x, r)]))


def test_moco_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="--moco.symmetric is on; allowed: off"):
        LoocConfig(moco=MocoSettings(symmetric=True))
    with pytest.raises(InputError, match="--moco.targets is sinkhorn; allowed: identity, with looc"):
        LoocConfig(moco=MocoSettings(targets="sinkhorn"))
    with pytest.raises(InputError, match="--moco.queue is 128"):
        LoocConfig(moco=MocoSettings(queue=128))
