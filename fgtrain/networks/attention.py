"""Attention over the positions of a map: where images have what they have in common (Shu et al., CVPR 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """(B, C, h, w) -> (B, h, w), 0 or more: the largest of K 1x1 filters after batch norm and ReLU."""

    def __init__(self, channels: int, filters: int):
        super().__init__()
        self.filters = nn.Conv2d(channels, filters, 1, bias=False)
        self.norm = nn.BatchNorm2d(filters)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.filters(maps)).relu().amax(1)


def attended(maps: Tensor, attention: Tensor) -> Tensor:
    """(B, C, h, w), (B, h, w) -> (B, C) unit rows: the mean over positions, weighted by each image's attention.

    The attention is scaled to [0, 1] by its own smallest and largest value, so that the feature of an image does not
    depend on its batch. Where all values are equal, every weight is 1.
    """
    kind = torch.promote_types(maps.dtype, torch.float32)
    maps, a = maps.to(kind), attention.to(kind).flatten(1)
    low, high = a.aminmax(dim=1, keepdim=True)
    weights = torch.where(high > low, (a - low) / (high - low).where(high > low, 1), 1)
    return F.normalize((maps.flatten(2) * weights[:, None]).mean(2), dim=1)
