"""What training does only on a GPU, each run there and compared with the CPU's result: the rows of gpu_check.py."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any, Literal

import golden
import torch
import torch.distributed as dist
from bench_step import preloaded, stepper, timed
from torch import Tensor, nn
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from fgdata.views import Local, ViewSpec, load
from fgtrain import objectives
from fgtrain.engine.lifecycle import train
from fgtrain.place import has_bf16
from fgtrain.settings.common import Config, Data, Machine, Model
from fgtrain.settings.recipes import RECIPES


@dataclass(frozen=True)
class Scale:
    """How much is measured. The comparisons with the CPU are small on every machine."""

    size: int
    """Side of a view in pixels."""
    batch: int
    model: Model
    batches: int
    """Of a loader."""
    steps: int
    epochs: int = 1
    curves: tuple[str, ...] = ()
    """Methods whose golden loss curves are computed."""


RANDOM = ("synth-pair", "relative-location", "looc", "foreground", "foreground-mixup", "insloc")
"""Methods that draw random numbers on the device, where they are others than on the CPU."""
CURVES = tuple(name for name in golden.NAMES if name not in RANDOM)
ON_GPU = Scale(224, 64, Model("resnet50"), batches=40, steps=10, epochs=10, curves=CURVES)
DRY = Scale(32, 8, Model(width=8), batches=2, steps=1, curves=("simclr",))
SMALL = Scale(64, 16, Model(width=16), batches=1, steps=3)
"""Of the comparisons with the CPU."""


@dataclass(frozen=True)
class Found:
    """What a path gave."""

    difference: float
    """From the CPU's answer, in the unit that `allowed` has."""
    allowed: float
    samples: float | None = None
    """Per second."""
    wait: float | None = None
    """Share of the time that waits for data."""
    note: str = ""


class Missing(Exception):
    """Why a path does not exist on this machine."""


def loader(
    backend: Literal["threads", "dali"], lenders: bool = False, detector: str = "gt", **views: Any
) -> Callable[..., Found]:
    """Every tensor of a batch computed for the device, against that which threads compute for the CPU, in levels of
    255. With `lenders`, the set itself lends the backgrounds; `detector` gives boxes and maps."""

    def check(place: torch.device, scale: Scale, shards: Path) -> Found:
        if backend == "dali":
            need_dali()
        spec = ViewSpec(size=SMALL.size, masks=True, **views)
        more: dict[str, Any] = {"detector": detector} | ({"backgrounds": [shards]} if lenders else {})
        ours = first(shards, spec, place, backend, **more)
        theirs = first(shards, spec, CPU, "threads", **more)
        if not torch.equal(ours["masks"].cpu(), theirs["masks"]):
            return Found(float("inf"), 0.0, note="the masks differ")
        levels = 255 * torch.tensor(spec.std)[:, None, None]
        scales = {name: 255.0 if name == "mattes" else levels for name in PIXELS if name in theirs}
        gaps = {name: ((ours[name].cpu() - theirs[name]).abs() * by).mean().item() for name, by in scales.items()}
        worst = max(gaps, key=lambda name: gaps[name])
        difference = gaps[worst]
        spec = ViewSpec(size=scale.size, masks=True, **views)
        options: dict[str, Any] = {"batch_size": scale.batch, "backend": backend, "device": place} | more
        with load(shards, views=spec, **options) as stream:
            batches = endless(stream)
            next(batches)
            synchronise(place)
            start = perf_counter()
            for _ in islice(batches, scale.batches):
                pass
            synchronise(place)
        rate = scale.batch * scale.batches / (perf_counter() - start)
        # Each backend is within 0.8 levels of the reference on average (tests/fgdata/views/test_loader.py). A GPU
        # finishes the pixels of `threads` without rounding blurred views (test_unfinished.py).
        allowed = 1.6 if backend == "dali" else 0.4 if place.type != "cpu" else 0.0
        return Found(difference, allowed, rate, note=f"mean difference of {worst} in levels of 255")

    return check


