"""Learning-rate schedule, optimisers and gradient clipping. LARS is timm's."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..settings.common import Optim
from .encoder import Encoder

Rates = Mapping[str, float | Literal["constant"]]
"""Prefix of parameter names -> factor on the scheduled learning rate, or "constant": the rate stays at its peak."""


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Completed steps of `total` -> learning rate of the next step: linear from 0 to `peak` over `warmup` steps, then
    cosine decay to 0."""
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def set_rates(optimizer: torch.optim.Optimizer, step: int, total: int, warmup: int, peak: float) -> float:
    """Sets the learning rate of every parameter group and returns the scheduled rate.

    Arguments as for `learning_rate`. Groups marked `constant` use `peak`; each is multiplied by its `factor`.
    """
    rate = learning_rate(step, total, warmup, peak)
    for group in optimizer.param_groups:
        group["lr"] = (peak if group.get("constant") else rate) * group.get("factor", 1.0)
    return rate


def set_decay(optimizer: torch.optim.Optimizer, progress: float, settings: Optim) -> None:
    """Sets the weight decay of every group that has one, for a run that is `progress` in [0, 1] done."""
    start, end = settings.weight_decay, settings.weight_decay_end
    decay = start if end is None else end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
    for group in optimizer.param_groups:
        if group.get("decays", group["weight_decay"] > 0):  # older checkpoints do not say
            group["weight_decay"] = decay


def build(objective: nn.Module, settings: Optim, rates: Rates) -> torch.optim.Optimizer:
    """Parameters of an objective -> optimiser, with learning rate 0 until `set_rates` sets it.

    Parameters without gradients are skipped. `rates` are those of the objective: parameters with a constant rate form
    groups marked `constant`, which `set_rates` keeps at the peak rate. Those of an encoder have the factor of their
    layer.
    """
    factors, excluded = _layer_factors(objective, settings.layer_decay), _excluded(objective, settings)
    parts: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}  # (constant, excluded, factor) -> parameters
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), 1.0)
            factor = factors.get(name, 1.0) * (1.0 if isinstance(rate, str) else rate)
            parts.setdefault((rate == "constant", name in excluded, factor), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_excluded else settings.weight_decay,
            "decays": not is_excluded,
            "constant": is_constant,
            "factor": factor,
        }
        for (is_constant, is_excluded, factor), parameters in sorted(parts.items(), key=lambda item: item[0])
    ]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov)
    from timm.optim.lars import Lars

    # By default timm adapts only groups with weight decay; here only the exclusion decides.
    for group, (_, is_excluded, _) in zip(groups, sorted(parts)):
        group["always_adapt"] = not is_excluded
    options: dict[str, Any] = {"momentum": settings.momentum, "nesterov": settings.nesterov}
    return Lars(groups, lr=0.0, **options)  # pyright: ignore[reportArgumentType]


def clip(optimizer: torch.optim.Optimizer, limit: float, by: Literal["norm", "parameter"]) -> Tensor:
    """Scales the gradients of an optimiser down to norm `limit`, all together or each tensor's own -> () norm of all
    of them before."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    groups: Iterable[list[nn.Parameter]] = [parameters] if by == "norm" else ([p] for p in parameters)
    norms = [nn.utils.clip_grad_norm_(group, limit) for group in groups]
    return torch.stack(norms).norm().detach()


def _encoders(objective: nn.Module) -> list[tuple[str, Encoder]]:
    return [
        (f"{name}.network." if name else "network.", m)
        for name, m in objective.named_modules()
        if isinstance(m, Encoder)
    ]


def _layer_factors(objective: nn.Module, decay: float) -> dict[str, float]:
    """Name of a parameter of an encoder -> decay ** (layers above it + 1); heads are the top, at 1 (ELECTRA, Clark et
    al. 2020). A norm after the last block is a layer of its own where timm's groups say so."""
    factors: dict[str, float] = {}
    if decay < 1:
        for prefix, encoder in _encoders(objective):
            depth = encoder.groups.depth
            top = max(depth[name] for name in depth)
            factors |= {prefix + name: decay ** (top - layer + 1) for name, layer in depth.items()}
    return factors


def _excluded(objective: nn.Module, settings: Optim) -> set[str]:
    """Names of the parameters without weight decay: vectors (norms and biases), and the tokens a network names."""
    if not settings.exclude_norm_and_bias:
        return set()
    names = {name for name, parameter in objective.named_parameters() if parameter.ndim <= 1}
    for prefix, encoder in _encoders(objective):
        tokens = getattr(encoder.network, "no_weight_decay", set)()
        names |= {prefix + name for name in tokens}
    return names
