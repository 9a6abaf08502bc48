"""Where an encoder sees a class: class-activation maps and Grad-CAM of a linear layer on its pooled features.

CAM (Zhou et al., CVPR 2016) is w_class . z(x, y), and needs a feature that is the mean of the last map. Grad-CAM
(Selvaraju et al., ICCV 2017) needs only derivatives: the weight of channel k is the mean over positions of
d score / d A_k (eq. 1), and the map is the positive part of the weighted sum of the A_k (eq. 2).
"""

import torch
from torch import Tensor, nn

from ..networks.encoder import Encoder, Features


def pools_by_mean(encoder: Encoder, size: int) -> bool:
    """Whether an image's feature is the mean of the last map, seen on a random image of `size` pixels: a class token,
    the output of another layer or an attended mean is not."""
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = encoder.eval()(x.to(next(encoder.parameters()).device))
        described = encoder.describe(features).float()
    last = features.maps[4].float().mean((2, 3))
    return last.shape == described.shape and torch.allclose(last, described, rtol=1e-3, atol=1e-4)  # float32 sums


def remark_on(grid: tuple[int, ...]) -> list[str]:
    """A sentence about maps of (h, w) positions, if these are so few that they show little; else nothing."""
    if min(grid) >= 4:
        return []
    return [f"A map of {grid[0]} x {grid[1]} positions shows little; try a larger --size, such as 224."]


def class_activation(features: Features, weight: Tensor) -> Tensor:
    """Features of B images, (B, n) weights of their classes -> (B, h, w) maps: CAM."""
    return torch.einsum("bn,bnhw->bhw", weight, features.maps[4].float())


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """(B, C, h, w) maps, (B, C, h, w) derivatives of each image's score by them -> (B, h, w) >= 0, not scaled."""
    weight = gradient.mean((2, 3), keepdim=True)  # (B, C, 1, 1), eq. 1
    return (weight * activation).sum(1).relu()  # eq. 2


def explain(encoder: Encoder, layer: nn.Linear, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) images, (B,) classes -> (B, h, w) Grad-CAM of those classes, (B,) predicted classes.

    The maps are those of the last stage, or the tokens that enter the last block of a ViT, on their grid.
    """
    stage, pooled, as_maps = encoder.eval().last_stage(x)
    scores = layer(pooled.to(layer.weight.dtype))
    own = scores.gather(1, classes[:, None])[:, 0]  # each depends on its own image only: no batch statistics
    (gradient,) = torch.autograd.grad(own.sum(), stage)
    return grad_cam(as_maps(stage.detach()), as_maps(gradient)), scores.argmax(1)
