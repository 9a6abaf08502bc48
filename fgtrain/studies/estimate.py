"""How long the jobs of a study take: by the measured speed of its runs, else by counting operations.

One forward pass of one view of one image counts 1, its backward pass 2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fgdata.cores import available_cores
from fgdata.errors import counted

from ..runs.rundir import RunDir
from ..settings.common import Model
from ..settings.evaluations import Finetune
from .plan import Job, Measure
from .scaling import flags_of
from .traces import images_of, last_step, median_speed

PASSES = {
    **{"moco": 4, "byol": 8, "simsiam": 6, "simclr": 6, "cvsa": 8, "supervised": 3, "sam": 3, "rotation": 12},
    **{"relative-location": 9 * (64 / 255) ** 2 * 3, "looc": 5, "lewel": 1.29 * 8, "foreground": 6},
    **{"insloc": 4, "papn": 16},
}
"""Method -> passes of a view per training image, without heads, save LEWEL's. `passes` has those with settings."""
PER_CORE, PER_GPU = 1.5e11, 4e13
"""Operations per second where nothing is measured. A core: BYOL, ResNet-18 at 96 px, on an idle AMD EPYC; one that
others share has done a third of it (docs/step.json). A GPU: an assumption."""


@dataclass(frozen=True)
class Estimate:
    """Hours of some jobs one after another, and where they come from."""

    hours: float
    """Without what reads an unknown set."""
    basis: str
    unknown: tuple[str, ...] = ()
    """Folders of sets that are not built, and whose numbers of images are not known."""

    def __str__(self) -> str:
        known = f"{show_hours(self.hours)} ({self.basis})"
        if not self.unknown:
            return known
        verb = "is" if len(self.unknown) == 1 else "are"
        until = f"unknown until {', '.join(self.unknown)} {verb} built"
        return f"{known}, and more, {until}" if self.hours else until


def show_hours(hours: float) -> str:
    """0.5 -> "30 min"; 12.34 -> "12.3 h"; 512.3 -> "512 h"."""
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def estimate(jobs: Iterable[tuple[Job, list[Measure]]], every: Iterable[Job], device: str) -> Estimate:
    """Jobs with the evaluations they lack, and all jobs of the study, of which those run on a device of the same kind
    give the speed.

    device: cpu, cuda, cuda:N, mps or auto; it need not be one of this machine.
    """
    every = list(every)
    timed = [(job, speed) for job in every if job.config and (speed := median_speed(job.folder))]
    on_gpu = [RunDir(job.folder).facts.get("device") != "cpu" for job, _ in timed]
    timed = [each for each, gpu in zip(timed, on_gpu) if gpu == is_gpu(device)]
    rates = [training(job) * speed / _images(job) for job, speed in timed if _images(job)]
    rate = sum(rates) / len(rates) if rates else _assumed(device)
    own = {job.folder: speed for job, speed in timed}
    hours, unknown = 0.0, {}
    for job, measures in jobs:
        read = [] if job.trained else [job.data]
        read += [measure.data for measure in measures]
        unknown |= {data.path: None for data in read if data and not any(images_of(data))}
        if not job.trained:
            seconds = _images(job) / own[job.folder] if job.folder in own else training(job) / rate
            hours += seconds * (1 - _done(job)) / 3600
        hours += sum(evaluation(job, measure) for measure in measures) / rate / 3600
    if timed:
        basis = f"from the measured speed of {counted(len(timed), 'run')} of this study"
        return Estimate(hours, basis, tuple(unknown))
    where = "a GPU, an assumption" if is_gpu(device) else "all cores"
    basis = f"from counted operations, at {rate / 1e9:,.0f} GFLOP/s of {where}; not measured yet"
    return Estimate(hours, basis, tuple(unknown))


def training(job: Job) -> float:
    """Operations of a job's training, without heads and decoders."""
    assert job.config is not None
    return passes(job.config) * forward(job.config.model, job.config.views.size) * _images(job)


def passes(config: Any) -> float:
    """Passes of a view per training image; 8 for a method of a plug-in."""
    method, side = config.method, config.views.size
    if method == "moco":
        return 8 if config.moco.symmetric else 4
    if method == "lcr":
        return 8 if config.base == "byol" else 4
    if method == "synth-pair":  # the plain image and two decoded ones, each with its gradient, and a small decoder
        return (4 if config.base == "moco" else 6) + 3 * 3 + 1
    if method == "dino":
        large, local = config.views.views, config.views.local
        return 3 * (large + local.count * (local.size / side) ** 2) + large
    if method == "box-distill":
        teacher = 1.75 * side if config.distill.size == "auto" else config.distill.size
        return 3 + (teacher / side) ** 2
    return PASSES.get(method, 8)


def evaluation(job: Job, measure: Measure) -> float:
    """Operations of one evaluation, without its classifier."""
    flags: Any = flags_of(measure.evaluation, measure.settings, measure.evaluation)
    one = forward(job.config.model if job.config is not None else job.network, flags.size or measure.size)
    train, test = images_of(measure.data)
    if measure.evaluation == "finetune":
        assert isinstance(flags, Finetune)
        pairs = len(flags.rates) * len(flags.decays)
        fits = (0.9 * pairs if pairs > 1 else 0) + flags.trials
        return one * (3 * train * flags.epochs * fits + test * flags.trials)
    if measure.evaluation == "linear" and not flags.cache:
        return one * (train * (flags.epochs or {"cvsa": 50}.get(flags.protocol, 100)) + test)
    return one * ((0 if measure.evaluation == "retrieval" else train) + test)


def _images(job: Job) -> int:
    assert job.config is not None
    train = images_of(job.data)[0]
    batch = job.config.data.batch_size
    return (train // batch * batch or train) * job.config.epochs


def _done(job: Job) -> float:
    """The share of a job's training that its log has."""
    total = _images(job) / job.config.data.batch_size if job.config else 0
    return min(1.0, last_step(job.folder) / total) if total else 0.0


@cache
def forward(model: Model, size: int) -> float:
    """Operations of one forward pass of one image: two per multiplication and addition."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ..networks import architecture

    with torch.device("meta"):
        network: Any = architecture.build(model).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network.forward_intermediates(torch.empty(1, 3, size, size), indices=2, output_fmt="NCHW")
    return float(counter.get_total_flops())


def is_gpu(device: str) -> bool:
    """Whether a device by its name, which may be auto, is a GPU."""
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _assumed(device: str) -> float:
    return PER_GPU if is_gpu(device) else PER_CORE * available_cores()
