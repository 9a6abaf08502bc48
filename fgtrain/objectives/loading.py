"""Loaders of a run's images, with its settings."""

from typing import Any

import torch

from fgdata.shards.reader import ShardSet
from fgdata.views import Loader, ViewSpec, load

from .. import parallel
from ..networks.encoder import Encoder
from ..settings.common import Config


def load_images(config: Config, shards: ShardSet, views: ViewSpec, device: torch.device, **changed: Any) -> Loader:
    """(all) Loads views of a run's images with its settings; each process gets its part of each batch.

    changed: arguments of `fgdata.load` whose values are others than the run's.
    """
    data, machine, world = config.data, config.machine, parallel.world_size()
    own: dict[str, Any] = {
        "batch_size": data.batch_size // world,
        "split": data.split,
        "detector": data.detector,
        "backgrounds": data.backgrounds,
        "readers": data.readers,
        "ahead": data.ahead,
        "cache": data.cache,
        "process": data.process,
        "shuffle_block": data.shuffle_block,
        "backend": machine.backend,
        "threads": machine.threads,
        "seed": config.seed,
        "rank": parallel.rank(),
        "world_size": world,
    }
    return load(shards, views=views, device=device, **{**own, **changed})


def load_whole(config: Config, shards: ShardSet, encoder: Encoder, device: torch.device, **changed: Any) -> Loader:
    """(all) As `load_images`, whole images (`plain`) for an encoder, which need no boxes and no backgrounds."""
    views = encoder.whole_view(config.views.size)
    return load_images(config, shards, views, device, detector=None, backgrounds=(), **changed)
