"""A study's results as text that outlives its runs: what was asked, and what was measured.

    study.json      the declaration after the flags, the commands, what they changed, notes
    results.jsonl   a line for every row, seed and evaluation, and one for every training run:

    {"row": "BYOL", "seed": 0, "set": "cub", "evaluation": "knn", "settings": {"k": 20}, "figures": {"kNN": 0.61}, ...}
    {"run": "byol-seed0", "evaluation": "training", "hours": 0.4, "machine": {"cpu": "AMD EPYC", "cores": 2}, ...}

`fgtrain study` writes both beside its tables, and makes the tables from them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fgdata.errors import InputError, counted

from ..evaluate import compare
from ..evaluate.records import read_records, with_checksum
from ..runs.files import read_json, write_bytes, write_json
from ..runs.rundir import RunDir
from ..settings.file import as_flags, flat, plain, typed
from ..settings.studying import Study as Flags
from . import figures
from .declaration import Column, Row, Stage, Study, build_table
from .plan import Job, Plan, reason_missing
from .tables import Table

ELSEWHERE = ("name", "workers", "part", "device", "dry_run", "tables", "pictures", "out")
"""Flags of `fgtrain study` that no result depends on, and the name, which comes first."""
VERSIONS = ("fgtrain", "python", "torch", "timm")


@dataclass(frozen=True)
class Record:
    """The results of a study, as far as it is measured."""

    study: Study
    """Only with the settings, stages, columns and rows that were used; rows that cannot be run say why."""
    commands: tuple[str, ...]
    changed: tuple[str, ...]
    """What the flags changed of the declared settings."""
    scope: tuple[str, ...]
    """Which of the declared rows, seeds and columns there are, if not all."""
    notes: tuple[str, ...]
    """Sentences for the notes below the table."""
    results: tuple[dict[str, Any], ...] = ()


def take(plan: Plan, flags: Flags, notes: Sequence[str] = ()) -> Record:
    """The results of a study's runs."""
    scaled, study, found = plan.scaled, plan.scaled.study, figures.Results(plan)
    rows = tuple(replace(_as_run(row, plan), missing=reason_missing(row, study, scaled.init)) for row in study.rows)
    used = replace(
        study,
        settings={**study.settings, **scaled.overrides},
        sets={},
        stages=study.stages if scaled.init is None else {},
        rows=rows if scaled.init is None else tuple(replace(r, start=r.start and scaled.init) for r in rows),
    )
    results = [line for row in rows for seed in study.seeds for line in _measured(plan, row, seed, found)]
    results += [_training(job) for job in plan.jobs.values() if job.config is not None and job.trained]
    return Record(used, (command_of(flags),), scaled.changed, scaled.scope, tuple(notes), tuple(results))


def _as_run(row: Row, plan: Plan) -> Row:
    """A row with the settings that its runs have: without those that the flags replace, and those of other sets."""
    scaled, study = plan.scaled, plan.scaled.study
    sets = {row.set} if row.set else {column.set for column in study.columns}

    def own(settings: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name not in scaled.overrides}

    per_set = {study.sets[name].title: own(values) for name, values in row.per_set.items() if name in sets}
    return replace(row, settings=own(row.settings), per_set={name: each for name, each in per_set.items() if each})


def _measured(plan: Plan, row: Row, seed: int, found: figures.Results) -> Iterable[dict[str, Any]]:
    """The lines of a row and seed: one per evaluation with its settings, on one set."""
    lines: dict[str, dict[str, Any]] = {}
    for column in plan.scaled.study.columns:
        job = plan.job(row.name, column.name, seed)
        if job is None or (value := found.figure(job, column)) is None:
            continue
        source = found.line(job, column)
        facts = source.values if source else RunDir(job.folder).facts
        line = {"row": row.name, "seed": seed, "set": column.set, "evaluation": column.evaluation}
        if source:
            names = (*compare.SETTINGS[column.evaluation], "size")
            line["settings"] = {name: facts[name] for name in names if facts.get(name) is not None}
        line |= {"figures": {}, "run": job.name, **_origin(facts)}
        lines.setdefault(key_of(line), line)["figures"][column.name] = value
    return lines.values()


