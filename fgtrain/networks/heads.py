"""Projection and prediction heads."""

from torch import nn


def mlp(inputs: int, hidden: int, outputs: int, norm: bool = True, bias: bool = True) -> nn.Sequential:
    """(B, inputs) -> (B, outputs): linear - batch norm - ReLU - linear. `norm` False omits the norm, as in MoCo v2;
    `bias` False omits the first layer's bias, which batch norm cancels."""
    normalization = [nn.BatchNorm1d(hidden)] if norm else []
    first = nn.Linear(inputs, hidden, bias=bias)
    return nn.Sequential(first, *normalization, nn.ReLU(inplace=True), nn.Linear(hidden, outputs))


def position_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """(B, inputs, P) -> (B, outputs, P), the same at every position: linear - batch norm - ReLU - linear, no biases."""
    return nn.Sequential(
        nn.Conv1d(inputs, hidden, 1, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv1d(hidden, outputs, 1, bias=False),
    )


def conv_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """(B, inputs, H, W) -> (B, outputs, H, W): 1x1 convolution - batch norm - ReLU - 1x1 convolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, outputs, 1)
    )
