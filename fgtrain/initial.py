"""The encoder a method starts from."""

from fgtrain.config import Config
from fgtrain.nets import Encoder


def encoder(config: Config) -> Encoder:
    """The encoder of a config at its initial weights."""
    return Encoder(config.model)