def _training(job: Job) -> dict[str, Any]:
    facts = RunDir(job.folder).facts
    hours = {"hours": figures.hours(job), "machine": facts.get("machine")}
    return {"run": job.name, "seed": job.seed, "evaluation": "training", **hours, **_origin(facts)}


def _origin(facts: dict[str, Any]) -> dict[str, Any]:
    """Step, shard set, commit, versions and device of a record or of a run."""
    digest = facts.get("digest") or facts.get("shards", {}).get("digest")
    versions = {name: facts.get("versions", {}).get(name) for name in VERSIONS}
    names = {"step": facts.get("step"), "digest": digest, "commit": facts.get("commit"), "versions": versions}
    return {**names, "device": facts.get("device")}


def key_of(line: dict[str, Any]) -> str:
    """What a line measures; of two lines with one key, the later one counts."""
    names = ("evaluation", "row", "run", "seed", "set", "settings")
    names = [name for name in names if name != "run" or "row" not in line]
    return json.dumps([line.get(name) for name in names])


def command_of(flags: Flags) -> str:
    """The command that makes a study's results: the flags that they depend on and that are not the defaults."""
    given, default = (flat(plain(asdict(each))) for each in (flags, Flags(flags.name)))
    words = as_flags({key: value for key, value in given.items() if value != default[key] and key not in ELSEWHERE})
    return f"fgtrain study {flags.name} {words}".rstrip()


LISTS = ("commands", "changed", "scope", "notes")
SAME = {
    **dict.fromkeys(("name", "title", "about", "base"), str),
    **dict.fromkeys(("settings", "stages"), dict),
    "seeds": tuple[int, ...],
}
"""Parts of a study in study.json that are values of JSON, and their types."""


def write(record: Record, folder: Path) -> None:
    """Writes study.json and results.jsonl. InputError if they cannot be written."""
    write_bytes(folder / "results.jsonl", b"".join(with_checksum(line).encode() + b"\n" for line in record.results))
    write_json(folder / "study.json", to_json(record))


def read(folder: Path) -> Record:
    """The inverse of `write`. InputError naming the file if it is absent or damaged."""
    file = folder / "study.json"
    if not file.is_file():
        raise InputError(
            f"{folder} has no study.json, so it is not the folder of a study, or of one that has not written its "
            "tables. Write them: the study's command with --tables"
        )
    whole = from_json(read_json(file, "Rerun the study's command with --tables"), str(file))
    return replace(whole, results=tuple(line.values for line in read_records(folder / "results.jsonl")))


def to_json(record: Record) -> dict[str, Any]:
    """All but the results."""
    study = {key: value for key, value in plain(asdict(record.study)).items() if key != "sets"}
    return {**{name: list(getattr(record, name)) for name in LISTS}, "study": study}


def from_json(values: dict[str, Any], source: str) -> Record:
    """The inverse of `to_json`. InputError naming `source` for anything else."""
    study = values.get("study")
    lists = [values.get(name) for name in LISTS]
    if isinstance(study, dict):
        lists += [study.get(name) for name in ("columns", "rows", "seeds")]
    if not isinstance(study, dict) or not all(isinstance(each, list) for each in lists):
        raise InputError(f"{source} is not what `fgtrain study` writes. Rerun the study's command with --tables")
    same = {name: typed(kind, study.get(name), f"{source}: {name}") for name, kind in SAME.items()}
    parts = {
        "columns": tuple(build_table(Column, each, source) for each in study["columns"]),
        "rows": tuple(build_table(Row, each, source) for each in study["rows"]),
        "stages": {name: build_table(Stage, each, source) for name, each in same.pop("stages").items()},
    }
    texts = {name: typed(tuple[str, ...], values[name], f"{source}: {name}") for name in LISTS}
    return Record(Study(**same, sets={}, **parts), **texts)