def curves(place: torch.device, scale: Scale, shards: Path) -> Found:
    """Loss curves of 20 steps in float64, with optimiser and moving averages, against the golden files."""
    gaps = {name: gap(golden.curve(name, place), golden.read(name)) for name in scale.curves}
    worst = max(gaps, key=lambda name: gaps[name])
    return Found(gaps[worst], 1e-5, note=f"float64, {len(gaps)} methods, largest of {worst}")


def step(precision: Literal["fp32", "bf16"]) -> Callable[..., Found]:
    """Three steps of BYOL with CVSA, against the CPU in fp32; the loss of the later ones depends on the gradients."""

    def check(place: torch.device, scale: Scale, shards: Path) -> Found:
        half = precision == "bf16"
        if half and place.type == "cuda" and not has_bf16(place):
            raise Missing("this GPU has no bf16")
        with exact():
            ours, theirs = losses(SMALL, place, half), losses(SMALL, CPU, half=False)
        run = stepper(config(scale), preloaded(scale.batch, scale.size, place), place, half)
        run()
        rate = scale.batch / timed(run, scale.steps, place)
        note = "8 bits of mantissa" if half else "convolutions in another order"
        return Found(gap(ours, theirs), 0.1 if half else 2e-3, rate, note=f"loss, 3 steps; {note}")

    return check


def compiled(place: torch.device, scale: Scale, shards: Path) -> Found:
    """torch.compile of the encoder, against the same encoder on the CPU, not compiled."""
    small = config(SMALL)
    encoder = objectives.build(small, samples=64).encoder.train()
    x = torch.randn(SMALL.batch, 3, SMALL.size, SMALL.size, generator=torch.Generator().manual_seed(0))
    with exact():
        expected = encoder(x).pooled
        encoder.to(place).compile()
        found = encoder(x.to(place)).pooled.cpu()
    difference = ((found - expected).norm() / expected.norm()).item()
    return Found(difference, 1e-3, note="pooled features, relative")


