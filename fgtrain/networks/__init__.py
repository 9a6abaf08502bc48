"""Encoders, heads, moving averages, initial weights and optimisers.

encoder = fgtrain.networks.load("encoder.safetensors")  # a run, a checkpoint, or a file of `fgtrain export`
encoder(images).pooled  # (B, 3, S, S) normalised by encoder.mean and encoder.std -> (B, encoder.dim)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .saved import load

__all__ = ["load"]


def __getattr__(name: str):
    """`load` is imported on first use."""
    if name in __all__:
        from .saved import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
