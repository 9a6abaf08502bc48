"""Schedules and parameter groups, and LARS against its equation."""

from typing import Literal

import pytest
import torch
from torch import nn

from fgdata.errors import InputError
from fgtrain.networks import optim
from fgtrain.networks.ema import target_momentum
from fgtrain.settings.common import Optim
from fgtrain.settings.methods import MocoConfig


def test_schedules_have_the_values_of_their_formulas():
    assert optim.learning_rate(0, 100, 10, 1.0) == 0
    assert optim.learning_rate(5, 100, 10, 1.0) == pytest.approx(0.5)
    assert optim.learning_rate(10, 100, 10, 1.0) == pytest.approx(1)
    assert optim.learning_rate(55, 100, 10, 1.0) == pytest.approx(0.5)
    assert optim.learning_rate(100, 100, 10, 1.0) == pytest.approx(0)
    assert optim.learning_rate(0, 10, 0, 0.3) == pytest.approx(0.3)
    assert [target_momentum(p, 0.996) for p in (0, 0.5, 1)] == pytest.approx([0.996, 0.998, 1])


@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
@pytest.mark.parametrize("exclude", [True, False])
def test_lars_matches_its_equation(exclude: bool, weight_decay: float):
    """v <- m v + trust (g + wd w), w <- w - lr v, trust = .001 |w| / (|g| + wd |w|): You, Gitman, Ginsburg 2017."""
    module = nn.Linear(4, 3)
    weights = [p.detach().double().clone() for p in (module.weight, module.bias)]
    velocity = [torch.zeros_like(w) for w in weights]
    settings = Optim("lars", 1.0, 0.9, weight_decay, exclude_norm_and_bias=exclude)
    optimizer = optim.build(module, settings, {})
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.5
        optimizer.zero_grad()
        (module(torch.full((2, 4), 1.0 + step)) ** 2).sum().backward()
        for i, parameter in enumerate((module.weight, module.bias)):
            assert parameter.grad is not None
            w, g = weights[i], parameter.grad.double()
            plain = exclude and parameter.ndim == 1
            wd = 0.0 if plain else weight_decay
            trust = 1.0 if plain else 0.001 * w.norm() / (g.norm() + wd * w.norm())
            velocity[i] = 0.9 * velocity[i] + trust * (g + wd * w)
            weights[i] = w - 0.5 * velocity[i]
        optimizer.step()
    for ours, expected in zip((module.weight, module.bias), weights):
        torch.testing.assert_close(ours.detach().double(), expected, rtol=1e-5, atol=1e-6)  # float32 against float64


def test_constant_groups_keep_the_peak_rate_while_others_decay():
    module = nn.ModuleDict({"projector": nn.Linear(2, 2), "predictor": nn.Linear(2, 2)})
    settings = Optim("sgd", exclude_norm_and_bias=True)
    optimizer = optim.build(module, settings, {"predictor.": "constant"})
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for step in (0, 50, 99):
        rate = optim.set_rates(optimizer, step, 100, 0, 0.3)
        assert rate == optim.learning_rate(step, 100, 0, 0.3)
        for name, parameter in module.named_parameters():
            group = group_of[id(parameter)]
            assert group["lr"] == (0.3 if name.startswith("predictor") else rate)
            assert group["weight_decay"] == (0 if name.endswith("bias") else settings.weight_decay)


def test_without_constant_names_no_group_is_constant():
    module = nn.Linear(2, 2)
    (group,) = optim.build(module, Optim("adamw"), {}).param_groups
    assert not group["constant"]
    assert len(group["params"]) == 2


def test_a_rate_multiplies_the_schedule_for_the_names_under_its_prefix():
    module = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    optimizer = optim.build(module, Optim("sgd"), {"head.": 10.0})
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for step in (0, 50, 99):
        rate = optim.set_rates(optimizer, step, 100, 0, 0.3)
        for name, parameter in module.named_parameters():
            assert group_of[id(parameter)]["lr"] == pytest.approx(rate * (10 if name.startswith("head") else 1))


def test_nesterov_matches_its_equation():
    """v <- m v + g, w <- w - lr (g + m v): Sutskever et al. 2013, as torch and timm write it."""
    for name in ("sgd", "lars"):
        module = nn.Linear(1, 1, bias=False)
        settings = Optim(name, momentum=0.9, weight_decay=0.0, nesterov=True, exclude_norm_and_bias=name == "lars")
        module.weight.data = module.weight.data.flatten()  # a vector, which LARS does not adapt
        optimizer, w, v = optim.build(module, settings, {}), module.weight.item(), 0.0
        for g in (1.0, -2.0, 0.5):
            optimizer.param_groups[0]["lr"] = 0.1
            module.weight.grad = torch.tensor([g])
            optimizer.step()
            v = 0.9 * v + g
            w -= 0.1 * (g + 0.9 * v)
        assert module.weight.item() == pytest.approx(w, rel=1e-5), name
    for wrong in (Optim("adamw", nesterov=True), Optim("sgd", momentum=0.0, nesterov=True)):
        with pytest.raises(InputError, match=r"--optim.nesterov is on; allowed: only with --optim.name sgd or lars"):
            MocoConfig(optim=wrong)


def test_clipping_limits_the_norm_of_all_gradients_or_of_each():
    def clipped(by: Literal["norm", "parameter"]) -> tuple[float, list[list[float]]]:
        module = nn.ParameterList([torch.zeros(2), torch.zeros(1), torch.zeros(1)])
        for parameter, gradient in zip(module, ([3.0, 4.0], [12.0], [0.5])):
            parameter.grad = torch.tensor(gradient)
        norm = optim.clip(optim.build(module, Optim(), {}), 1.0, by)
        return norm.item(), [p.grad.tolist() for p in module if p.grad is not None]

    whole = (5**2 + 12**2 + 0.5**2) ** 0.5
    for by, expected in (
        ("norm", [[3 / whole, 4 / whole], [12 / whole], [0.5 / whole]]),
        ("parameter", [[0.6, 0.8], [1.0], [0.5]]),
    ):
        norm, gradients = clipped(by)  # torch divides by the norm plus 1e-6
        assert norm == pytest.approx(whole)
        assert [pytest.approx(row, rel=1e-5) for row in expected] == gradients
