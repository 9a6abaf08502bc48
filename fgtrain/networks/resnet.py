"""ResNet-18 and ResNet-50 of any width and with a stem for small images: torchvision's, with timm's methods.

At width 64 with the imagenet stem, the network equals torchvision's in names, shapes and initial weights.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from ..settings.common import Model

BLOCKS = {"resnet18": (resnet.BasicBlock, [2, 2, 2, 2]), "resnet50": (resnet.Bottleneck, [3, 4, 6, 3])}


class EverySecond(nn.Conv2d):
    """(B, C, H, W) -> (B, D, ceil(H / 2), ceil(W / 2)): a 1x1 convolution of every second position, as a dense one.

    oneDNN's backward pass of a strided one corrupts the heap if it has fewer than 16 channels, in channels last (torch
    2.15.0: 8 and 12 channels, maps of 56 to 96 positions a side; not 16 or 24 channels, not 48 positions).
    """

    def reset_parameters(self) -> None:
        """No draws: it takes the place of a convolution that has made them, and ResNet initialises all at its end."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, ::2, ::2])


class ResNet(resnet.ResNet):
    """torchvision's `width_per_group` narrows only the inside of a Bottleneck, so `model.width` scales the stem and the
    planes of each stage. The names are torchvision's without `fc`."""

    pretrained_cfg: ClassVar[dict[str, tuple[float, ...]]] = {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    feature_info: ClassVar[list[dict[str, str]]] = [{"module": f"layer{i}"} for i in (1, 2, 3, 4)]

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
        del self.fc

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[override]
        if planes == 64:
            self.inplanes = self.width
        layer = super()._make_layer(block, planes * self.width // 64, blocks, stride, dilate)
        shortcut = getattr(layer[0], "downsample", None)
        if stride == 2 and shortcut is not None and shortcut[0].in_channels < 16:
            strided = shortcut[0]
            shortcut[0] = EverySecond(strided.in_channels, strided.out_channels, 1, bias=False)
        return layer

    def forward_intermediates(self, x: Tensor, indices: int = 2, **_) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, S, S) -> the map of layer4, and those of the last `indices` layers."""
        x, maps = self.to_stem(x), []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps = [*maps, x][-indices:]
        return x, maps

    def to_stem(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> the input of layer1."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def to_stage3(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> the map of layer3, S / 16 positions wide."""
        return self.layer3(self.layer2(self.layer1(self.to_stem(x))))

    def from_stage3(self, x: Tensor) -> Tensor:
        """A map of layer3, of any size -> the map of layer4."""
        return self.layer4(x)

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """(B, n, h, w) -> (B, n): the mean over positions."""
        return torch.flatten(self.avgpool(x), 1)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of parameter names: the stem, then one group a stage (`coarse`) or a block."""
        return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}
