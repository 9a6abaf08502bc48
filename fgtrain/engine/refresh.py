"""Boxes from the network's own maps, found again during training (ContrastiveCrop, Peng et al., CVPR 2022).

Every training image is resized to a square and encoded in evaluation mode:

    h = sum over channels of the last map, scaled to [0, 1] in each image, resized bilinearly to the view
    box = the first to the last row and column with an h above the threshold; the whole image if there is none

The box is relative to the image's sides, so it also holds for the image before resizing.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fgdata.shards.reader import ShardSet
from fgdata.views import Loader

from .. import parallel
from ..networks.encoder import Encoder
from ..objectives.loading import load_whole
from ..settings.common import Config

LARGE = 0.9
"""Mean area from which the boxes hardly restrict the crops."""


class Refresh:
    """The boxes of all training images. They are part of a checkpoint, so a resumed run has the same crops."""

    def __init__(self, config: Config, shards: ShardSet, device: torch.device):
        self.config, self.shards, self.device = config, shards, device
        self.boxes: Tensor | None = None  # (N, 4) left, top, width, height in [0, 1]; None: the whole images

    def remarks(self, encoder: Encoder) -> list[str]:
        """What to say before the first step."""
        first, epochs = self.config.own_boxes.first, self.config.epochs
        lines = encoder.position_remarks(self.config.views.size)
        if first >= epochs:
            lines.append(
                f"own boxes: --own-boxes.first {first} is not below --epochs {epochs}: every box stays the whole image"
            )
        return lines

    def is_due(self, epoch: int) -> bool:
        """Whether boxes are found after `epoch` complete epochs."""
        first, every = self.config.own_boxes.first, self.config.own_boxes.every
        return first <= epoch < self.config.epochs and (epoch - first) % every == 0

    def after_epoch(self, epoch: int, encoder: Encoder, loader: Loader, say: Callable[[str], None]) -> float | None:
        """(all) Finds the boxes and gives them to the loader, if they are due -> their mean area, else None."""
        if not self.is_due(epoch):
            return None
        self.boxes = self.find(encoder)
        loader.set_boxes(self.boxes.numpy())
        area = self.boxes[:, 2:].double().prod(1)
        whole, mean = (area == 1).double().mean().item(), area.mean().item()
        advice = "; the author then advises --own-boxes.threshold 0.3 to 0.5" if mean > LARGE else ""
        say(f"epoch {epoch}  own boxes: {mean:.0%} of the image on average, {whole:.0%} are the whole image{advice}")
        return mean

    def find(self, encoder: Encoder) -> Tensor:
        """(all) (N, 4) boxes of all training images by an encoder; each process encodes its share of them.

        InputError on all processes when an image cannot be read. Batch norm has the first process's statistics, which
        are those of a checkpoint.
        """
        config, world = self.config, parallel.world_size()
        encoder = copy.deepcopy(encoder).eval()
        for buffer in encoder.buffers() if world > 1 else ():
            buffer.copy_(parallel.gather(buffer[None])[0])
        found = torch.zeros(len(self.shards.split(config.data.split)), 4, device=self.device)
        with parallel.together():
            order = {"shuffle": False, "shuffle_block": None, "last_batch": "keep"}
            loader = load_whole(config, self.shards, encoder, self.device, cache=None, **order)
            with loader, torch.inference_mode():
                for batch in loader:
                    maps = encoder(batch["plain"].to(self.device)).maps[4]
                    rows = batch["index"].to(self.device)
                    found[rows] = active_boxes(maps, config.views.size, config.own_boxes.threshold)
        return parallel.gather(found[None]).sum(0).cpu()  # every row is 0 in all processes but one

    def restore(self, boxes: Tensor, loader: Loader) -> None:
        """Sets the boxes of a checkpoint. Call it before the loader's own state is loaded."""
        self.boxes = boxes
        loader.set_boxes(boxes.numpy())


def active_boxes(maps: Tensor, size: int, threshold: float) -> Tensor:
    """(B, C, h, w) last maps, side of the view in pixels -> (B, 4) left, top, width, height in [0, 1] of the view."""
    heat = maps.float().sum(1)  # (B, h, w)
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    heat = (heat - low) / (high - low).where(high > low, 1)  # a constant map is 0 everywhere
    above = F.interpolate(heat[:, None], (size, size), mode="bilinear")[:, 0] > threshold  # (B, S, S)
    left, width = extent(above.any(1))
    top, height = extent(above.any(2))
    return torch.stack([left, top, width, height], 1) / size


def extent(marked: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S) bool -> start and length (B,) of the span from the first to the last marked place; all S if none is."""
    size, place = marked.shape[1], torch.arange(marked.shape[1], device=marked.device)
    first = place.where(marked, size).amin(1)
    last = place.where(marked, -1).amax(1)
    none = last < 0
    return first.masked_fill(none, 0), (last - first + 1).masked_fill(none, size)
