"""Encoder, heads and the exponential moving average. The residual networks are torchvision's."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from ..settings.common import Model

BLOCKS = {"resnet18": (resnet.BasicBlock, [2, 2, 2, 2]), "resnet50": (resnet.Bottleneck, [3, 4, 6, 3])}


class Features(NamedTuple):
    """What one image gives: maps (B, C, H, W) of stage 3 (input / 16) and 4 (input / 32), pooled (B, n)."""

    stage3: Tensor
    stage4: Tensor
    pooled: Tensor


class Encoder(resnet.ResNet):
    """(B, 3, S, S) normalised -> Features. Its state dict has torchvision's names without `fc`.

    torchvision's `width_per_group` narrows only the inside of a Bottleneck, so `width` scales the planes of each stage
    as the stage is made, and the stem with them; at 64 and the imagenet stem nothing differs from torchvision.
    """

    def __init__(self, model: Model):
        self.width = model.width
        block, layers = BLOCKS[model.backbone]
        super().__init__(block, layers, num_classes=1, zero_init_residual=model.zero_init_residual)
        if model.width != 64:
            self.conv1 = nn.Conv2d(3, model.width, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(model.width)
        if model.stem == "small":
            self.conv1 = nn.Conv2d(3, model.width, 3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.channels = {3: 4 * model.width * block.expansion, 4: 8 * model.width * block.expansion}
        self.dim = self.channels[4]
        self.frozen: tuple[str, ...] = ()
        self.origin = "random weights"  # said at the start of a run
        del self.fc

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[override]
        if planes == 64:
            self.inplanes = self.width
        return super()._make_layer(block, planes * self.width // 64, blocks, stride, dilate)

    def freeze(self, stages: int) -> None:
        """Holds the stem and layer1 to layer`stages` as they are; 0 holds nothing. A copy made later holds them too."""
        self.frozen = ("conv1", "bn1", *(f"layer{i + 1}" for i in range(stages))) if stages else ()
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Encoder":
        """Frozen stages stay in evaluation mode: training mode would move their batch-norm statistics."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, x: Tensor) -> Features:  # type: ignore[override]
        x = x.contiguous(memory_format=torch.channels_last)  # the layout of the weights; the fast one on CPU and GPU
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        stage3 = self.layer3(self.layer2(self.layer1(x)))
        stage4 = self.layer4(stage3)
        return Features(stage3, stage4, torch.flatten(self.avgpool(stage4), 1))
