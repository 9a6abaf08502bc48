"""Learning-rate schedule and optimisers. LARS is timm's."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..settings.common import Optim


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Completed steps of `total` -> learning rate of the next step: linear from 0 to `peak` over `warmup` steps, then
    half a cosine to 0."""
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def set_rates(optimizer: torch.optim.Optimizer, step: int, total: int, warmup: int, peak: float) -> float:
    """Sets the learning rate of every parameter group and returns the scheduled rate.

    Arguments as for `learning_rate`. Groups marked `constant` use `peak`.
    """
    rate = learning_rate(step, total, warmup, peak)
    for group in optimizer.param_groups:
        group["lr"] = peak if group.get("constant") else rate
    return rate


def build(
    named: Iterable[tuple[str, nn.Parameter]], settings: Optim, constant: tuple[str, ...] = ()
) -> torch.optim.Optimizer:
    """Named parameters -> optimiser, with learning rate 0 until `set_rates` sets it.

    Parameters without gradients are skipped. Those whose names start with a prefix in `constant` form groups marked
    `constant`, which `set_rates` keeps at the peak rate.
    """
    parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}  # (constant, excluded) -> parameters
    for name, parameter in named:
        if parameter.requires_grad:
            excluded = settings.exclude_norm_and_bias and parameter.ndim <= 1
            parts.setdefault((name.startswith(constant), excluded), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": 0.0 if excluded else settings.weight_decay, "constant": is_constant}
        for (is_constant, excluded), parameters in sorted(parts.items())
    ]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum)
    from timm.optim.lars import Lars

    # By default timm adapts only groups with weight decay; here only the exclusion decides.
    for group, (_, excluded) in zip(groups, sorted(parts)):
        group["always_adapt"] = not excluded
    return Lars(groups, lr=0.0, momentum=settings.momentum)  # pyright: ignore[reportArgumentType]
