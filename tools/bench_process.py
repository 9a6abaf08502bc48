"""tools/bench.py process: training steps with batches from threads of their process, or from a process of its own.

torch is imported by the functions that need it, because the workers of tools/bench.py build load this file.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from bench_against import in_turn
from bench_report import report, spread
from bench_step import preloaded, stepper
from bench_views import endless_batches, shard_sets

from fgdata.views import load
from fgdata.views.reading import WINDOW
from fgtrain.engine.memory import keep_freed
from fgtrain.settings.common import Data, Model
from fgtrain.settings.recipes import RECIPES

WIDTHS = {"ResNet-18": 64, "ResNet-18, an eighth of the width": 8}


def process(
    data: Path = Path("../shared/data"),
    size: int = 96,
    batch: int = 64,
    threads: int = 2,
    backend: Literal["threads", "dali"] = "threads",
    rounds: int = 7,
    seconds: float = 4.0,
    json: Path | None = None,
) -> None:
    """Samples/s of MoCo's training step on a CPU: on one batch in memory, and on batches of two views from 500 x 375
    JPEGs (cub50-fullsize), made in this process and in a process of its own (`--data.process`).

    Every round runs all in turn, each other one in reverse; a ratio compares two figures of one round. A loader first
    yields the batches that it made while it waited. With the narrow network most of the time is spent on views.

    Args:
        data: folder that holds cub50-fullsize.
        size: side of a view in pixels.
        batch: samples per step.
        threads: threads of torch, and of each loader.
        backend: threads, or dali on the CPU.
        rounds: number of measurements; the table shows their median, minimum and maximum.
        seconds: shortest duration of a measurement; it ends with a step.
        json: file to write the figures to.
    """
    import torch

    torch.set_num_threads(threads)
    keep_freed()  # as fgtrain does
    cpu, recipe, figures = torch.device("cpu"), RECIPES["moco"](), []
    recipe = replace(recipe, views=replace(recipe.views, size=size), data=Data(batch_size=batch))
    with TemporaryDirectory() as folder, ExitStack() as stack:
        own, _ = shard_sets(data / "cub50-fullsize", Path(folder), None, 4 * batch)
        options = {"views": recipe.views, "batch_size": batch, "threads": threads, "backend": backend}
        fixed = preloaded(batch, size, cpu)
        in_memory = {"views": fixed["views"][: recipe.view_count]}
        sources: dict[str, Callable[[], Any]] = {"one batch in memory": lambda: in_memory}
        for name, apart in (("this process", False), ("a process of its own", True)):
            loader = stack.enter_context(load(own, process=apart, **options))
            sources[name] = endless_batches(loader).__next__
        for network, width in WIDTHS.items():
            step = stepper(replace(recipe, model=Model(width=width)), fixed, cpu, half=False)
            step()
            rates: dict[str, list[float]] = {name: [] for name in sources}
            for turn in range(rounds):
                for name in in_turn(list(sources), turn):
                    rates[name].append(rate(step, sources[name], batch, seconds))
            figures += [row(network, name, rates, size, batch, threads, backend) for name in rates]
    report("process", figures, json, ("torch",))


def rate(step: Callable[..., object], batches: Callable[[], Any], samples: int, seconds: float) -> float:
    """Samples/s of steps, after the first ones, whose batches were ready."""
    for _ in range(WINDOW + 1):
        step(batches())
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step(batches())
        steps += 1
    return steps * samples / (time.perf_counter() - start)


def row(network: str, name: str, rates: dict[str, list[float]], *setting: Any) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(rates[name], rates["this process"])] if name != "this process" else []
    return {
        **{"network": network, "batches from": name},
        **spread("per_s", rates[name]),
        **spread("to_this_process", ratios),
        **dict(zip(("size", "batch", "threads", "backend"), setting)),
        "n": len(rates[name]),
    }