def table(record: Record) -> Table:
    """The table of a study as far as it is measured."""
    study = record.study
    lines = figures.lines(study, values_of(record))
    foot = [f"{row.name}: not run: {row.missing}" for row in study.rows if row.missing]
    foot += [*unmeasured(record), *settings_of(study), *record.notes]
    sizes = sorted({line["settings"]["size"] for line in record.results if "size" in line.get("settings", {})})
    foot += [f"Every row is evaluated at {', '.join(map(str, sizes))} px."] if sizes else []
    seeds = " ".join(map(str, study.seeds))
    if len(study.seeds) > 1:
        foot.append(
            f"Seeds {seeds}. ±: half the 95 % interval of the mean over seeds (Student's t); of a difference: over the "
            "differences of equal seeds. *: the interval of the difference excludes zero."
        )
    else:
        foot.append(f"One seed ({seeds}): no interval, so no difference here is evidence. Add some: --seeds 0 1 2")
    foot += against(lines)
    foot.append("% unless the column says otherwise. Results are those of the last checkpoint.")
    return Table(
        study.title, tuple(head(study, record.changed, record.scope)), study.columns, tuple(lines), tuple(foot)
    )


def against(lines: Sequence[figures.Line]) -> list[str]:
    """A sentence that names the row that most rows are compared with, and one for each other base row."""
    if not any(line.base for line in lines):
        return []
    usual = figures.usual_base(lines)
    others: dict[str, list[str]] = {}
    for line in lines:
        if line.base not in ("", usual):
            others.setdefault(line.base, []).append(line.name)
    rows = ". From ".join(f"{base}: {'; '.join(names)}" for base, names in others.items())
    except_for = f", except for these rows: from {rows}" if rows else ""
    return [f"to base, or with a sign: the difference from {usual}{except_for}."]


def settings_of(study: Study) -> list[str]:
    """Sentences with the settings of all rows and those of single ones, as far as the study states them."""
    words = []
    if study.settings:
        words.append(f"Settings of every row whose method has them: {_listed(study.settings)}.")
    own = [f"{row.name}: {_listed(row.settings)}" for row in study.rows if row.settings]
    own += [f"{row.name} on {name}: {_listed(values)}" for row in study.rows for name, values in row.per_set.items()]
    return [*words, *([f"Settings of single rows: {'; '.join(own)}."] if own else [])]


def _listed(settings: dict[str, Any]) -> str:
    shown = {name: " ".join(map(str, v)) if isinstance(v, list) else v for name, v in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def head(study: Study, changed: Sequence[str], scope: Sequence[str]) -> list[str]:
    """What the study is, and how it was scaled down."""
    lines = [study.about] if study.about else []
    if changes := [*changed, *scope]:
        lines.append(f"Changed for these runs: {'; '.join(changes)}.")
        if changed and any(row.paper for row in study.rows):
            lines[-1] += " The paper's figures are not comparable."
    return lines


def values_of(record: Record) -> figures.Values:
    """(row, column) -> seed -> figure."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in record.results:
        for column, value in line.get("figures", {}).items():
            found.setdefault((line["row"], column), {})[line["seed"]] = value
    return found


def unmeasured(record: Record) -> list[str]:
    """A sentence that names the rows and columns whose results are not all there yet; [] when nothing lacks."""
    study, values, lacking, total, count = record.study, values_of(record), [], 0, 0
    for row in (row for row in study.rows if not row.missing):
        columns = [c.name for c in study.columns if not (c.evaluation == "cost" and study.is_fixed(row))]
        absent: dict[tuple[int, ...], list[str]] = {}
        for name in columns:
            total += len(study.seeds)
            if seeds := tuple(seed for seed in study.seeds if seed not in values.get((row.name, name), {})):
                absent.setdefault(seeds, []).append(name)
                count += len(seeds)
        for seeds, names in absent.items():
            where = [", ".join(names)] * (len(names) < len(columns))
            where += [f"{'seeds' if len(seeds) > 1 else 'seed'} {' '.join(map(str, seeds))}"] * (seeds != study.seeds)
            lacking.append(row.name + (f" ({'; '.join(where)})" if where else ""))
    return [f"Not measured yet, {count:,} of {counted(total, 'result')}: {'; '.join(lacking)}."] if lacking else []
