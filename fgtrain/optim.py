"""Schedules as functions of progress, and the optimisers.

LARS is timm's: it adapts only parameters whose weight decay is not zero, which is exactly the exclusion of biases and
norms that BYOL asks for.
"""

import math
from collections.abc import Iterable

import torch
from torch import nn

from fgtrain.config import Optim


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Steps done of `total` -> rate of the next: linear over `warmup` steps from 0, then half a cosine to 0."""
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def target_momentum(progress: float, start: float) -> float:
    """Progress in [0, 1] -> EMA momentum, from `start` to 1 along half a cosine (BYOL, section 3.3)."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2


def set_rates(optimizer: torch.optim.Optimizer, step: int, total: int, warmup: int, peak: float) -> float:
    """Sets the rate of every group for the next step -> the scheduled one; groups marked `constant` keep the peak."""
    rate = learning_rate(step, total, warmup, peak)
    for group in optimizer.param_groups:
        group["lr"] = peak if group.get("constant") else rate
    return rate


def build(named: Iterable[tuple[str, nn.Parameter]], settings: Optim) -> torch.optim.Optimizer:
    """Named parameters -> optimiser. `set_rates` sets the learning rate before every step."""
    decayed, excluded = [], []
    for _, parameter in named:
        if parameter.requires_grad:
            skip = settings.exclude_norm_and_bias and parameter.ndim <= 1
            (excluded if skip else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": excluded, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum)
    from timm.optim.lars import Lars

    return Lars(groups, lr=0.0, momentum=settings.momentum)  # pyright: ignore[reportArgumentType]
