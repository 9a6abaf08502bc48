"""Batch normalisation."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def hold_statistics(*modules: nn.Module) -> Iterator[None]:
    """Within the block, batch norm in training mode normalises by the batch but does not update running statistics."""
    layers = [layer for module in modules for layer in module.modules()]
    norms = [x for x in layers if isinstance(x, nn.modules.batchnorm._BatchNorm) and x.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
