"""The figures of a study's cells, read from the results of its runs, and their statistics over seeds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluate import compare
from ..evaluate.intervals import mean_interval
from ..evaluate.labels import recorded
from ..evaluate.records import Line as Record
from ..evaluate.records import read_records
from ..evaluate.subject import Given
from ..runs.rundir import RunDir
from .declaration import Column, Study
from .plan import Job, Measure, Plan, is_finished
from .scaling import flags_of
from .traces import classes_of, images_of, manifest, median_speed, without_weights


@dataclass(frozen=True)
class Cell:
    """One row in one column."""

    values: Mapping[int, float]
    """Seed -> figure: a fraction of one, or hours or millions of parameters."""
    paper: float | None = None
    """The printed figure, in the unit of the table."""
    difference: tuple[float, float | None] | None = None
    """Mean over the seeds of both rows of this figure minus the base row's, and half its 95 % interval."""
    printed: float | None = None
    """The same difference of the printed figures."""
    fixed: bool = False
    """Whether the value does not depend on the seed."""

    @property
    def shows(self) -> bool | None:
        """Whether the interval of the difference excludes zero; None without an interval."""
        mean, half = self.difference or (0.0, None)
        return None if half is None else abs(mean) > half

    @property
    def mean(self) -> tuple[float, float | None] | None:
        """Mean over seeds and half its 95 % interval (Student's t); no interval for one seed or a fixed value."""
        if not self.values:
            return None
        mean, half = mean_interval(list(self.values.values()))
        return mean, None if self.fixed else half


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    name: str
    cells: tuple[Cell, ...]
    base: str = ""
    missing: str = ""


def usual_base(lines: Sequence[Line]) -> str:
    """The row that most of these rows are compared with; at least one must have a base."""
    return Counter(line.base for line in lines if line.base).most_common(1)[0][0]


Values = Mapping[tuple[str, str], Mapping[int, float]]
"""(row, column) -> seed -> figure."""


def lines(study: Study, values: Values) -> list[Line]:
    """The figures of a study -> its table."""
    found = []
    for row in study.rows:
        base = study.base_of(row)
        fixed, both = study.is_fixed(row), study.is_fixed(row) and bool(base) and study.is_fixed(study.row(base))
        cells = []
        for number, column in enumerate(study.columns):
            own, other = (values.get((name, column.name), {}) for name in (row.name, base))
            paper, against = (printed(study.row(name).paper, number) if name else None for name in (row.name, base))
            gap = None if paper is None or against is None else paper - against
            difference = paired(own, other)
            if difference and both:  # no seed changes either of them
                difference = difference[0], None
            cells.append(Cell(own, paper, difference, gap, fixed))
        found.append(Line(row.name, tuple(cells), base, row.missing))
    return found


def printed(paper: tuple, number: int) -> float | None:
    """The printed figure of a column; None where there is none."""
    return float(paper[number]) if paper and paper[number] != "" else None


def paired(own: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, float | None] | None:
    """Mean and half the 95 % interval of the differences of the seeds that both have; None without one."""
    both = [own[seed] - other[seed] for seed in own if seed in other]
    return mean_interval(both) if both else None


class Results:
    """Reads each run's results once."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._lines: dict[Path, dict[compare.Column, Any]] = {}
        self._costs: dict[Path, dict[str, float]] = {}

    def missing(self, job: Job) -> list[Measure]:
        """The evaluations of a job without a result of its last step."""
        columns = self.plan.scaled.study.columns
        lacking = []
        for measure in job.measures:
            needed = [
                c
                for c in columns
                if (c.evaluation, c.settings) == (measure.evaluation, measure.settings)
                and self.plan.scaled.study.sets[c.set] == measure.data
            ]
            if any(self.figure(job, column) is None for column in needed):
                lacking.append(measure)
        return lacking

    def figure(self, job: Job, column: Column) -> float | None:
        """The figure of a cell; None if it is not measured yet, or the run has not finished."""
        if column.evaluation == "cost":
            return self._cost(job).get(column.figure)
        line = self.line(job, column)
        return None if line is None else line.figure(column.figure)

    def line(self, job: Job, column: Column) -> Record | None:
        """The record that a cell is from; None for a cost, or while it is not measured."""
        if column.evaluation == "cost" or not job.trained:
            return None
        data = self.plan.scaled.study.sets[column.set]
        if not data.is_built:
            return None
        if job.folder not in self._lines:
            self._lines[job.folder] = compare.latest(read_records(job.folder / "results.jsonl"))
        found = self._lines[job.folder]
        line = found.get(identify(column, self.plan.scaled.size, manifest(data.folder)["digest"]))
        return line if line is not None and self._is_of(line.values, job, column) else None

    def _is_of(self, values: dict[str, Any], job: Job, column: Column) -> bool:
        """Whether a record is of the last step of this run, or of these weights, and of this column's seed."""
        seed = getattr(flags_of(column.evaluation, column.settings, column.name), "seed", None)
        if "seed" in values and seed is not None and values["seed"] != seed:
            return False
        if job.config is None:
            return Given(job.weights, job.network).recorded.items() <= values.items()
        return RunDir(job.folder).facts.get("step") in (None, values["step"])

    def _cost(self, job: Job) -> dict[str, float]:
        if job.folder not in self._costs:
            self._costs[job.folder] = measure_cost(job) if is_finished(job.folder) else {}
        return self._costs[job.folder]


def identify(column: Column, size: int, digest: str) -> compare.Column:
    """The column of `fgtrain compare` that this column is: its evaluation's settings, the view size, the set."""
    flags = flags_of(column.evaluation, column.settings, column.name)
    values = {name: getattr(flags, name, None) for name in compare.SETTINGS[column.evaluation]}
    if column.evaluation == "knn":
        values["split"] = None if flags.split == "test" else flags.split  # as the records of earlier versions
    if (labels := values.get("labels")) is not None:
        values["labels"] = recorded(labels)
    if "fraction" in values:
        values["fraction"] = column.fraction
    if column.evaluation == "linear":
        from ..evaluate import linear

        unchanged = {"batch_size": None, "rate": None}
        values |= {"epochs": linear.protocol_of(flags).epochs} | unchanged | linear.changes(flags)
    return compare.Column(column.evaluation, (*values.items(), ("size", flags.size or size)), digest, column.figure)


def measure_cost(job: Job) -> dict[str, float]:
    """Hours of a finished run, and its trained parameters in millions."""
    import torch

    from .. import objectives

    assert job.config is not None
    spent = hours(job)
    found = {} if spent is None else {"hours": spent}
    with torch.device("meta"):
        objective = objectives.build(without_weights(job.config), images_of(job.data)[0] or 2, classes_of(job.data))
    found["parameters"] = sum(p.numel() for p in objective.parameters() if p.requires_grad) / 1e6
    return found


def hours(job: Job) -> float | None:
    """Hours of a finished training by the median of its speed; None without one."""
    speed = median_speed(job.folder)
    if speed is None or job.config is None:
        return None
    return RunDir(job.folder).facts["step"] * job.config.data.batch_size / speed / 3600
