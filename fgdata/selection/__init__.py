"""Encoders, which turn the images of a shard set into features, for `fgdata coreset`.

An encoder's module has `encoder(argument)`, which opens what follows the colon in its name, `fgtrain:runs/byol`. fgdata
has none of its own: fgtrain gives it one as the plug-in of an installed package (docs/extending.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..shards.reader import ShardSet


class Encoder(Protocol):
    """The interface of an encoder."""

    SETTINGS: dict[str, Any]
    """What determines the features; JSON-serialisable. The manifest of a chosen set records it."""

    def embed(self, shards: ShardSet, split: str) -> Iterator[np.ndarray]:
        """The features of a split in its order, (B, n) float32 per batch."""
        ...


@dataclass(frozen=True)
class EncoderRow:
    """One row of `fgdata list`."""

    module: str
    """Imported on first use."""
    about: str
    """One line for `fgdata list`."""


ENCODERS: dict[str, EncoderRow] = {}
"""FAMILY:ARGUMENT -> row. Installed packages and plug-ins add to it."""


def open_encoder(name: str) -> Encoder:
    """Opens an encoder by its name, with the argument after the colon: `fgtrain:runs/byol`.

    Raises:
        InputError: the name is unknown, or what it names cannot be used.
    """
    family, colon, argument = name.partition(":")
    row = next((row for key, row in ENCODERS.items() if key.partition(":")[0] == family), None)
    if row is None or not colon or not argument:
        allowed = ", ".join(ENCODERS) or "none is installed; reinstall fgtrain, or add --plugin fgtrain.features"
        raise InputError(
            f"--encoder is {name!r}; allowed: {allowed}. For one of your own, add --plugin MODULE (docs/extending.md)"
        )
    return import_module(row.module).encoder(argument)
