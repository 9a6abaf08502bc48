"""Features of a frozen network over a split: those that evaluations use, of the test-time view.

    fgtrain:runs/byol                                   the last checkpoint of a run
    fgtrain:lite0.pth,backbone=tf_efficientnet_lite0    a file that `fgtrain run --init` reads; its name in timm

`size=N` may follow, the side of the view in pixels (default: that of the images that the network was trained on), and
`device=cuda`. On a CPU torch computes with one thread, so that the features do not depend on the number of cores.
"""

from collections.abc import Iterator

import numpy as np
import torch

from fgdata.shards.reader import ShardSet
from fgdata.views import load

from ..detectors import check_packages
from ..detectors.weights import Source, one_thread, open_source
from ..place import pick_device

BATCH = 64


class Frozen:
    """An encoder (fgdata/selection/__init__.py)."""

    def __init__(self, source: Source, device: torch.device):
        self._source, self._device = source, device
        where = {} if device.type == "cpu" else {"device": str(device)}
        self.SETTINGS = {**source.settings, **where, "version": 1}

    def embed(self, shards: ShardSet, split: str) -> Iterator[np.ndarray]:
        """The features of a split in its order, (B, n) float32 per batch."""
        encoder = self._source.encoder.to(self._device)
        views, order = encoder.evaluation_view(self._source.size), {"shuffle": False, "last_batch": "keep"}
        with load(shards, views=views, batch_size=BATCH, split=split, device=str(self._device), **order) as loader:
            for batch in loader:
                with one_thread():
                    features = encoder.describe(encoder(batch["views"][0]))
                yield features.float().cpu().numpy()


def encoder(argument: str) -> Frozen:
    """Opens `WEIGHTS[,backbone=NAME][,size=N][,device=NAME]`. InputError when it cannot be used."""
    check_packages(f"fgtrain:{argument}")
    words = argument.split(",")
    devices = [word.partition("=")[2] for word in words[1:] if word.startswith("device=")]
    rest = ",".join([words[0], *(word for word in words[1:] if not word.startswith("device="))])
    source = open_source("fgtrain", rest, flag="--encoder", times=1)
    return Frozen(source, pick_device(devices[-1] if devices else "cpu"))
