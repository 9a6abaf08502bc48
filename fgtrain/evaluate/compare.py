"""One table of several runs: runs that differ only in their seed form a group, shown as its mean and 95 % interval.

Only evaluations with the same settings on the same shard set (by digest) share a row. When a run has two results of one
evaluation with the same settings, the later one counts.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fgdata.errors import InputError

from ..runs.rundir import RunDir
from ..settings.evaluations import Compare
from ..settings.file import flat, to_dict
from .intervals import mean_interval, percent
from .subject import read_lines

FIGURES = {
    "knn": ("accuracy",),
    "linear": ("accuracy",),
    "finetune": ("accuracy",),
    "retrieval": ("rank1", "rank5", "map"),
    "localization": ("maxboxacc", "maxboxaccv2"),
}
SETTINGS = {
    "knn": ("k", "temperature"),
    "linear": ("protocol", "cache", "fraction", "epochs", "trials"),
    "finetune": ("epochs", "batch_size", "rates", "decays", "trials"),
    "retrieval": (),
    "localization": (),
}
"""Evaluation -> settings that must be equal for two results to be comparable, besides view size and shard set."""


@dataclass(frozen=True)
class Column:
    """One figure of one evaluation with one choice of settings on one shard set: a row of the table."""

    evaluation: str
    settings: tuple[tuple[str, Any], ...]
    digest: str
    figure: str

    @property
    def title(self) -> str:
        given = {name: value for name, value in self.settings if value is not None}
        special = {
            "cache": "cached" if given.get("cache") else "",
            "fraction": f"{given.get('fraction', 1):.0%} of labels",
        }
        parts = [special[name] if name in special else _setting(name, value) for name, value in given.items()]
        return f"{self.evaluation}, {self.figure}: " + ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Group:
    """Runs whose settings are equal except for the seed, and their figures."""

    settings: dict[str, Any]
    runs: list[Path]
    seeds: list[int]
    steps: set[int]
    values: dict[Column, list[float]]


def compare(paths: Sequence[Path]) -> list[Group]:
    """Run directories -> groups, in the order of their first runs; a run named twice counts once.

    InputError when no run is named, when a folder is not a run directory, or when a run has no results yet.
    """
    if not paths:
        raise InputError("Name the runs to compare: fgtrain compare runs/byol runs/cvsa")
    groups: dict[str, Group] = {}
    for path in {path.resolve(): path for path in paths}.values():
        run = RunDir(path)
        if not run.config_path.is_file():
            raise InputError(f"{path} is not a run directory: it has no config.json. Name folders such as runs/cvsa.")
        results = read_lines(path / "results.jsonl")
        if not results:
            raise InputError(f"{path} has no results yet. Measure it: fgtrain eval knn {shlex.quote(str(path))}")
        settings = {k: v for k, v in flat(to_dict(run.config())).items() if not k.startswith("machine.")}
        seed = settings.pop("seed")
        settings["data.shards"] = run.facts.get("shards", {}).get("digest", "unknown")[:12]
        group = groups.setdefault(json.dumps(settings, sort_keys=True), Group(settings, [], [], set(), {}))
        group.runs.append(path)
        group.seeds.append(seed)
        for column, line in latest(results).items():
            group.values.setdefault(column, []).append(line[column.figure])
            group.steps.add(line["step"])
    return list(groups.values())


def latest(results: Sequence[dict[str, Any]]) -> dict[Column, dict[str, Any]]:
    """Lines of a results.jsonl -> column -> the last line that has it."""
    columns: dict[Column, dict[str, Any]] = {}
    for line in results:
        kind = line["evaluation"]
        values = {name: line.get(name) for name in (*SETTINGS.get(kind, ()), "size")}
        settings = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in values.items())
        columns |= {Column(kind, settings, line["digest"], figure): line for figure in FIGURES.get(kind, ())}
    return columns


def run_compare(flags: Compare) -> None:
    """Prints the table of `compare`, or with `flags.json` its JSON document."""
    groups = compare(flags.runs)
    names = [_name(group, groups) for group in groups]
    columns = list(dict.fromkeys(column for group in groups for column in group.values))
    columns.sort(
        key=lambda column: (column.digest, list(FIGURES).index(column.evaluation))
    )  # otherwise in the order measured
    digests = sorted({column.digest for column in columns})
    if flags.json:
        print(json.dumps([_document(group, groups) for group in groups], indent=2))
        return
    table = Table(title="%, mean over seeds", title_justify="left")
    table.add_column("evaluation", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for digest in digests:
        for column in (c for c in columns if c.digest == digest):
            table.add_row(column.title, *(_cell(group, column) for group in groups))
        table.add_section()
    lines = [_legend(name, group, groups) for name, group in zip(names, groups)]
    if len(digests) == 1:
        lines.append(f"All results were measured on one shard set (digest {digests[0][:12]}).")
    else:
        parts = ", then ".join(digest[:12] for digest in digests)
        lines.append(
            f"Measured on {len(digests)} different shard sets, one section of the table each: digests {parts}."
        )
    if duplicated := [name for name, group in zip(names, groups) if len(set(group.seeds)) < len(group.seeds)]:
        lines.append(f"Duplicate seed ({', '.join(duplicated)}): runs of one seed are not independent trials.")
    if any(len(values) > 1 for group in groups for values in group.values.values()):
        lines.append("± half the 95 % interval of the mean over seeds (Student's t).")
    console = Console(highlight=False)
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True)


def different(groups: Sequence[Group]) -> list[str]:
    """Settings that every group has and that differ between groups; a setting of some methods only is not listed."""
    first = groups[0].settings
    shared = [key for key in first if all(key in group.settings for group in groups)]
    return [key for key in shared if any(group.settings[key] != first[key] for group in groups)]


def _name(group: Group, groups: Sequence[Group]) -> str:
    first = group.runs[0]
    namesakes = [other for other in groups if other.runs[0].resolve().name == first.resolve().name]
    return str(first) if len(namesakes) > 1 else first.resolve().name


def _legend(name: str, group: Group, groups: Sequence[Group]) -> str:
    settings = ", ".join(_setting(key, group.settings[key]) for key in different(groups)) or group.settings["method"]
    seeds = f"{len(group.runs)} runs of seeds" if len(group.runs) > 1 else "seed"
    steps = "steps" if len(group.steps) > 1 else "step"
    return f"{name}: {settings} ({seeds} {_join(group.seeds)}, {steps} {_join(sorted(group.steps))})"


def _cell(group: Group, column: Column) -> str:
    values = group.values.get(column, [])
    if not values:
        return ""
    return percent(values) + (f" ({len(values)} of {len(group.runs)})" if len(values) < len(group.runs) else "")


def _document(group: Group, groups: Sequence[Group]) -> dict[str, Any]:
    results = []
    for column, values in group.values.items():
        mean, half = mean_interval(values)
        result = {"evaluation": column.evaluation, "figure": column.figure, **dict(column.settings)}
        results.append(result | {"digest": column.digest, "mean": mean, "interval_half": half, "values": values})
    return {
        "runs": [str(path) for path in group.runs],
        "seeds": group.seeds,
        "steps": sorted(group.steps),
        "settings": {key: group.settings[key] for key in ("method", *different(groups))},
        "results": results,
    }


def _setting(key: str, value: Any) -> str:
    name = key.replace("_", "-")
    if isinstance(value, (list, tuple)):
        value = " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    if key == "size":
        return f"{value} px"
    return (
        str(value)
        if key in ("method", "protocol")
        else f"{name} {value:g}"
        if isinstance(value, float)
        else f"{name} {value}"
    )


def _join(values: Sequence[int]) -> str:
    return ", ".join(f"{value:,}" for value in values)