def one_process(place: torch.device, scale: Scale, shards: Path) -> Found:
    """Gradients of DistributedDataParallel in a group of one process (NCCL on a GPU), against those without."""
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(place)
    with group(place):
        gradients = []
        for parallel in (False, True):
            torch.manual_seed(0)
            network: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).to(place)
            network(x)
            with exact():
                (nn.parallel.DistributedDataParallel(network) if parallel else network)(x).square().sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        dist.all_reduce(gradients[1])
    return Found(((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item(), 1e-5, note="gradients, relative")


def sync_norm(place: torch.device, scale: Scale, shards: Path) -> Found:
    """The kernels of synchronised batch norm in a group of one process, against batch norm on the CPU."""
    if place.type != "cuda":
        raise Missing("torch synchronises batch norm on GPUs only")
    from torch.nn.modules._functions import SyncBatchNorm

    x = torch.randn(16, 8, 7, 7, generator=torch.Generator().manual_seed(0))
    layer = nn.BatchNorm2d(8).train()
    expected = layer(x)
    with group(place):
        weight, bias, running, variance = (torch.full((8,), v, device=place) for v in (1.0, 0.0, 0.0, 1.0))
        found = SyncBatchNorm.apply(x.to(place), weight, bias, running, variance, layer.eps, 0.1, dist.group.WORLD, 1)
    assert found is not None
    return Found((found.cpu() - expected).abs().max().item(), 1e-4, note="largest difference of normalised values")


def training(backend: Literal["auto", "threads"]) -> Callable[..., Found]:
    """`fgtrain run byol` on the device (auto: DALI, bf16, cuDNN's fastest), against a run on the CPU."""

    def check(place: torch.device, scale: Scale, shards: Path) -> Found:
        ours, theirs = (
            run(SMALL, where, shards, f"compared-{backend}-{where.type}-{i}", backend)
            for i, where in enumerate((place, CPU))
        )
        first_losses = ([line["loss"] for line in lines[: SMALL.steps]] for lines in (ours, theirs))
        lines = run(scale, place, shards, f"measured-{backend}", backend)
        lines = lines[1:] or lines  # the first one includes the start
        rate, wait = (mean(line[name] for line in lines) for name in ("images_per_second", "data_wait"))
        note = "loss, 3 steps" + ("; views by another backend" if backend == "auto" else "")
        return Found(gap(*first_losses), 0.1, rate, wait, note)

    return check


CPU = torch.device("cpu")
PIXELS = ("views", "plain", "local", "lent", "object", "mattes")
"""Tensors of a batch that are computed from pixels."""
MAPPED = "spectral-residual"
"""The detector whose maps the set of gpu_check.py keeps."""
PATHS: dict[str, Callable[[torch.device, Scale, Path], Found]] = {
    "views by threads, copied to the device": loader("threads", crop="saliency-swap"),
    "DALI, random resized crops": loader("dali", crop="rrc"),
    "DALI, SaliencySwap": loader("dali", crop="saliency-swap"),
    "DALI, all colour as one map": loader("dali", area=(0.99, 1.0), blur=0.0, jitter=1.0, grayscale=0.5),
    "DALI, mattes over other images": loader("dali", detector=MAPPED, crop="matte-paste", matte=1.0, mattes=True),
    "DALI, mattes over grey": loader("dali", detector=MAPPED, crop="matte-paste", matte=1.0, matte_grey=True),
    "DALI, mattes of crops": loader("dali", detector=MAPPED, mattes=True),
    "DALI, small views": loader("dali", local=Local(count=2, size=32)),
    "DALI, lent views": loader("dali", lenders=True, lent=True),
    "DALI, the object's view": loader("dali", object_size=96),
    "DALI, solarised": loader("dali", solarize=(0.0, 1.0)),
    "loss curves": curves,
    "training step, fp32": step("fp32"),
    "training step, bf16": step("bf16"),
    "torch.compile": compiled,
    "one process of NCCL": one_process,
    "SyncBatchNorm": sync_norm,
    "whole training": training("auto"),
    "whole training, views by threads": training("threads"),
}
"""Row of the table -> what it runs: (device, scale, a shard set) -> Found, or Missing."""


def config(scale: Scale) -> Config:
    base = RECIPES["cvsa"]()
    views = replace(base.views, size=scale.size)
    return replace(base, model=scale.model, views=views, data=Data(batch_size=scale.batch))


def losses(scale: Scale, place: torch.device, half: bool) -> list[float]:
    """The loss before each of the first steps, on noise."""
    run = stepper(config(scale), preloaded(scale.batch, scale.size, place), place, half)
    return [float(run()) for _ in range(scale.steps)]


def run(
    scale: Scale, place: torch.device, shards: Path, name: str, backend: Literal["auto", "threads"]
) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a training run."""
    base = RECIPES["byol"]()
    every = 1 if scale == SMALL else 10
    machine = Machine(out=shards.parent / name, device=str(place), log_every=every, backend=backend)
    data = Data(shards, batch_size=scale.batch, detector="gt")
    views = replace(base.views, size=scale.size)
    train(replace(base, model=scale.model, views=views, data=data, machine=machine, epochs=scale.epochs), "byol")
    text = (shards.parent / name / "metrics.jsonl").read_text("utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


def first(shards: Path, spec: ViewSpec, place: torch.device, backend: Any, **options: Any) -> dict[str, Tensor]:
    """The first batch of a loader."""
    options |= {"batch_size": SMALL.batch, "backend": backend, "device": place}
    with load(shards, views=spec, **options) as stream:
        return next(iter(stream))


def endless(stream: Any) -> Iterator[dict[str, Tensor]]:
    while True:
        yield from stream


def gap(ours: list[float], theirs: list[float]) -> float:
    """The largest difference of two curves."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def need_dali() -> None:
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        raise Missing("DALI is not installed: pip install '.[dali]' (CUDA 12: '.[dali-cuda12]')") from None


def synchronise(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


@contextmanager
def exact() -> Iterator[None]:
    """No TF32 in the block, whose mantissa has 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def group(place: torch.device) -> Iterator[None]:
    """A process group of this process alone: NCCL for a GPU, gloo for the CPU."""
    if place.type == "cuda" and not dist.is_nccl_available():
        raise Missing("torch was built without NCCL")
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
