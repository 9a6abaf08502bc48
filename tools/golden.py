"""Rewrites the golden loss curves: python tools/golden.py [NAME...]. tests/golden is changed in no other way.

A curve is the loss over 20 training steps of one recipe with a small network, on fixed batches, with the recipe's
optimiser, schedule and moving averages; for a recipe whose network finds the boxes, their mean area after each step,
since its loss is its base's. It is computed in float64, so that it is the same to many digits on every
machine, and a change in the curve is a change in the method.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgtrain import objectives
from fgtrain.engine.refresh import active_boxes
from fgtrain.networks import optim
from fgtrain.settings.common import Data, Model
from fgtrain.settings.recipes import RECIPES

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
# Not synth-pair-simsiam: batch norm over nearly equal decoded images amplifies a rounding error of 1e-9 in step 5 to 1
# in step 12 (measured with ATEN_CPU_CAPABILITY=default), so its curve is reproducible on one processor only.
NAMES = (
    *("moco", "simsiam", "byol", "simclr", "cvsa", "cvsa-moco", "synth-pair"),
    *("supervised", "rotation", "relative-location", "looc", "lcr", "lcr-byol", "sam", "lewel"),
    *("dino", "foreground", "foreground-mixup", "insloc", "contrastive-crop-own", "moco-sinkhorn", "papn"),
    "box-distill",
)
CLASSES = 4
BOXES = (10.0, 6.0, 40.0, 36.0)
STEPS, WARMUP = 20, 3
SMALL: dict[str, dict[str, Any]] = {
    "byol": {"hidden": 32, "dim": 16},
    "moco": {"dim": 16},
    "simsiam": {"hidden": 32, "dim": 32, "bottleneck": 16},  # with 8, its batch norm amplifies rounding to 1e-4
    "simclr": {"hidden": 32, "dim": 16},
    "dino": {"hidden": 32, "bottleneck": 16, "dim": 32, "freeze_epochs": 100.0},  # five of the steps
    "align": {"hidden": 32, "dim": 16, "stages": (3, 4)},
    "attend": {"filters": 4},
    "papn": {"dim": 16},
    "distill": {"size": 96},
    "lewel": {"hidden": 32, "dim": 16},
    "relative": {"hidden": 32, "dropout": 0.0},  # torch draws dropout in another way on other processors
}


def curve(name: str, device: torch.device | str = "cpu") -> list[float]:
    """The loss before each of the 20 steps of a recipe with a narrow network, or the area of its boxes after it.

    device: where it is computed; the batches and the weights are drawn on the CPU.
    """
    config = RECIPES[name]()
    parts = {key: replace(getattr(config, key), **sizes) for key, sizes in SMALL.items() if hasattr(config, key)}
    local = config.views.local
    views = replace(config.views, size=64, local=replace(local, count=3, size=32) if local.count else local)
    config = replace(config, data=Data(batch_size=8), model=Model(width=8), views=views, **parts)
    objective = initialise(objectives.build(config, samples=40, classes=CLASSES).double().train()).to(device)
    optimizer = optim.build(objective, config.optim, objective.rates)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for random draws of the objective
        for step in range(STEPS):
            optim.set_rates(optimizer, step, STEPS, WARMUP, config.optim.lr)
            images = {key: x.to(device) for key, x in batch(step, config.view_count).items()}
            data = {k: x for k, x in images.items() if k in objective.views.tensors}
            loss, _ = objective(data, step / STEPS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.after_step((step + 1) / STEPS)
            losses.append(loss.item())
            if config.views.crop_box == "given":
                losses[-1] = area(objective.encoder, images["plain"], config.own_boxes.threshold)
    return losses


@torch.no_grad()
def area(encoder: nn.Module, images: Tensor, threshold: float) -> float:
    """Mean area of the boxes that an encoder finds on some images."""
    boxes = active_boxes(encoder.eval()(images).maps[4], images.shape[-1], threshold)
    encoder.train()
    return boxes[:, 2:].double().prod(1).mean().item()


@torch.no_grad()
def initialise(objective: Any) -> Any:
    """Replace the objective's weights by float64 draws. torch draws in float32, which rounds differently on other
    processors; batch norm over eight samples amplifies 1e-7 at step 1 to as much as 1e-1 at step 20."""
    generator = torch.Generator().manual_seed(0)
    values = dict(objective.named_parameters()) | dict(objective.named_buffers())
    for name, x in values.items():
        if "target_" in name:
            x.copy_(values[name.replace("target_", "")])
        elif name.endswith("queue.keys"):
            x.copy_(F.normalize(torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5, dim=1))
        elif isinstance(x, nn.Parameter):
            bound = (3 / x[0].numel()) ** 0.5
            draws = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1
            x.copy_(draws * bound if x.ndim > 1 else torch.full_like(x, float(name.endswith("weight"))))
    return objective


def batch(step: int, count: int, n: int = 8, size: int = 64) -> dict[str, Tensor]:
    """Smooth images, `count` noisy views of each, rectangular masks and labels; they depend on the step only."""
    generator = torch.Generator().manual_seed(step)
    coarse = torch.rand(n, 3, 4, 4, generator=generator, dtype=torch.float64)
    plain = F.interpolate(coarse, (size, size), mode="bilinear") * 4 - 2
    views = plain + torch.rand(count, n, 3, size, size, generator=generator, dtype=torch.float64) - 0.5
    local = views[torch.tensor([0, 1, 0]) % count, ..., : size // 2, size // 4 : 3 * size // 4]
    masks = torch.zeros(2, n, 1, size, size, dtype=torch.float64)
    for i in range(n):
        masks[0, i, :, 4 * i : 4 * i + 28, 8:40] = 1
        masks[1, i, :, 16:48, 4 * i : 4 * i + 32] = 1
    more = {"local": local, "lent": plain.flip(0, 3), "boxes": torch.tensor(BOXES, dtype=torch.float64).expand(2, n, 4)}
    more["index"] = (torch.arange(n) + n * step) % 40
    more["object"] = F.interpolate(plain[..., 8:56, 8:56], (96, 96), mode="bilinear")
    return more | {"views": views, "plain": plain, "masks": masks, "label": torch.arange(n) % CLASSES}


def path(name: str) -> Path:
    return GOLDEN / f"{name}.txt"


def read(name: str) -> list[float]:
    return [float(line) for line in path(name).read_text().splitlines()]


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    if unknown := [name for name in sys.argv[1:] if name not in NAMES]:
        sys.exit(f"python tools/golden.py [NAME ...]: {', '.join(unknown)} has no curve; allowed: {', '.join(NAMES)}")
    for name in sys.argv[1:] or NAMES:
        path(name).write_text("".join(f"{loss:.9f}\n" for loss in curve(name)))
        print(path(name).relative_to(GOLDEN.parents[1]))
