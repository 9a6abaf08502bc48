"""The parts of a network from its input to its output, by timm's patterns of parameter names."""

import re
from functools import cached_property
from typing import Any

from torch import nn


class Groups:
    """Stem, stages and tail of a network. A stage is one of a convolutional network, or one block of a ViT.

    groups = Groups(timm.create_model("convnext_atto"))
    groups.stages  # [1, 2, 3, 4]
    """

    def __init__(self, network: nn.Module):
        self.coarse: Any = network.group_matcher(coarse=True)  # pyright: ignore[reportCallIssue]
        self.fine: Any = network.group_matcher(coarse=False)  # pyright: ignore[reportCallIssue]
        self.names = [name for name, _ in network.named_parameters()]

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Name of a parameter -> number of its part: 0 the stem, then the stages; a tail follows."""
        return _numbered(self.names, self.coarse)

    @cached_property
    def stages(self) -> list[int]:
        """Numbers of the stages."""
        last = max(self.by_name[name] for name in self.names if self.is_stage(name))
        return list(range(1, last + 1))

    def up_to(self, stages: int) -> list[str]:
        """Names of the parameters of the stem and of the first `stages` stages."""
        return [name for name in self.names if self.by_name[name] <= stages]

    def is_stage(self, name: str) -> bool:
        """Whether any parameter of this name, also of another network of the family, belongs to a stage."""
        return any(re.match(pattern, name) for pattern in _specifications(self.coarse))

    def label(self, name: str) -> str:
        """The part that a parameter belongs to, for messages: stem, stage 1, ..., or rest."""
        number = self.by_name[name]
        return "stem" if number == 0 else f"stage {number}" if number in self.stages else "rest"

    @cached_property
    def depth(self) -> dict[str, int]:
        """Name of a parameter -> its layer from the input, 0 first, for layer-wise learning rates."""
        return _numbered(self.names, self.fine)


def _numbered(names: list[str], matcher: Any) -> dict[str, int]:
    from timm.models._manipulate import group_with_matcher  # imports every network of timm

    return group_with_matcher(iter((name, name) for name in names), matcher, reverse=True)  # pyright: ignore


def _specifications(matcher: Any) -> list[str]:
    """The patterns of stages: those of `blocks` that number them."""
    blocks = matcher["blocks"]
    patterns = [blocks] if isinstance(blocks, str) else [pattern for pattern, _ in blocks]
    return [pattern for pattern in patterns if re.compile(pattern).groups]
