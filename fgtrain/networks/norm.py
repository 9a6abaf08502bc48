"""Batch normalisation."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def hold_statistics(*modules: nn.Module) -> Iterator[None]:
    """Batch norm in training mode still normalises by the batch, but its running statistics stay as they are."""
    parts = [part for module in modules for part in module.modules()]
    norms = [part for part in parts if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
