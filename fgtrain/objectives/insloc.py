"""InsLoc without a feature pyramid (Yang, Wu, Zhou, Lin, CVPR 2021): MoCo v2 on the regions of pasted crops.

    r(x, b) = mean of stage 4 on RoIAlign(stage 3 of x, b)              a region's features
    q = g(r(x_q, b')),  k = g_t(r_t(x_k, b_k)),   L = InfoNCE(q, k, queue)

b_q and b_k are the places of two crops of one image, each on another background. The query's box b' is a random anchor
that overlaps b_q. Of the anchors with an IoU above 0.5 the authors keep some by non-maximum suppression; here each is
as likely as any other, and is clipped to the view.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, roi_align

from .. import parallel
from ..networks.encoder import Encoder
from ..networks.norm import uses_batch
from ..networks.optim import Rates
from ..settings.regions import InslocConfig
from .bases import Logs, Moco
from .losses import feature_std, info_nce, unit, wide

MOST_BINS = 14
"""Side of a region's map: that of stage 3 for 224 pixels."""
GRID = 16
"""Anchors along each axis of a view."""
SIDES = (1 / 8, 1 / 4, 1 / 2, 1)
"""Square roots of the anchors' areas, as shares of the view's side: 32 to 256 pixels of 256."""
RATIOS = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Height over width of the anchors, as mmdetection, in which the authors trained, reads the ratios of its settings."""


class Insloc(nn.Module):
    """MoCo v2's networks and queue; images and boxes of the keys are shuffled together."""

    accumulates = True
    rates: ClassVar[Rates] = {}
    anchors: Tensor

    def __init__(self, config: InslocConfig, samples: int):
        super().__init__()
        self.base, self.settings = Moco(config, samples), config.insloc
        self.views = replace(self.base.views, boxes=True)
        self.register_buffer("anchors", anchors(self.views.size), persistent=False)

    @property
    def encoder(self) -> Encoder:
        return self.base.encoder

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        base, (x_q, x_k), (b_q, b_k) = self.base, batch["views"], batch["boxes"]
        b_q, b_k = corners(b_q), corners(b_k)
        moved = move(b_q, self.anchors, self.settings.iou).clamp(0, x_q.shape[-1])
        pooled, z = self.regions(base.encoder, base.projector, x_q, moved)
        q, k = unit(z), self.key(x_k, b_k, progress)
        loss = info_nce(q, k, base.queue.keys, base.tau)
        if self.training:
            base.queue.arrive(k)
        overlap = torch.diagonal(box_iou(moved, b_q)).mean()
        return loss, {"contrast": loss.detach(), "overlap": overlap, "feature_std": feature_std(pooled)}

    def regions(self, encoder: Any, head: nn.Module, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S), (B, 4) corners in pixels -> features (B, n) and projections (B, d), in parts as MoCo's."""
        parts = self.base.splits(len(x))
        features = [
            region(encoder, images, places, self.settings.bins)
            for images, places in zip(x.tensor_split(parts), boxes.tensor_split(parts))
        ]
        return torch.cat(features), torch.cat([head(f) for f in features])

    @torch.no_grad()
    def key(self, x: Tensor, boxes: Tensor, progress: float) -> Tensor:
        """(B, 3, S, S), (B, 4) -> unit keys (B, d), computed on shuffled samples as `Moco.key` does."""
        networks = (self.base.target_encoder, self.base.target_projector)
        if (parallel.world_size() == 1 and self.base.splits(len(x)) == 1) or not uses_batch(*networks):
            return unit(self.regions(*networks, x, boxes)[1])
        x, order = parallel.shuffle(x, self.base.shuffling(progress))
        boxes, _ = parallel.shuffle(boxes, self.base.shuffling(progress))
        return parallel.unshuffle(unit(self.regions(*networks, x, boxes)[1]), order)

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)


def region(encoder: Any, x: Tensor, boxes: Tensor, bins: int | str) -> Tensor:
    """(B, 3, S, S), (B, 4) corners in pixels -> (B, n): stage 4 of a ResNet on a region of stage 3."""
    network = encoder.network
    stage_3 = wide(network.to_stage3(x.contiguous(memory_format=torch.channels_last)))
    numbers = torch.arange(len(x), device=x.device, dtype=stage_3.dtype)[:, None]
    side = stage_3.shape[-1]
    aligned = roi_align(
        stage_3,
        torch.cat([numbers, boxes.to(stage_3.dtype)], 1),
        min(MOST_BINS, side) if bins == "auto" else int(bins),
        spatial_scale=side / x.shape[-1],
        sampling_ratio=0,  # adaptive: one sample per bin for each cell of the map in it
        aligned=True,
    )
    return network.forward_head(network.from_stage3(aligned.contiguous(memory_format=torch.channels_last)))


def corners(boxes: Tensor) -> Tensor:
    """(B, 4) left, top, width, height -> left, top, right, bottom."""
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def anchors(size: int) -> Tensor:
    """(A, 4) corners in pixels of a view: every side and ratio at every point of the grid; may leave the view."""
    side = torch.tensor(SIDES)[:, None] * size
    root = torch.tensor(RATIOS).sqrt()
    shape = torch.stack([side / root, side * root], 2).flatten(0, 1)  # (20, 2)
    points = torch.arange(GRID) * (size / GRID)
    centre = torch.cartesian_prod(points, points)[:, None]  # (256, 1, 2)
    return torch.cat([centre - shape / 2, centre + shape / 2], 2).flatten(0, 1)


def move(boxes: Tensor, anchors: Tensor, least: float) -> Tensor:
    """(B, 4), (A, 4) corners -> (B, 4): a random one of the anchors whose IoU exceeds `least`, else the best one."""
    iou = box_iou(boxes, anchors)  # (B, A)
    return anchors[torch.where(iou > least, torch.rand_like(iou), iou - 1).argmax(1)]
