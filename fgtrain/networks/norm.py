"""Batch normalisation."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(*modules: nn.Module) -> Iterator[nn.Module]:
    """Every batch norm in some modules."""
    return (layer for module in modules for layer in module.modules() if isinstance(layer, BatchNorm))


def uses_batch(*modules: nn.Module) -> bool:
    """Whether a forward pass of these modules normalises by the samples of this process alone: some batch norm is in
    training mode and not synchronised."""
    return any(layer.training and not isinstance(layer, nn.SyncBatchNorm) for layer in batch_norms(*modules))


@contextmanager
def hold_statistics(*modules: nn.Module) -> Iterator[None]:
    """Within the block, batch norm in training mode normalises by the batch but does not update running statistics."""
    norms = [layer for layer in batch_norms(*modules) if layer.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True  # pyright: ignore[reportArgumentType]
