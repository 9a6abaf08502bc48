"""A study with the flags of the command line: fewer seeds, rows and sets, other settings, and a remark on each."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from fgdata.errors import InputError

from ..settings.common import need
from ..settings.file import build
from ..settings.studying import Study as Flags
from . import names
from .declaration import Column, Row, Study
from .names import KINDS
from .sets import DataSet


@dataclass(frozen=True)
class Scaled:
    """A study to run: the declaration after the flags, and what the flags changed."""

    study: Study
    overrides: dict[str, Any]
    """Settings of every run that has them, by the names of flags; at least one row has each."""
    init: str | None
    """Weights in place of every row's start."""
    changed: tuple[str, ...]
    """One phrase per changed setting, for the lines above the table."""
    scope: tuple[str, ...]
    """One phrase each on rows, seeds and columns, if not all or others are run."""
    idle: tuple[str, ...]
    """Settings of the command line that no row and no column has."""
    declared: tuple[str, ...]
    """The names of all declared rows, also of those that are not run."""

    @property
    def size(self) -> int:
        """Side in pixels at which every row is evaluated, whatever the size of its own views: that of --views.size,
        else of the study's settings, else 224."""
        return self.overrides.get("views.size", self.study.settings.get("views.size", 224))


def scale(study: Study, flags: Flags) -> Scaled:
    """The declared study and the flags -> the study to run. InputError for a row, set or setting it does not have."""
    scope = []
    seeds = flags.seeds or study.seeds
    if seeds != study.seeds:
        scope.append(f"seeds {' '.join(map(str, seeds))} instead of {' '.join(map(str, study.seeds))}")
    kept, sets = _sets(study, flags)
    other = [name for name in kept if sets[name] != study.sets[name]]
    replaced = [f"{study.sets[name].title}: {sets[name].path} instead of {study.sets[name].path}" for name in other]
    if dropped := [c.name for c in study.columns if c.set not in kept]:
        scope.append(f"without the columns {', '.join(dropped)}")
    rows, declared = _rows(study, flags.rows), tuple(row.name for row in study.rows)
    if len(rows) < len(study.rows):
        scope.append(f"{len(rows)} of {len(study.rows)} rows")
    positions = [i for i, column in enumerate(study.columns) if column.set in kept]
    columns = [study.columns[i] for i in positions]
    names.check_declared(study)
    overrides, measured = _overrides(flags)
    given = overrides | {name: value for kind in measured.values() for name, value in kind.items()}
    used = names.of_rows(study, rows, flags.init is not None)
    evaluated = {column.evaluation for column in columns}
    idle = [name for name in overrides if name not in used]
    idle += [name for kind, values in measured.items() if kind not in evaluated for name in values]
    changed = [f"{name} {_shown(value)}" for name, value in given.items() if name not in idle]
    changed += [f"init {flags.init}"] * (flags.init is not None)
    columns = [_measured(column, measured.get(column.evaluation, {}), study, sets) for column in columns]
    study = replace(
        study,
        seeds=seeds,
        sets=sets,
        columns=tuple(columns),
        rows=tuple(replace(row, paper=tuple(row.paper[i] for i in positions) if row.paper else ()) for row in rows),
    )
    for column in study.columns:
        fractions = getattr(flags_of(column.evaluation, column.settings, f"column {column.name!r}"), "fractions", None)
        if fractions is not None and column.fraction not in fractions:
            raise InputError(
                f"column {column.name!r} shows the fraction {column.fraction:g}, which is not measured; allowed: one "
                f"of its fractions, {', '.join(f'{fraction:g}' for fraction in fractions)}. Add it to them."
            )
    overrides = {name: value for name, value in overrides.items() if name not in idle}
    return Scaled(study, overrides, flags.init, (*changed, *replaced), tuple(scope), tuple(idle), declared)


def _measured(column: Column, given: dict[str, Any], study: Study, sets: dict[str, DataSet]) -> Column:
    """A column with the given settings of its evaluation, headed with the set that it is measured on."""
    named = {key.partition(".")[2]: value for key, value in given.items()}
    old, new = study.sets[column.set].title, sets[column.set].title
    several = column.name.startswith(old) and any(other.set != column.set for other in study.columns)
    name = new + column.name.removeprefix(old) if several else column.name
    return replace(column, name=name, settings={**column.settings, **named})


def flags_of(evaluation: str, settings: dict[str, Any], source: str) -> Any:
    """The flags of an evaluation from a column's settings. InputError naming `source`."""
    if evaluation not in KINDS:
        return None
    try:
        return build(KINDS[evaluation], settings, source)
    except InputError as fault:
        raise InputError(f"{source}: {fault}" if not str(fault).startswith(source) else str(fault)) from None


def parse_value(text: str) -> Any:
    """The VALUE of NAME=VALUE: a TOML value, or several joined by commas, or else a word."""
    parts = text.split(",") if "," in text and not text.startswith("[") else [text]
    values = []
    for part in parts:
        try:
            values.append(tomllib.loads(f"x = {part}")["x"])
        except tomllib.TOMLDecodeError:
            values.append(part)
    return values if len(parts) > 1 else values[0]


def _overrides(flags: Flags) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The flags -> settings of runs, and by evaluation settings of evaluations."""
    named = {
        "epochs": flags.epochs,
        "data.batch_size": flags.data.batch_size,
        "model.backbone": flags.model.backbone,
        "views.size": flags.views.size,
    }
    overrides = {name: value for name, value in named.items() if value is not None}
    measured: dict[str, dict[str, Any]] = {}
    for word in flags.settings:
        name, _, value = word.partition("=")
        name = name.replace("-", "_")
        names.check_name(name, f"--settings {word}", names.of_methods() | names.of_evaluations())
        kind = name.partition(".")[0]
        (measured.setdefault(kind, {}) if kind in KINDS else overrides)[name] = parse_value(value)
    return overrides, measured


def _sets(study: Study, flags: Flags) -> tuple[list[str], dict[str, DataSet]]:
    """The sets of the columns that are kept, and all sets with the given folders."""
    used = list(dict.fromkeys(column.set for column in study.columns))
    given = flags.data.shards
    need(
        len(given) <= len(used),
        "data.shards",
        f"{len(given)} sets",
        f"at most {len(used)}, in this order: {', '.join(used)}",
    )
    kept = used[: len(given)] if given else used
    short = [path.resolve().name for path in given]
    titles = short if len(set(short)) == len(short) else list(map(str, given))
    changed = {
        name: DataSet(title, str(path))
        for name, title, path in zip(kept, titles, given)
        if path != study.sets[name].folder
    }
    return kept, {**study.sets, **changed}


def _rows(study: Study, names: Iterable[str]) -> tuple[Row, ...]:
    """The named rows with those that they are compared with, in the study's order."""
    wanted = set(names)
    if unknown := sorted(wanted - {row.name for row in study.rows}):
        listed = ", ".join(repr(row.name) for row in study.rows)
        raise InputError(f"--rows: {unknown[0]!r} is not a row of {study.name}; allowed: {listed}.")
    if not wanted:
        return study.rows
    wanted |= {study.base_of(row) for row in study.rows if row.name in wanted}
    return tuple(row for row in study.rows if row.name in wanted)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
