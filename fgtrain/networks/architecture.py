"""Networks by name: timm's, and the ResNets of any width. Their shapes are measured, not looked up."""

import difflib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from fgdata.errors import InputError

from ..settings.common import Model
from .resnet import BLOCKS, ResNet

METHODS = ("forward_intermediates", "forward_head", "group_matcher", "feature_info", "pretrained_cfg")
"""What the encoder needs from a network; a few of timm's networks lack some of it."""


def build(model: Model) -> nn.Module:
    """The network of some settings, with random weights from torch's global generator.

    InputError for an unknown name, one that timm cannot take apart into maps, and settings that it does not have.
    """
    if model.backbone in BLOCKS:
        _refuse(model.drop_path > 0, "--model.drop-path", f"{model.drop_path:g}", "0", model)
        return ResNet(model)
    import timm

    name, _, _ = model.backbone.partition(".")
    if not timm.is_model(name):
        near = dict.fromkeys([*BLOCKS, *difflib.get_close_matches(name, timm.list_models(), 5, 0.5)])
        raise InputError(
            f"--model.backbone {model.backbone} is not a network of timm {timm.__version__}; similar names: "
            f'{", ".join(near)}. List them: python -c "import timm; print(*timm.list_models())"'
        )
    _refuse(model.width != 64, "--model.width", str(model.width), "64", model)
    _refuse(model.stem != "imagenet", "--model.stem", model.stem, "imagenet", model)
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    options |= {"drop_path_rate": model.drop_path} if model.drop_path else {}
    network: nn.Module | None = None
    flexible: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
    for extra in flexible:
        try:
            network = timm.create_model(model.backbone, **options, **extra)
            break
        except TypeError as error:  # the network has no such option
            if "drop_path_rate" in str(error):
                _refuse(True, "--model.drop-path", f"{model.drop_path:g}", "0", model)
        except RuntimeError as error:  # an unknown tag
            raise InputError(f"--model.backbone {model.backbone}: {error}") from error
    if network is None or (lacking := [name for name in METHODS if not hasattr(network, name)]):
        raise InputError(
            f"--model.backbone {model.backbone} cannot be used: timm gives no feature maps for it"
            + (f" (it has no {', '.join(lacking)})" if network is not None else "")
            + ". Allowed: networks with forward_intermediates, such as resnet50, convnext_tiny, vit_small_patch16_224."
        )
    return network


def _refuse(wrong: bool, flag: str, value: str, allowed: str, model: Model) -> None:
    if wrong:
        others = " and ".join(BLOCKS)
        kind = "of timm's other networks" if model.backbone in BLOCKS else f"for {others} only"
        raise InputError(
            f"{flag} is {value}, which is a setting {kind}; allowed with --model.backbone {model.backbone}: {allowed}."
        )


