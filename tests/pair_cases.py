"""Synthesized pairs with a small network: settings, objective, batches and features."""

import torch
from torch import Tensor

from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.objectives.synth_pair import SynthPair
from fgtrain.settings import common, methods


def small(base="moco", **pair) -> methods.SynthPairConfig:
    """A network of width 8 at 32 px, a bank of 20, no warm-up."""
    return methods.SynthPairConfig(
        base=base,
        model=common.Model(width=8),
        views=ViewSpec(size=32),
        data=common.Data(batch_size=8),
        moco=methods.MocoSettings(dim=8),
        simsiam=methods.SimsiamSettings(hidden=16, dim=8, bottleneck=4),
        pair=methods.PairSettings(**{"bank": 20, **pair}),
        reconstruct=methods.ReconstructSettings(width=4, depth=1, epochs=0, batch_size=8),
    )


def build(base="moco", double: bool = True, **pair) -> SynthPair:
    objective = objectives.build(small(base, **pair), samples=40).train()
    return objective.double() if double else objective


def batch(n: int = 5, size: int = 32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    views, plain = (torch.randn(*shape, 3, size, size, generator=generator) for shape in ((2, n), (n,)))
    return {"views": views.double(), "plain": plain.double()}


def features(n: int, dim: int = 64, seed: int = 1) -> Tensor:
    return torch.rand(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(objective: SynthPair) -> dict[str, Tensor]:
    return {k: v.float() for k, v in batch(8, objective.views.size).items()}
