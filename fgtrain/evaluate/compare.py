"""One table of several runs: runs that differ only in their seed form a group, shown as its mean and 95 % interval.

Only evaluations with the same settings on the same shard set (by digest) share a row. When a run has two results of one
evaluation with the same settings, the later one counts.
"""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgdata.errors import InputError, counted

from ..printing import new_table, say
from ..runs.rundir import RunDir
from ..settings.evaluations import Compare
from ..settings.file import flat, to_dict
from .intervals import mean_interval, percent
from .records import Line, is_finite, read_records
from .subject import recorded_set

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
    unchecked: list[str]
    """Sentences about results without a checksum, which earlier versions wrote."""


def compare(paths: Sequence[Path]) -> tuple[list[Group], list[str]]:
    """Run directories -> groups in the order of their first runs, and a sentence about each run that cannot be used.

    A run named twice counts once. InputError when no run is named.
    """
    if not paths:
        raise InputError("Name the runs to compare: fgtrain compare runs/byol runs/cvsa")
    groups: dict[str, Group] = {}
    faults = []
    for path in {os.path.realpath(path): path for path in paths}.values():
        try:
            settings, results = read_run(path)
        except InputError as error:
            faults.append(str(error))
            continue
        seed = settings.pop("seed")
        group = groups.setdefault(json.dumps(settings, sort_keys=True), Group(settings, [], [], set(), {}, []))
        group.runs.append(path)
        group.seeds.append(seed)
        for column, line in results.items():
            group.values.setdefault(column, []).append(line.figure(column.figure))
            group.steps.add(line.values["step"])
        if old := sum(not line.checked for line in {line.number: line for line in results.values()}.values()):
            results_of = f"{counted(old, 'result')} in {path / 'results.jsonl'}"
            group.unchecked.append(f"An earlier version wrote {results_of}, without a checksum to detect damage.")
    return list(groups.values()), faults


def read_run(path: Path) -> tuple[dict[str, Any], dict[Column, Line]]:
    """A run directory -> the settings that change its result, and the results of `latest`.

    InputError when the folder is not a run directory, when one of its files is damaged, or when it has no results yet.
    """
    run = RunDir(path)
    if not run.config_path.is_file():
        raise InputError(f"{path} is not a run directory: it has no config.json. Name folders such as runs/cvsa.")
    results = latest(read_records(path / "results.jsonl"))
    if not results:
        raise InputError(f"{path} has no results yet. Measure it: fgtrain eval knn {shlex.quote(str(path))}")
    settings = {k: v for k, v in flat(to_dict(run.config())).items() if not k.startswith("machine.")}
    settings["data.shards"] = recorded_set(run).get("digest", "unknown")[:12]
    return settings, results


def latest(lines: Sequence[Line]) -> dict[Column, Line]:
    """Lines of a results.jsonl -> column -> the last line that has it; evaluations unknown here are left out.

    InputError naming the first line with a value of another type than `fgtrain eval` writes.
    """
    columns: dict[Column, Line] = {}
    for line in lines:
        kind = line.text("evaluation")
        if kind not in FIGURES:
            continue
        values = {name: line.values.get(name) for name in (*SETTINGS[kind], "size")}
        settings = tuple((name, _setting_of(line, name, value)) for name, value in values.items())
        if not isinstance(line.values.get("step"), int):
            raise line.fault("has no whole number as its step")
        for figure in FIGURES[kind]:
            line.figure(figure)
            columns[Column(kind, settings, line.text("digest"), figure)] = line
    return columns


def _setting_of(line: Line, name: str, value: Any) -> Any:
    """The value of a setting, with a list as a tuple."""
    ok = value is None or isinstance(value, (bool, str) if name in ("protocol", "cache") else bool) or is_finite(value)
    if isinstance(value, list) and all(map(is_finite, value)):
        return tuple(value)
    if not ok:
        raise line.fault(f"has {name} = {str(value)[:60]!r}, which is not a setting of {line.values['evaluation']}")
    return value


def run_compare(flags: Compare) -> None:
    """Prints the table of `compare`, or with `flags.json` its JSON document.

    Runs that cannot be used are left out of it, and then named by an InputError.
    """
    groups, faults = compare(flags.runs)
    if flags.json and groups:
        say(json.dumps([_document(group, groups) for group in groups], indent=2))
    elif groups:
        print_table(groups)
    if faults:
        raise InputError("\n".join(faults))


def print_table(groups: Sequence[Group]) -> None:
    """Prints a column per group and a row per figure, and below it what was compared."""
    names = [_name(group, groups) for group in groups]
    columns = list(dict.fromkeys(column for group in groups for column in group.values))
    order = list(FIGURES).index
    columns.sort(key=lambda column: (column.digest, order(column.evaluation)))  # else in the order measured
    digests = sorted({column.digest for column in columns})
    table = new_table("%, mean over seeds", "evaluation", *names)
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
    say(table, *lines, *(sentence for group in groups for sentence in group.unchecked))


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