@dataclass(frozen=True)
class Shape:
    """The shapes of a network's outputs."""

    dim: int
    """Length of the pooled feature."""
    channels: dict[int, int]
    """Level -> channels of its map."""
    strides: dict[int, int]
    """Level -> pixels per position of its map."""
    norm: bool
    """Whether the network can normalise the maps that it returns, as it does before its classifier."""
    tokens: bool
    """Whether it ends in a sequence of tokens, not in maps."""
    last: str
    """Name of the module of the last stage or block."""

    def run(self, network: Any, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """(B, 3, S, S) -> what the network's head takes, and the maps by level."""
        final, maps = network.forward_intermediates(x, indices=len(self.channels), norm=self.norm, output_fmt="NCHW")
        return final, dict(zip(self.channels, maps[-len(self.channels) :]))

    def stages(self, network: Any, x: Tensor, count: int) -> list[Tensor]:
        """(B, 3, S, S) -> the maps of the last `count` stages or blocks, from the first to the last."""
        return network.forward_intermediates(x, indices=count, norm=self.norm, output_fmt="NCHW")[1][-count:]

    def fits(self, model: Model, size: int) -> bool:
        """Whether the network can process images of `size` x `size` pixels."""
        return _try(model, size, self.norm) is not None

    def grid(self, model: Model, size: int) -> tuple[int, int]:
        """Height and width of the last map of images of `size` x `size` pixels."""
        shapes = _try(model, size, self.norm)
        assert shapes is not None
        height, width = shapes[1][-1][2:]
        return height, width


@lru_cache(maxsize=32)
def measure(model: Model) -> Shape:
    """The shape of the network of some settings. InputError when it returns no maps."""
    network, size = cast("Any", _on_meta(model)), input_size(model)
    for norm in (True, False):
        if (shapes := _try(model, size, norm)) is not None:
            break
    else:
        raise InputError(
            f"--model.backbone {model.backbone} cannot be used: it returns no feature maps. Allowed: networks with "
            "levels, such as resnet50, convnext_tiny or vit_small_patch16_224."
        )
    final, maps, pooled = shapes
    levels = (3, 4) if len(maps) == 2 and maps[0][2:] != maps[1][2:] else (4,)
    maps = maps[-len(levels) :]
    return Shape(
        dim=pooled[1],
        channels={level: each[1] for level, each in zip(levels, maps)},
        strides={level: size // each[2] for level, each in zip(levels, maps)},
        norm=norm,
        tokens=len(final) == 3,
        last=network.feature_info[-1]["module"],
    )


@lru_cache(maxsize=32)
def pools_last_map(model: Model) -> bool:
    """Whether the pooled feature is computed from the last map, so that a loss on it has a gradient there. A network of
    tokens computes both from its tokens."""
    network: Any = _on_meta(model)
    size = input_size(model)
    final, maps = measure(model).run(network, torch.empty(2, 3, size, size, device="meta"))
    pooled = network.forward_head(final, pre_logits=True)
    return torch.autograd.grad(pooled.sum(), maps[4], allow_unused=True)[0] is not None


@lru_cache(maxsize=32)
def stage_channels(model: Model, count: int) -> tuple[int, ...]:
    """Channels of the last `count` stages or blocks. InputError when the network does not have as many."""
    size = input_size(model)
    try:
        maps = measure(model).stages(_on_meta(model), torch.empty(2, 3, size, size, device="meta"), count)
    except Exception:  # each family raises errors of its own types
        maps = []
    if len(maps) < count:
        raise InputError(
            f"--model.backbone {model.backbone} has fewer than the {count} stages that this method compares. Allowed: "
            "networks with more, such as resnet50, convnext_tiny or vit_small_patch16_224."
        )
    return tuple(each.shape[1] for each in maps)


@lru_cache(maxsize=32)
def beyond_stages(model: Model, count: int) -> tuple[str, ...]:
    """Names of the parameters that the maps of the last `count` stages or blocks do not depend on, such as those of a
    norm or convolution before the classifier."""
    network, size = _on_meta(model), input_size(model)
    names, parameters = zip(*network.named_parameters())
    with torch.enable_grad():
        maps = measure(model).stages(network, torch.empty(2, 3, size, size, device="meta"), count)
        slopes = torch.autograd.grad([each.sum() for each in maps], parameters, allow_unused=True)
    return tuple(name for name, slope in zip(names, slopes) if slope is None)


def input_size(model: Model) -> int:
    """The side of the images that a network is made for, in pixels."""
    network: Any = _on_meta(model)
    return network.pretrained_cfg.get("input_size", (3, 224, 224))[-1]


@lru_cache(maxsize=1)
def _on_meta(model: Model) -> nn.Module:
    """The network without memory for its weights: it computes shapes only."""
    with torch.device("meta"):
        return build(model).eval()


@lru_cache(maxsize=512)
def _try(model: Model, size: int, norm: bool) -> tuple[tuple[int, ...], list[tuple[int, ...]], tuple[int, ...]] | None:
    """Shapes of the head's input, of the last maps and of the pooled feature; None when the network refuses."""
    network: Any = _on_meta(model)
    try:
        with torch.no_grad():
            x = torch.empty(2, 3, size, size, device="meta")
            final, maps = network.forward_intermediates(x, indices=2, norm=norm, output_fmt="NCHW")
            pooled = network.forward_head(final, pre_logits=True)
    except Exception:  # each family raises errors of its own types
        return None
    if pooled.ndim != 2 or any(each.ndim != 4 or 0 in each.shape for each in maps):
        return None
    return tuple(final.shape), [tuple(each.shape) for each in maps], tuple(pooled.shape)
