"""The exponential moving average of a network: the target of MoCo, BYOL and CVSA."""

import copy
import math

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def frozen_copy(module: nn.Module) -> nn.Module:
    """Deep copy with `requires_grad` off for every parameter, and without stochastic depth: the target of an image is
    the same in every forward pass. `move_towards` updates it."""
    target = copy.deepcopy(module).requires_grad_(False)
    for part in target.modules():
        if hasattr(part, "drop_prob"):  # a DropPath, without the import of timm's networks
            part.drop_prob = 0.0  # pyright: ignore[reportArgumentType]
    return target


@torch.no_grad()
def move_towards(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Updates in place: target <- momentum * target + (1 - momentum) * online, over the parameters.

    `momentum` is in [0, 1]. Batch-norm statistics are not averaged: the target runs in training mode and computes its
    own.
    """
    average = get_ema_multi_avg_fn(momentum)
    average(list(target.parameters()), list(online.parameters()), 0)


def target_momentum(progress: float, start: float) -> float:
    """Progress in [0, 1] -> EMA momentum, rising from `start` to 1 on a cosine schedule (BYOL, section 3.3)."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2
