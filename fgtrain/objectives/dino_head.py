"""The head of DINO (Caron et al., ICCV 2021): an MLP whose unit outputs are compared with prototypes."""

import torch
from torch import Tensor, nn

from ..settings.multicrop import DinoSettings
from .losses import unit


class Head(nn.Module):
    """(B, n) -> (B, K): a three-layer MLP to unit vectors, and their cosines with K prototypes. `norm` adds batch norm
    to its two hidden layers.

    The last layer has no bias and rows of length 1, which equals weight normalisation with a fixed gain of 1. `frozen`
    stops its gradient; weight decay then changes only the lengths of its rows, which do not count.
    """

    def __init__(self, inputs: int, settings: DinoSettings):
        super().__init__()
        hidden, bottleneck = settings.hidden, settings.bottleneck
        norms = [[nn.BatchNorm1d(hidden)] if settings.norm else [] for _ in range(2)]
        self.mlp = nn.Sequential(
            *(nn.Linear(inputs, hidden), *norms[0], nn.GELU()),
            *(nn.Linear(hidden, hidden), *norms[1], nn.GELU()),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = nn.Linear(bottleneck, settings.dim, bias=False)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        z, prototypes = unit(self.mlp(x)), unit(self.last.weight)
        if frozen:
            prototypes = prototypes.detach() + 0 * prototypes  # in the graph, as DDP needs it
        with torch.autocast(x.device.type, enabled=False):
            return z @ prototypes.T
