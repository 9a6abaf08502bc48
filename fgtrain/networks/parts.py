"""Prototypes of the parts of objects, which add features of parts to that of the image (Tan, Wei, Zhao, ICCV 2025)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Parts(nn.Module):
    """(B, C, h, w) -> (B, M, C): for each of M prototypes the sum over positions of cos(A, p) A. They start
    orthonormal."""

    def __init__(self, channels: int, count: int):
        super().__init__()
        self.prototypes = nn.Parameter(nn.init.orthogonal_(torch.empty(count, channels)))

    def forward(self, maps: Tensor) -> Tensor:
        kind = torch.promote_types(maps.dtype, torch.float32)
        a = maps.to(kind).flatten(2)  # (B, C, P)
        with torch.autocast(maps.device.type, enabled=False):
            cosine = F.normalize(self.prototypes.to(kind), dim=1) @ F.normalize(a, dim=1)  # (B, M, P)
            return cosine @ a.transpose(1, 2)
