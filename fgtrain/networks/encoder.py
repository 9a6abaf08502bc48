"""The encoder: one contract over every timm network and the narrow ResNets.

Nothing outside this folder depends on which network it is. Its features are maps by level, 3 and 4 being strides 16
and 32 of a convolutional network; a network of one scale, such as a plain ViT, has its patch grid as level 4 only.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fgdata.errors import InputError
from fgdata.views import ViewSpec

from ..settings.common import Model
from . import architecture
from .attention import Attention, attended
from .groups import Groups
from .norm import batch_norms
from .parts import Parts

IMAGENET = ViewSpec().mean, ViewSpec().std


class Features(NamedTuple):
    """Output of the encoder for a batch of B images, in the dtype of the computation."""

    maps: dict[int, Tensor]
    """Level -> (B, C, h, w)."""
    pooled: Tensor
    """(B, n): what the network's own classifier would see."""

    def each(self, function: Callable[[Tensor], Tensor]) -> "Features":
        """Applies a function to every tensor."""
        return Features({level: function(x) for level, x in self.maps.items()}, function(self.pooled))

    @staticmethod
    def cat(parts: "Iterable[Features]") -> "Features":
        """The features of several parts of a batch, in order."""
        maps, pooled = zip(*parts)
        return Features({level: torch.cat([m[level] for m in maps]) for level in maps[0]}, torch.cat(pooled))


