"""Every method with a small network: settings, batches, and an objective without batch statistics."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from trainable import fix_batch_norm

from fgdata.views import Local, ViewSpec
from fgtrain import objectives
from fgtrain.settings.common import Config, Data, Model
from fgtrain.settings.comparisons import (
    AttendSettings,
    LcrConfig,
    LewelConfig,
    LewelSettings,
    LoocConfig,
    RelativeLocationConfig,
    RelativeSettings,
    RotationConfig,
    SamConfig,
    SupervisedConfig,
)
from fgtrain.settings.distillation import BoxDistillConfig, DistillSettings
from fgtrain.settings.methods import (
    AlignSettings,
    ByolConfig,
    ByolSettings,
    CvsaConfig,
    MocoConfig,
    MocoSettings,
    SimclrConfig,
    SimclrSettings,
    SimsiamConfig,
    SimsiamSettings,
)
from fgtrain.settings.multicrop import DinoConfig, DinoSettings
from fgtrain.settings.papn import PapnConfig, PapnSettings
from fgtrain.settings.regions import ForegroundConfig, InslocConfig

SMALL: dict[str, Any] = {
    "model": Model(width=8),
    "data": Data(batch_size=6),
    "views": ViewSpec(size=64),
    "byol": ByolSettings(hidden=16, dim=8),
    "moco": MocoSettings(dim=8),
    "simsiam": SimsiamSettings(hidden=16, dim=8, bottleneck=4),
    "simclr": SimclrSettings(hidden=16, dim=8),
    "align": AlignSettings(hidden=16, dim=8, stages=(3, 4)),
    "attend": AttendSettings(filters=4),
    "lewel": LewelSettings(hidden=16, dim=8),
    "dino": DinoSettings(hidden=16, bottleneck=8, dim=24),
    "papn": PapnSettings(parts=3, dim=6),
    "distill": DistillSettings(size=96),
    "relative": RelativeSettings(patch=21, hidden=16, dropout=0.0),  # 21 of 64 pixels leaves nothing to draw
}


def small(kind: type, **more) -> Any:
    """A config of a network of width 8 with narrow heads."""
    settings = {k: v for k, v in (SMALL | more).items() if k in kind.__dataclass_fields__}
    return kind(**settings | {"views": replace(settings["views"], views=kind.view_count)})


CASES: dict[str, Callable[[], Config]] = {
    "byol": lambda: small(ByolConfig),
    "moco": lambda: small(MocoConfig),
    "moco-symmetric": lambda: small(MocoConfig, moco=MocoSettings(dim=8, symmetric=True)),
    "moco-sinkhorn": lambda: small(MocoConfig, moco=MocoSettings(dim=8, targets="sinkhorn", targets_eps=0.5)),
    "simsiam": lambda: small(SimsiamConfig),
    "simclr": lambda: small(SimclrConfig),
    "cvsa": lambda: small(CvsaConfig),
    "cvsa-moco": lambda: small(CvsaConfig, base="moco"),
    "supervised": lambda: small(SupervisedConfig),
    "rotation": lambda: small(RotationConfig),
    "relative-location": lambda: small(RelativeLocationConfig),
    "looc": lambda: small(LoocConfig),
    "lcr": lambda: small(LcrConfig),
    "lcr-mean": lambda: small(LcrConfig, attend=AttendSettings(4, pool="mean")),
    "lcr-byol": lambda: small(LcrConfig, base="byol"),
    "sam": lambda: small(SamConfig, attend=AttendSettings(4, target="raw")),
    "lewel": lambda: small(LewelConfig),
    "dino": lambda: small(DinoConfig, views=ViewSpec(size=64, local=Local(count=3, size=32))),
    "dino-norm": lambda: small(DinoConfig, dino=DinoSettings(hidden=16, bottleneck=8, dim=24, norm=True)),
    "byol-local": lambda: small(ByolConfig, views=ViewSpec(size=64, local=Local(count=3, size=32))),
    "moco-local": lambda: small(MocoConfig, views=ViewSpec(size=64, local=Local(count=3, size=32))),
    "foreground": lambda: small(ForegroundConfig),
    "insloc": lambda: small(InslocConfig, views=ViewSpec(size=64, crop="paste")),
    "papn": lambda: small(PapnConfig),
    "box-distill": lambda: small(BoxDistillConfig),
    "cvsa-stage-3": lambda: small(CvsaConfig, align=AlignSettings((3,), 16, 8, "cosine", reduction="sum", weight=0.5)),
}


def batch(n: int = 6, seed: int = 0, name: str = "byol") -> dict[str, Tensor]:
    """A batch for a case, with at least two views."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(2, n, 1, 64, 64)
    for i in range(n):
        masks[0, i, :, 8 * i : 8 * i + 24, 8:40] = 1
        masks[1, i, :, 16:48, 4 * i : 4 * i + 32] = 1
    views = torch.randn(max(2, CASES[name]().view_count), n, 3, 64, 64, generator=generator)
    local = torch.randn(3, n, 3, 32, 32, generator=generator)
    boxes = torch.rand(2, n, 4, generator=generator) * 16 + torch.tensor([0, 0, 24, 24])
    lent = torch.randn(n, 3, 64, 64, generator=generator)
    more = {"boxes": boxes, "lent": lent, "object": torch.randn(n, 3, 96, 96, generator=generator)}
    more |= {"label": torch.arange(n) % 3, "index": torch.arange(n)}
    if CASES[name]().views.local.count:
        more["local"] = local
    return {"views": views, "masks": masks, **more}


def without_batch_statistics(config: Config) -> Any:
    """The objective in float64 with batch norm in evaluation mode: a sample's output is independent of its batch."""
    objective = objectives.build(config, samples=40, classes=3).double().train()
    fix_batch_norm(objective)
    return objective


def fixed_turns(samples: int, _: torch.device) -> Tensor:
    return torch.tensor([[1], [2]]).expand(2, samples)


def fixed_boxes(boxes: Tensor, *_: Any) -> Tensor:
    return boxes + 2


def double(data: dict[str, Tensor], part: slice = slice(None)) -> dict[str, Tensor]:
    rows = ("label", "index", "lent", "object")  # their samples come first
    return {
        k: (v[part] if k in rows else v[:, part]).to(torch.double if v.is_floating_point() else v.dtype)
        for k, v in data.items()
    }


def gradients(objective: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
