"""Building blocks for your own methods (docs/extending.md): these names stay stable when other modules move.

Config, Data, Model, Optim: the settings that all methods share; a method's settings are a subclass of Config.
encoder(config): the network that the run keeps, with the weights that the seed or --init gives. `encoder(x)` of images
(B, 3, S, S) returns Features: the maps of its last stages and `pooled` (B, encoder.dim).
mlp(inputs, hidden, outputs): a projection head.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..networks.heads import mlp
    from ..networks.initial import encoder
    from ..settings.common import Config, Data, Model, Optim

__all__ = ["Config", "Data", "Model", "Optim", "encoder", "mlp"]

_MODULES = {"encoder": "networks.initial", "mlp": "networks.heads"}


def __getattr__(name: str):
    """Names are imported on first use, so that a method's settings can be read without torch."""
    if name in __all__:
        return getattr(import_module(f"..{_MODULES.get(name, 'settings.common')}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
