"""tools/bench.py step: cost of a training step of each method relative to its base, on the same batches."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench_report import report, spread
from bench_step_cases import CLASSES, MOST_VIEWS, Case, cases, local_size, model_of
from bench_step_table import write_table

from fgdata.errors import InputError
from fgtrain.engine.memory import keep_freed
from fgtrain.place import has_bf16, pick_device
from fgtrain.settings.common import Config, Data

if TYPE_CHECKING:  # torch is imported where it is used, because the workers of other benches load this file
    import torch
    from torch import Tensor


def step(
    only: tuple[str, ...] = (),
    backbone: str = "resnet18",
    size: int = 96,
    batch_size: int = 64,
    rounds: int = 5,
    steps: int = 1,
    threads: int = 2,
    device: str = "cpu",
    precision: str = "auto",
    against: str | None = None,
    json: Path | None = None,
    page: Path | None = None,
) -> None:
    """Seconds per training step, and the ratio to the step of the base.

    A step is forward, backward, optimiser and moving averages; the batch is already on the device. Every round runs all
    cases in turn, and a ratio compares two times of the same round, so a temporary slowdown affects both. The batches
    are noise, which does not affect the times. The ratio of the times is shown beside two ratios of arithmetic, which
    it approaches where arithmetic dominates: `gflop_ratio`, the operations that a step executed, and `counted`, the
    encoder passes that the method's definition asks for; `of_counted` is the measured ratio divided by the latter.

    Args:
        only: measure only these cases and their bases; all by default.
        backbone: the network of every case that does not name one.
        size: side of the views in pixels.
        batch_size: samples per step.
        rounds: measured rounds, after a warm-up round; the table shows minimum, median and maximum.
        steps: steps per case in a round.
        threads: CPU threads of torch.
        device: cpu, cuda or cuda:N.
        precision: fp32 or bf16; auto is bf16 on a GPU and fp32 on a CPU.
        against: a commit. Measure the cases that it has with this tree and with that commit instead, alternately.
        json: file to write the figures to.
        page: Markdown file whose table of steps is rewritten.
    """
    if against is not None:
        from bench_step_against import compare

        options = {"backbone": backbone, "size": size, "batch_size": batch_size, "steps": steps, "threads": threads}
        options |= {"device": device, "precision": precision}
        return report("step", compare(only, options, rounds, against), json, ("torch",))
    import torch

    torch.set_num_threads(threads)
    keep_freed()  # as fgtrain does
    place, chosen = pick_device(device), cases(size)
    if unknown := [name for name in only if name not in chosen]:
        raise InputError(f"--only {unknown[0]!r} is not a case; allowed: {', '.join(map(repr, chosen))}.")
    wanted = set(only or chosen)
    for name in reversed(chosen):  # a base comes before the cases that build on it
        if name in wanted and (base := chosen[name].base):
            wanted.add(base)
    chosen = {name: case for name, case in chosen.items() if name in wanted}
    batch = preloaded(batch_size, size, place)
    half = precision == "bf16" or (precision == "auto" and has_bf16(place))
    runs = {}
    for name, case in chosen.items():
        config = case.config
        local = replace(config.views.local, size=local_size(size)) if config.views.local.count else config.views.local
        views, data = replace(config.views, size=size, local=local), Data(batch_size=batch_size)
        config = replace(config, model=model_of(config, backbone), views=views, data=data)
        runs[name] = (finder if config.views.crop_box == "given" else stepper)(config, batch, place, half)
    gflop = {name: counted(run) for name, run in runs.items()}  # also the warm-up round
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run, steps, place))
    where = torch.cuda.get_device_name(place) if place.type == "cuda" else f"cpu, {threads} threads"
    counts = {name: on_paper(case, backbone, size) for name, case in chosen.items()}
    setting = {"size": size, "batch": batch_size, "precision": "bf16" if half else "fp32"}
    figures = []
    for name, case in chosen.items():
        base, network = case.base, {"backbone": model_of(case.config, backbone).backbone}
        ratios = [a / b for a, b in zip(seconds[name], seconds[base])] if base else []
        figures.append(
            {"step": name} | spread("s", seconds[name]) | {"to": base} | spread("ratio", ratios) | network | setting
        )
        executed = gflop[name] / gflop[base] if base else None
        expected = counts[name] / counts[base] if base and counts[name] else None
        figures[-1] |= {"gflop": gflop[name], "gflop_ratio": executed, "counted": expected}
        figures[-1] |= {"of_counted": median(ratios) / expected if expected else None, "device": where, "n": rounds}
    report("step", figures, json)
    if page:
        write_table(page, figures)


def on_paper(case: Case, backbone: str, size: int) -> float:
    """Billions of floating-point operations for one image, by the passes of a case; 0 if it does not state them."""
    import torch

    from fgtrain.networks import initial

    if not case.passes:
        return 0.0
    encoder = initial.encoder(replace(case.config, model=model_of(case.config, backbone))).eval()
    cost = {
        side: counted(partial(torch.no_grad()(encoder), torch.zeros(1, 3, side, side))) for side in (size, *case.passes)
    }
    return sum(passes * cost[side] for side, passes in case.passes.items()) + case.heads(encoder.dim, size)


def preloaded(batch_size: int, size: int, device: "torch.device") -> dict[str, "Tensor"]:
    """A batch as the loader returns it: noise for views and plain images, rectangular masks, labels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, batch_size, 1, size, size)
    masks[..., size // 4 : size // 2, size // 3 : size] = 1
    batch = {
        "views": torch.randn(MOST_VIEWS, batch_size, 3, size, size, generator=generator),
        "plain": torch.randn(batch_size, 3, size, size, generator=generator),
        "local": torch.randn(8, batch_size, 3, local_size(size), local_size(size), generator=generator),
        "lent": torch.randn(batch_size, 3, size, size, generator=generator),
        "boxes": torch.tensor([0.1, 0.2, 0.6, 0.5]).mul(size).expand(2, batch_size, 4),
        "masks": masks,
        "label": torch.arange(batch_size) % CLASSES,
        "index": torch.arange(batch_size),
    }
    return {name: x.to(device) for name, x in batch.items()}


def stepper(config: Config, batch: dict[str, "Tensor"], device: "torch.device", half: bool) -> Callable[..., "Tensor"]:
    """A function that runs one training step of a config, on this batch or on one it is given, and returns its loss."""
    import torch

    from fgtrain import objectives
    from fgtrain.networks import optim

    objective = objectives.build(config, samples=65536, classes=CLASSES).to(device).train()
    batch = {name: x for name, x in batch.items() if name in objective.views.tensors}
    if side := objective.views.object_size:
        batch["object"] = torch.randn(len(batch["index"]), 3, side, side).to(device)
    batch["views"] = batch["views"][: config.view_count]
    optimizer = optim.build(objective, config.optim, objective.rates)
    optim.set_rates(optimizer, 1, 100, 0, 0.01)

    def run(batch: dict[str, "Tensor"] = batch) -> "Tensor":
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss, _ = objective(batch, 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(0.5)
        return loss.detach()

    return run


def finder(config: Config, batch: dict[str, "Tensor"], device: "torch.device", half: bool) -> Callable[[], None]:
    """A function that finds the boxes of one batch of images, which a run does once in some epochs, always in fp32."""
    import torch

    from fgtrain import objectives
    from fgtrain.engine.refresh import active_boxes

    encoder = objectives.build(config, samples=65536).encoder.to(device).eval()

    def run() -> None:
        with torch.no_grad():  # in inference mode, operations are not counted
            active_boxes(encoder(batch["plain"]).maps[4], config.views.size, config.own_boxes.threshold)

    return run


def counted(run: Callable[[], object]) -> float:
    """Billions of floating-point operations in the convolutions and matrix products of one call."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry  # FlopCounterMode fails with torch.autograd.grad

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if count := flop_registry.get(func._overloadpacket):
                self.total += count(*args, **(kwargs or {}), out_val=result)
            return result

    with Counter() as counter:
        run()
    return counter.total / 1e9


def timed(run: Callable[[], object], steps: int, device: "torch.device") -> float:
    """Seconds per call."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / steps