class Encoder(nn.Module):
    """(B, 3, S, S) normalised float -> Features, with random weights from torch's global generator. The state dict has
    the names of timm or torchvision.

    InputError when the settings name no network that can be used.

        encoder = Encoder(Model("convnext_atto"))
        features = encoder(torch.rand(2, 3, 224, 224))
        features.pooled  # (2, 320)
    """

    def __init__(self, model: Model):
        super().__init__()
        self.model, self.shape, self.network = model, architecture.measure(model), architecture.build(model)
        self.dim, self.channels = self.shape.dim, self.shape.channels
        self.attend = Attention(self.channels[4], model.attend) if model.attend else None
        self.parts = Parts(self.channels[4], model.parts) if model.parts else None
        self.described = self.channels[4] if model.attend else self.dim + bool(model.parts) * self.channels[4]
        self.groups = Groups(self.network)
        config: Any = self.network.pretrained_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.frozen: list[str] = []
        self.hold = False  # keep every batch norm in evaluation mode
        self.origin = "random weights"  # printed when a run starts
        self.initial: dict[str, Any] | None = None  # where --init came from, for run.json
        self.register_state_dict_post_hook(_hide_network)
        self.register_load_state_dict_pre_hook(_show_network)

    def forward(self, x: Tensor) -> Features:
        x = x.contiguous(memory_format=torch.channels_last)  # as the weights; the faster layout on CPU and GPU
        final, maps = self.shape.run(self.network, x)
        return Features(maps, self.network.forward_head(final, pre_logits=True))  # pyright: ignore[reportCallIssue]

    def stages(self, x: Tensor, count: int) -> list[Tensor]:
        """(B, 3, S, S) -> the maps (B, C, h, w) of the last `count` stages or blocks, from the first to the last."""
        return self.shape.stages(self.network, x.contiguous(memory_format=torch.channels_last), count)

    def describe(self, features: Features) -> Tensor:
        """Output for B images -> (B, `described`), the feature that evaluations use: the pooled one, or with an
        attention branch the mean of the last map weighted by it, of length 1. With prototypes of parts the largest of
        their features in each channel follows."""
        if self.parts is not None:
            return torch.cat([features.pooled, self.parts(features.maps[4]).amax(1)], 1)
        if self.attend is None:
            return features.pooled
        return attended(features.maps[4], self.attend(features.maps[4]))

    def freeze(self, stages: int) -> None:
        """Freezes the stem and the first `stages` stages or blocks; 0 freezes nothing. Later copies are frozen too.

        InputError when the network has no more stages than that.
        """
        if stages == 0:
            return  # without the import of timm's networks
        if stages >= len(self.groups.stages):
            raise InputError(
                f"--freeze-stages is {stages}, but {self.model.backbone} has {len(self.groups.stages)} stages; "
                f"allowed: 0 to {len(self.groups.stages) - 1}, so that the last one is trained."
            )
        names = set(self.groups.up_to(stages))
        for name, parameter in self.network.named_parameters():
            if name in names:
                parameter.requires_grad_(False)
        self.frozen = [
            name
            for name, module in self.network.named_modules()
            if (inside := [f"{name}.{p}" for p, _ in module.named_parameters()]) and names.issuperset(inside)
        ]
        self.train(self.training)

    def train(self, mode: bool = True) -> "Encoder":
        """Keeps frozen stages, and with `hold` every batch norm, in evaluation mode: training mode would use and update
        the statistics of the batch."""
        super().train(mode)
        for name in self.frozen:
            self.network.get_submodule(name).eval()
        for layer in batch_norms(self.network) if self.hold else ():
            layer.eval()
        return self

    def normalised(self, views: ViewSpec) -> ViewSpec:
        """The same views with the mean and std of the weights, or timm's for a network whose weights state none, unless
        the views have their own, which the encoder then adopts. ImageNet's are the default of the views, and count as
        not given."""
        if (views.mean, views.std) == IMAGENET:
            return replace(views, mean=self.mean, std=self.std)
        self.mean, self.std = views.mean, views.std
        return views

    def evaluation_view(self, size: int) -> ViewSpec:
        """The test-time view at `size` pixels with the mean and std that the network was trained with."""
        return replace(ViewSpec.evaluation(size), mean=self.mean, std=self.std)

    def whole_view(self, size: int) -> ViewSpec:
        """The test-time view with `plain`, the whole image resized to a square of `size` pixels."""
        return replace(self.evaluation_view(size), plain=True)

    def check_size(self, size: int, flag: str = "views.size") -> None:
        """InputError, with the nearest sizes that fit, when the network cannot process views of `size` pixels."""
        if self.shape.fits(self.model, size):
            return
        below = next((s for s in range(size - 1, max(size - 64, 7), -1) if self.shape.fits(self.model, s)), None)
        above = next((s for s in range(size + 1, size + 64) if self.shape.fits(self.model, s)), None)
        own = self.network.pretrained_cfg.get("input_size", (3, 224, 224))[-1]  # pyright: ignore
        near = [str(s) for s in (below, above) if s] or [str(own)]
        raise InputError(f"--{flag} is {size}, which {self.model.backbone} cannot process; allowed: {', '.join(near)}.")

    def position_remarks(self, size: int) -> list[str]:
        """What to say of a method that compares positions of the last map, for views of `size` pixels."""
        height, width = self.shape.grid(self.model, size)
        if height * width > 1:
            return []
        return [
            f"the last map of {self.model.backbone} has a single position at --views.size {size}, so this method has "
            "no positions to compare; choose a larger size, or for a ResNet --model.stem small"
        ]

    def last_stage(self, x: Tensor) -> "tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]":
        """(B, 3, S, S) -> the tensor that Grad-CAM differentiates, (B, n) features described from it, and a function
        that gives any tensor of that shape as maps (B, C, h, w). Call it in evaluation mode.

        The tensor is the output of the last stage. A network of tokens may pool only the class token of its last block,
        so there it is the input of that block.
        """
        captured: list[Tensor] = []

        def leaf(tensor: Any) -> Tensor:
            captured.append(tensor.detach().requires_grad_(True))
            return captured[0]

        stage = self.network.get_submodule(self.shape.last)
        if self.shape.tokens:
            hook = stage.register_forward_pre_hook(lambda _, inputs: (leaf(inputs[0]), *inputs[1:]))
        else:
            hook = stage.register_forward_hook(lambda _, inputs, output: leaf(output))
        with hook, torch.enable_grad():
            described = self.describe(self(x))
        grid = self.shape.grid(self.model, x.shape[-1])
        return captured[0], described, lambda tensor: as_maps(tensor, grid)


def _hide_network(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [k for k in state if k.startswith(f"{prefix}network.")]:
        state[prefix + name.removeprefix(f"{prefix}network.")] = state.pop(name)


def _show_network(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [f"{prefix}network.{k}" for k in module.get_submodule("network").state_dict()]:
        short = prefix + name.removeprefix(f"{prefix}network.")
        if short in state:
            state[name] = state.pop(short)


def as_maps(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, prefix + h w, C) tokens, (B, h, w, C) or (B, C, h, w) -> (B, C, h, w) float32."""
    if x.ndim == 3:
        return x[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid).float()
    return (x if x.shape[2:] == grid else x.permute(0, 3, 1, 2)).float()
