"""A step that is taken back leaves weights, buffers and the optimiser as they were, also as a GPU does it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fgtrain.engine.guard import Guard
from fgtrain.networks import optim
from fgtrain.settings.common import Optim

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A network with statistics, a moving average, a queue and its cursor."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(3, 4))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.queue[self.cursor % 3] = x.mean()  # pyright: ignore
        self.cursor += 1
        return self.network(x).square().mean()

    def after_step(self) -> None:
        for mean, value in zip(self.average.parameters(), self.network.parameters()):
            mean.lerp_(value.detach(), 0.5)


def run(settings: Optim, skipped: tuple[int, ...], *, on_gpu: bool, steps: int = 4) -> dict[str, Any]:
    """The state after some steps, those in `skipped` with a loss that is not finite."""
    torch.manual_seed(0)
    objective = Small()
    optimizer = optim.build(objective, settings, {})
    guard = Guard(objective, optimizer)
    guard._on_gpu = on_gpu
    for step in range(steps):
        optim.set_rates(optimizer, step, 10, 0, 0.1)
        optimizer.zero_grad()
        guard.save()
        loss = objective(X * (torch.inf if step in skipped else step + 1.0))
        loss.backward()
        leave_out = guard.skips([loss.detach()])
        assert leave_out == (step in skipped and not on_gpu)
        if not leave_out:
            optimizer.step()
        objective.after_step()
        guard.take_back()
    return {"objective": objective.state_dict(), "optimizer": optimizer.state_dict()["state"]}


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_skipped_step_changes_nothing(name: Any, on_gpu: bool):
    settings = replace(Optim(), name=name, nesterov=name == "sgd")
    before, after = run(settings, (), on_gpu=on_gpu, steps=2), run(settings, (2,), on_gpu=on_gpu, steps=3)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert after["objective"]["cursor"] == 2


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_both_ways_train_on_alike_also_from_a_skipped_first_step(name: Any):
    settings = replace(Optim(), name=name)
    cpu, gpu = (run(settings, (0, 2), on_gpu=on_gpu) for on_gpu in (False, True))
    torch.testing.assert_close(gpu, cpu, rtol=0, atol=0)
    assert all(value.isfinite().all() for value in cpu["objective"].values())


def test_without_a_guard_nothing_is_copied():
    objective = Small()
    guard = Guard(objective, torch.optim.SGD(objective.parameters()), active=False)
    guard.save()
    assert not guard.skips([torch.tensor(torch.nan)])
    guard.take_back()
    assert guard._saved == []
