"""Groups of runs that differ only in their seed, and the figures that can be compared.

A column is one figure of one evaluation with one choice of settings on one shard set (by digest); only results in one
column are compared. When a run has two results in a column, the later one counts.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgdata.errors import InputError

from ..runs.checkpoint import checked_config
from ..runs.provenance import recorded_set
from ..runs.rundir import RunDir, check_is_run
from ..settings.file import relevant
from .records import Line, is_finite, read_records

FIGURES = {
    "knn": {"accuracy": "kNN"},
    "linear": {"accuracy": "linear"},
    "finetune": {"accuracy": "fine-tuned"},
    "retrieval": {"rank1": "rank-1", "rank5": "rank-5", "map": "mAP"},
    "localization": {"maxboxacc": "MaxBoxAcc", "maxboxaccv2": "MaxBoxAccV2"},
}
"""Evaluation -> its figures and their titles, in the order of the columns."""
SETTINGS = {
    "knn": ("k", "temperature", "split"),
    "linear": ("protocol", "cache", "fraction", "labels", "epochs", "trials", "batch_size", "rate"),
    "finetune": ("fraction", "labels", "epochs", "batch_size", "rates", "decays", "trials"),
    "retrieval": (),
    "localization": (),
}
"""Evaluation -> settings that must be equal for two results to be comparable, besides view size and shard set."""
ABSENT = {"fraction": 1.0}
"""Setting -> its value in a record that was written before the setting existed."""
UNTRAINED = {
    **{("knn", "accuracy"): "untrained", ("retrieval", "map"): "untrained", ("retrieval", "rank1"): "untrained_rank1"},
    **{("retrieval", "rank5"): "untrained_rank5", ("localization", "maxboxacc"): "untrained"},
    ("localization", "maxboxaccv2"): "untrained_v2",
}
"""Figure -> the key of the same figure of the network at its initial weights, which a record may have."""
CHANCE = {
    **{(kind, "accuracy"): "chance" for kind in ("knn", "linear", "finetune")},
    ("retrieval", "map"): "map_chance",
}
"""Figure -> the key of what a guess scores."""


@dataclass(frozen=True)
class Column:
    """One figure of one evaluation with one choice of settings on one shard set."""

    evaluation: str
    settings: tuple[tuple[str, Any], ...]
    digest: str
    figure: str

    @property
    def title(self) -> str:
        """The figure as a paper calls it."""
        return FIGURES[self.evaluation][self.figure]


@dataclass(frozen=True)
class Run:
    """A run, the settings that change its result, and its results."""

    path: Path
    settings: dict[str, Any]
    """By the names of flags, without the seed; `data.shards` is the set's digest."""
    seed: int
    results: dict[Column, Line]
    recipe: str = ""
    """The recipe that it was started from, else its method."""

    def has(self, step: int) -> bool:
        """Whether any of its results is of this step."""
        return any(line.values["step"] == step for line in self.results.values())

    @property
    def unchecked(self) -> int:
        """Results without a checksum, which earlier versions wrote."""
        return sum(not line.checked for line in {line.number: line for line in self.results.values()}.values())


@dataclass(frozen=True)
class Group:
    """Runs whose settings are equal except for the seed."""

    settings: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    recipe: str = ""
    """That of the first run; "": its method names the group."""

    @property
    def kind(self) -> str:
        """The recipe, else the method."""
        return self.recipe or self.settings["method"]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def values(self, column: Column) -> list[float]:
        """The figure of every run that has it, in the order of the runs; a fraction of one."""
        return [run.results[column].figure(column.figure) for run in self.runs if column in run.results]


def compare(paths: Sequence[Path]) -> tuple[list[Group], list[str]]:
    """Run directories -> groups in the order of their first runs, and a sentence about each run that cannot be read.

    A run named twice counts once. InputError when no run is named.
    """
    if not paths:
        raise InputError("Name the runs to compare: fgtrain compare runs/byol runs/cvsa")
    groups: dict[str, Group] = {}
    faults = []
    for path in {os.path.realpath(path): path for path in paths}.values():
        try:
            run = read_run(path)
        except (InputError, OSError) as error:
            faults.append(str(error))
            continue
        new = Group(run.settings, recipe=run.recipe)
        groups.setdefault(json.dumps(run.settings, sort_keys=True), new).runs.append(run)
    return list(groups.values()), faults


def read_run(path: Path) -> Run:
    """InputError when the folder is not a run directory, or one of its files is damaged."""
    check_is_run(path)
    run = RunDir(path)
    results = latest(read_records(path / "results.jsonl"))
    settings = relevant(checked_config(run))
    digest = recorded_set(run).get("digest", "unknown")[:12]
    settings = {"method": settings["method"], "data.shards": digest} | settings
    seed = settings.pop("seed")
    return Run(path, settings, seed, results, run.recipe(settings["method"]))


