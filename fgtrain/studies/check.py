"""Checks every job of a study before the first one starts: settings, networks, shard sets and what they contain."""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fgdata.errors import InputError, abbreviate
from fgdata.shards.reader import ShardSet, meta, read_all

from ..engine.capacity import check_memory
from ..engine.needs import check_backgrounds, check_labels, check_reads, choose_images
from ..engine.trackers import check_trackers
from ..evaluate.knn import check_k
from ..place import open_shards, pick_device, pick_precision
from ..settings.common import NEIGHBOURS, Config
from .plan import Job, Plan, refuse
from .sets import DataSet
from .traces import images_of, without_weights


def check(plan: Plan, jobs: Iterable[Job], device: str, need_sets: bool) -> None:
    """InputError naming every row that cannot run, with its reason.

    need_sets: whether a shard set that is not built, or a GPU that this machine does not have, is a fault; without, as
    in a dry run or where only tables are written, the rest is checked.
    """
    rows = {folder: row for (row, _, _), folder in plan.cells.items()}
    chosen = find_device(device, need_sets)
    faults: dict[str, list[str]] = {}  # rows by fault
    seen, check_once = set(), cache(check_measure)  # of rows with one fault, each is named: `cache` keeps no exceptions
    for job in jobs:
        try:
            if need_sets:
                check_sets(job.sets)
                for measure in job.measures:
                    neighbours = measure.settings.get("k", NEIGHBOURS) if measure.evaluation == "knn" else 1
                    check_once(measure.evaluation, measure.data, neighbours, measure.settings.get("split", "test"))
            check_weights(job)
            if job.config is not None:
                same = replace(job.config, seed=0)
                if (job.recipe, str(same)) not in seen:
                    seen.add((job.recipe, str(same)))
                    check_training(job, chosen, need_sets)
        except InputError as fault:
            named = faults.setdefault(str(fault), [])
            if (name := repr(rows.get(job.folder, job.name))) not in named:
                named.append(name)
    if faults:
        raise refuse(plan.scaled.study, (f"{abbreviate(names)}: {fault}" for fault, names in faults.items()))


def find_device(name: str, here: bool) -> torch.device | None:
    """The device by its name; None for a GPU that this machine does not have, unless it must be `here`."""
    try:
        return pick_device(name)
    except InputError:
        if here or not re.fullmatch(r"cuda(:\d+)?", name):
            raise
        return None


def check_sets(sets: Iterable[DataSet]) -> None:
    """InputError that names every shard set that is not there, with the commands that build them."""
    absent = [data for data in sets if not data.is_built]
    if absent:
        named = ", ".join(f"{data.path} ({data.title})" for data in absent)
        build = "; ".join(filter(None, (data.build for data in absent)))
        raise InputError(
            f"not built: {named}. Build {'it' if len(absent) == 1 else 'them'}, or name others with --data.shards"
            + (f": {build}" if build else "")
        )


def check_weights(job: Job) -> None:
    """InputError if a job starts from, or measures, a file that is not there. Weights that timm downloads, and those of
    a first stage, are not looked for."""
    name = job.weights or (job.config.init if job.config is not None and job.needs is None else None)
    elsewhere = name in (None, "random", "imagenet", "imagenet-v2") or str(name).startswith(("timm:", "hf-hub:"))
    if not elsewhere and not Path(str(name)).exists():
        raise InputError(f"the weights {name} that it starts from do not exist. Name others with --init FILE")


def check_measure(evaluation: str, data: DataSet, neighbours: int, scored: str) -> None:
    """InputError if a shard set lacks what an evaluation reads: its splits, classes, and for localization boxes.

    neighbours: knn's k; 1 for other evaluations. scored: the split whose images are scored.
    """
    shards = open_shards(data.folder)
    splits = (scored,) if evaluation == "retrieval" else ("train", scored)
    if absent := [split for split in splits if not shards.splits.get(split)]:
        raise InputError(
            f"{shards.path} has no {absent[0]} split, which {evaluation} reads. Name another set with --data.shards"
        )
    if len(shards.classes) < 2:
        raise InputError(
            f"{shards.path} has fewer than two classes, which {evaluation} needs. Name a labelled set with "
            "--data.shards"
        )
    if evaluation == "knn":
        check_k(neighbours, shards.splits["train"], scored == "train", "settings knn.k", ", with --tune")
    if evaluation == "localization":
        boxes = (meta(sample)["boxes"] for sample in read_all(shards.split("test"), without="jpg"))
        if not any(boxes):
            raise InputError(
                f"{shards.path} has no ground-truth boxes in its test split, which localization needs. Name another "
                "set with --data.shards"
            )


def check_training(job: Job, device: torch.device | None, need_sets: bool) -> None:
    """InputError for settings that the method, the network or the shard set does not allow."""
    config = job.config
    assert config is not None
    if device is not None:
        pick_precision(config.precision, device)
    samples = images_of(job.data)[0] or config.data.batch_size
    shards = open_shards(job.data.folder) if job.data is not None and job.data.is_built else None
    objective = check_memory(without_weights(config), samples, device, 1, len(shards.classes) if shards else 2)
    if need_sets and shards is not None:
        check_needs(config, shards, objective)


def check_needs(config: Config, whole: ShardSet, objective: Any) -> None:
    """InputError if a shard set lacks what a run reads: images, labels, boxes, maps; or the sets of its backgrounds.

    objective: `check_memory`'s; None for one that only the run can check.
    """
    shards = choose_images(config, whole)
    check_labels(config, shards)
    check_backgrounds(config)
    check_trackers(config)
    if objective is not None:
        check_reads(config, shards, objective, 1)
