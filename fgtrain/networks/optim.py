"""Schedules as functions of progress, and the optimisers. LARS is timm's."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..settings.common import Optim


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Steps done of `total` -> rate of the next: linear over `warmup` steps from 0, then half a cosine to 0."""
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def set_rates(optimizer: torch.optim.Optimizer, step: int, total: int, warmup: int, peak: float) -> float:
    """Sets the rate of every group for the next step -> the scheduled one; groups marked `constant` keep the peak."""
    rate = learning_rate(step, total, warmup, peak)
    for group in optimizer.param_groups:
        group["lr"] = peak if group.get("constant") else rate
    return rate


def build(
    named: Iterable[tuple[str, nn.Parameter]], settings: Optim, constant: tuple[str, ...] = ()
) -> torch.optim.Optimizer:
    """Named parameters -> optimiser. `set_rates` sets the learning rate before every step, but leaves that of names
    that start with one of `constant` at its peak."""
    parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}  # (constant, excluded) -> parameters
    for name, parameter in named:
        if parameter.requires_grad:
            excluded = settings.exclude_norm_and_bias and parameter.ndim <= 1
            parts.setdefault((name.startswith(constant), excluded), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": 0.0 if excluded else settings.weight_decay, "constant": stays}
        for (stays, excluded), parameters in sorted(parts.items())
    ]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum)
    from timm.optim.lars import Lars

    # timm adapts a group only if it has weight decay, unless told otherwise; here the exclusion alone decides.
    for group, (_, excluded) in zip(groups, sorted(parts)):
        group["always_adapt"] = not excluded
    return Lars(groups, lr=0.0, momentum=settings.momentum)  # pyright: ignore[reportArgumentType]