def latest(lines: Sequence[Line]) -> dict[Column, Line]:
    """Lines of a results.jsonl -> column -> the last line that has it; evaluations unknown here are left out.

    InputError naming the first line with a value of another type than `fgtrain eval` writes.
    """
    columns: dict[Column, Line] = {}
    for line in lines:
        kind = line.text("evaluation")
        if kind not in FIGURES:
            continue
        values = {name: line.values.get(name, ABSENT.get(name)) for name in (*SETTINGS[kind], "size")}
        settings = tuple((name, _setting_of(line, name, value)) for name, value in values.items())
        if not isinstance(line.values.get("step"), int):
            raise line.fault("has no whole number as its step")
        for figure in FIGURES[kind]:
            line.figure(figure)
            columns[Column(kind, settings, line.text("digest"), figure)] = line
    return columns


def columns_of(groups: Sequence[Group]) -> list[Column]:
    """Every column that a run has, by shard set, then evaluation and figure, else in the order measured."""
    columns = list(dict.fromkeys(column for group in groups for run in group.runs for column in run.results))
    order = [(kind, figure) for kind, figures in FIGURES.items() for figure in figures]
    return sorted(columns, key=lambda column: (column.digest, order.index((column.evaluation, column.figure))))


def untrained(groups: Sequence[Group]) -> dict[str, dict[Column, list[float]]]:
    """Network -> column -> its figures at initial weights: one per seed, or, with --init, each value once. A network is
    what --model, --init and the feature that the method evaluates say; its name is what differs from the others."""
    networks: dict[str, list[Run]] = {}
    for run in (run for group in groups for run in group.runs):
        networks.setdefault(json.dumps(_network(run.settings), sort_keys=True), []).append(run)
    owns = [_network(runs[0].settings) for runs in networks.values()]
    found: dict[str, dict[Column, list[float]]] = {}
    for own, runs in zip(owns, networks.values()):
        changed = [key for key in own if any(other.get(key, ...) != own[key] for other in owns)]
        name = ", ".join(describe(key, own[key]) for key in changed)
        by_seed: dict[Column, dict[float, float]] = {}
        for run in runs:
            for column, line in run.results.items():
                key = UNTRAINED.get((column.evaluation, column.figure), "")
                if is_finite(line.values.get(key)):
                    value = line.figure(key)  # two methods from one seed start from one network, which counts once
                    by_seed.setdefault(column, {}).setdefault(value if own.get("init") else run.seed, value)
        if by_seed:
            found[name] = {column: list(values.values()) for column, values in by_seed.items()}
    return found


def _network(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a network at its initial weights, and the feature of it that is evaluated."""
    feature = ("attend.pool", "attend.filters") if settings.get("attend.pool") == "attend" else ()
    chosen = ("init", "papn.parts", *feature)
    return {key: value for key, value in settings.items() if key.startswith("model.") or key in chosen}


def chance(groups: Sequence[Group]) -> dict[Column, float]:
    """Column -> what a guess scores; columns without such a figure are absent."""
    found = {}
    for column, line in (item for group in groups for run in group.runs for item in run.results.items()):
        key = CHANCE.get((column.evaluation, column.figure), "")
        if is_finite(line.values.get(key)):
            found[column] = line.figure(key)
    return found


def different(groups: Sequence[Group]) -> list[str]:
    """Settings that every group has and that differ between groups; a setting of some methods only is not listed."""
    first = groups[0].settings
    shared = [key for key in first if all(key in group.settings for group in groups)]
    return [key for key in shared if any(group.settings[key] != first[key] for group in groups)]


def names_of(groups: Sequence[Group]) -> list[str]:
    """A name per group: its recipe, then what differs from the other groups of that recipe."""
    names = []
    for group in groups:
        namesakes = [other for other in groups if other.kind == group.kind]
        changed = [describe(key, group.settings[key]) for key in different(namesakes)]
        names.append(", ".join([group.kind, *changed]))
    return names


def describe(key: str, value: Any) -> str:
    """A setting in words: 64 px, k 20, views.crop saliency-swap, no extend."""
    name = key.replace("_", "-")
    if value is None or value is False or value in ("", [], ()):
        return f"no {name}"
    if value is True:
        return name
    if isinstance(value, (list, tuple)):
        value = " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    if key == "size":
        return f"{value} px"
    if key == "protocol":
        return str(value)
    if key == "data.shards":
        return f"shard set {value}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _setting_of(line: Line, name: str, value: Any) -> Any:
    """The value of a setting, with a list as a tuple."""
    ok = (
        value is None
        or isinstance(value, (bool, str) if name in ("protocol", "cache", "split", "labels") else bool)
        or is_finite(value)
    )
    if isinstance(value, list) and all(map(is_finite, value)):
        return tuple(value)
    if not ok:
        raise line.fault(f"has {name} = {str(value)[:60]!r}, which is not a setting of {line.values['evaluation']}")
    return value
