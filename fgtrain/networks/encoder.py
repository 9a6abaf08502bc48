"""The encoder: torchvision's ResNets, with an adjustable width and stem."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from ..settings.common import Model

BLOCKS = {"resnet18": (resnet.BasicBlock, [2, 2, 2, 2]), "resnet50": (resnet.Bottleneck, [3, 4, 6, 3])}


class Features(NamedTuple):
    """Output of the encoder for a batch of B images, in the dtype of the computation."""

    stage3: Tensor
    """(B, C, S / 16, S / 16): map of the third stage; S / 4 with the small stem."""
    stage4: Tensor
    """(B, n, S / 32, S / 32): map of the last stage; S / 8 with the small stem."""
    pooled: Tensor
    """(B, n): mean of `stage4` over its positions."""


class Encoder(resnet.ResNet):
    """(B, 3, S, S) normalised float -> Features. The state dict has torchvision's names without `fc`.

    torchvision's `width_per_group` narrows only the inside of a Bottleneck, so `width` scales the stem and the planes
    of each stage. At width 64 with the imagenet stem, the network equals torchvision's.

        encoder = Encoder(Model("resnet18"))
        features = encoder(torch.rand(2, 3, 224, 224))
        features.pooled  # (2, 512)
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
        self.origin = "random weights"  # printed when a run starts
        self.initial: dict[str, str] | None = None  # file, sha256, table and prefix of --init, for run.json
        del self.fc

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[override]
        if planes == 64:
            self.inplanes = self.width
        return super()._make_layer(block, planes * self.width // 64, blocks, stride, dilate)

    def freeze(self, stages: int) -> None:
        """Freezes the stem and layer1 to layer`stages`, 0 to 3; 0 freezes nothing. Later copies are frozen too."""
        self.frozen = ("conv1", "bn1", *(f"layer{i + 1}" for i in range(stages))) if stages else ()
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Encoder":
        """Keeps frozen stages in evaluation mode: training mode would update their batch-norm statistics."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, x: Tensor) -> Features:  # type: ignore[override]
        x = x.contiguous(memory_format=torch.channels_last)  # as the weights; the faster layout on CPU and GPU
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        stage3 = self.layer3(self.layer2(self.layer1(x)))
        stage4 = self.layer4(stage3)
        return Features(stage3, stage4, torch.flatten(self.avgpool(stage4), 1))
