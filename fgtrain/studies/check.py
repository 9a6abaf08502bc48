"""Checks every job of a study before the first one starts: settings, networks, shard sets and what they contain."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views.opening import choose_detector

from .. import objectives
from ..engine.capacity import check_memory
from ..engine.needs import check_backgrounds, check_labels
from ..engine.trackers import check_trackers
from ..place import open_shards, pick_device
from .plan import Job, Plan, refuse
from .sets import DataSet
from .traces import images_of, without_weights


def check(plan: Plan, jobs: Iterable[Job], device: str, need_sets: bool) -> None:
    """InputError naming every row that cannot work, with its reason.

    need_sets: whether a shard set that is not built is a fault; without, the rest is checked.
    """
    rows = {folder: row for (row, _, _), folder in plan.cells.items()}
    chosen = pick_device(device)
    faults, seen = [], set()
    for job in jobs:
        try:
            for data in _sets(job) if need_sets else []:
                check_set(data)
            check_weights(job)
            if job.config is not None:
                same = replace(job.config, seed=0)
                if (job.recipe, str(same)) not in seen:
                    seen.add((job.recipe, str(same)))
                    check_training(job, chosen, need_sets)
        except InputError as fault:
            faults.append(f"{rows.get(job.folder, job.name)!r}: {fault}")
    if faults:
        raise refuse(plan.scaled.study, faults)


def check_set(data: DataSet) -> None:
    """InputError, with the command that builds it, if a shard set is not there."""
    if not (data.folder / "manifest.json").is_file():
        build = f" Build it: {data.build}" if data.build else ""
        raise InputError(f"{data.path}, the set {data.title}, is not built.{build} Or name others with --data.shards")


def check_weights(job: Job) -> None:
    """InputError if a job starts from, or measures, a file that is not there. Weights that timm downloads, and those of
    a first stage, are not looked for."""
    name = job.weights or (job.config.init if job.config is not None and job.needs is None else None)
    elsewhere = name in (None, "random", "imagenet", "imagenet-v2") or str(name).startswith(("timm:", "hf-hub:"))
    if not elsewhere and not Path(str(name)).exists():
        raise InputError(f"the weights {name} that it starts from do not exist. Name others with --init FILE")


def check_training(job: Job, device, need_sets: bool) -> None:
    """InputError for settings that the method, the network or the shard set does not allow."""
    config = job.config
    assert config is not None
    present = job.data is not None and (job.data.folder / "manifest.json").is_file()
    samples = images_of(job.data)[0] or config.data.batch_size
    shards = open_shards(job.data.folder) if present and job.data is not None else None
    check_memory(without_weights(config), samples, device, 1, len(shards.classes) if shards else 2)
    if not need_sets or shards is None:
        return
    check_labels(config, shards)
    check_backgrounds(config)
    check_trackers(config)
    for lender in config.data.backgrounds:
        ShardSet.open(lender)
    if config.data.batch_size > samples:
        raise InputError(
            f"--data.batch-size is {config.data.batch_size:,}, but {shards.path} has {samples:,} training images; "
            f"allowed: at most {samples:,}."
        )
    import torch

    with torch.device("meta"):
        views = objectives.build(without_weights(config), samples, len(shards.classes)).views
    if views.needs_boxes:
        choose_detector(shards, config.data.detector)


def _sets(job: Job) -> list[DataSet]:
    """The sets that a job reads."""
    return list(dict.fromkeys([*([job.data] if job.data else []), *(measure.data for measure in job.measures)]))
