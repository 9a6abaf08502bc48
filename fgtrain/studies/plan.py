"""From a study to its jobs: one per row, training set and seed, with the commands that are still missing.

studies/NAME/byol-cub-seed0/         a run of a row
studies/NAME/first-byol-seed0/       a first stage, which several rows may start from
studies/NAME/settings/*.json         the settings that a run was started with
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from fgdata import plugins
from fgdata.errors import InputError, suggest

from ..runs.files import write_json
from ..runs.rundir import RunDir
from ..settings.common import Config, Model
from ..settings.file import differences, from_dict, relevant, to_dict
from ..settings.recipes import RECIPES
from .declaration import Column, Row, Study
from .scaling import Scaled, flags_of
from .sets import DataSet
from .traces import manifest

LONGEST = 64
"""Characters of a name in that of a folder; three of them and a seed fit into the 255 of a file system."""
OWN_FILES = (
    *("logs", "pictures", "settings", "tune"),
    *("results.jsonl", "study.json", "table.csv", "table.html", "table.md"),
)
"""What a study has in its folder beside its runs."""


@dataclass(frozen=True)
class Measure:
    """One evaluation of a job, which fills one or more columns."""

    evaluation: str
    settings: dict[str, Any]
    data: DataSet
    size: int = 224
    """Side of the evaluated images in pixels, if the settings have none."""


@dataclass(frozen=True)
class Job:
    """One training and its evaluations, in one folder. Without a config it only measures weights that exist."""

    folder: Path
    seed: int
    recipe: str = ""
    config: Config | None = None
    data: DataSet | None = None
    """The set that it is trained on."""
    lenders: tuple[DataSet, ...] = ()
    """The sets whose images are its backgrounds."""
    needs: Path | None = None
    """The folder of the first stage that must be finished before."""
    measures: tuple[Measure, ...] = ()
    weights: str = ""
    """Weights that are measured as they are."""
    model: dict[str, Any] = field(default_factory=dict)
    """Their network, by the names of flags."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def network(self) -> Model:
        """The network of the weights that are measured as they are."""
        return Model(**{name.removeprefix("model."): value for name, value in self.model.items() if value is not None})

    @property
    def sets(self) -> list[DataSet]:
        """The sets that it reads, each once."""
        own = [self.data] if self.data else []
        return list(dict.fromkeys([*own, *self.lenders, *(measure.data for measure in self.measures)]))

    @property
    def trained(self) -> bool:
        """Whether nothing is left to train."""
        return self.config is None or is_finished(self.folder)


@dataclass(frozen=True)
class Plan:
    """All jobs of a study, first stages first, and the job that fills each cell."""

    scaled: Scaled
    out: Path
    jobs: dict[Path, Job]
    """By folder."""
    cells: dict[tuple[str, str, int], Path]
    """(row, column, seed) -> the folder of its job; absent for a row that cannot be run."""
    unused: dict[str, list[str]]
    """Row -> settings of the command line that its method does not have."""

    def job(self, row: str, column: str, seed: int) -> Job | None:
        """The job of a cell; None for a row that cannot be run."""
        folder = self.cells.get((row, column, seed))
        return None if folder is None else self.jobs[folder]


def is_finished(folder: Path) -> bool:
    """Whether a run in this folder has trained to its end."""
    return (folder / "config.json").is_file() and RunDir(folder).facts.get("status") == "done"


def slug(*parts: str) -> str:
    """Names -> the name of a folder: "BYOL+SS", "cub" -> byol-ss-cub. Of a long name, its start."""
    words = (re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-.") for part in parts)
    return "-".join(filter(None, (word[:LONGEST].strip("-.") for word in words)))


def make(scaled: Scaled, out: Path) -> Plan:
    """All jobs of a study. InputError naming every row whose settings are not allowed."""
    study, faults = scaled.study, []
    plan, folders = Plan(scaled, out, {}, {}, {}), name_folders(scaled)
    sets = list(dict.fromkeys(column.set for column in study.columns))
    rows = [row for row in study.rows if not reason_missing(row, study, scaled.init)]
    for row, seed, name in product(rows, study.seeds, sets):
        try:
            job = _added(_job(row, name, seed, plan, out / folders[row.name]), plan)
        except InputError as fault:
            faults.append(f"row {row.name!r} on {study.sets[row.set or name].title}: {fault}")
            continue
        columns = [column for column in study.columns if column.set == name]
        new = [measure for measure in _measures(columns, scaled) if measure not in job.measures]
        plan.jobs[job.folder] = replace(job, measures=(*job.measures, *new))
        plan.cells.update({(row.name, column.name, seed): job.folder for column in columns})
    if faults:
        raise refuse(study, faults)
    return plan


def refuse(study: Study, faults: Iterable[str]) -> InputError:
    """The error that names every row that cannot run."""
    lines = "\n  ".join(dict.fromkeys(faults))
    return InputError(
        f"{study.name}: nothing was started, because these rows cannot run. Name the rows to run (--rows), or change "
        f"--settings:\n  {lines}"
    )


def reason_missing(row: Row, study: Study, init: str | None = None) -> str:
    """Why a row cannot be run; "" if it can."""
    if row.missing:
        return row.missing
    stage = study.stages.get(row.start) if init is None else None
    if stage is not None and stage.missing:
        return stage.missing
    recipes = [name for name in (row.recipe, stage.recipe if stage else "") if name and name not in RECIPES]
    return f"this version has no recipe {recipes[0]}.{suggest(recipes[0], RECIPES)}" if recipes else ""


def configure(recipe: str, layers: Sequence[tuple[dict[str, Any], bool]], source: str) -> tuple[Config, list[str]]:
    """A recipe and layers of settings -> its config, and the settings that it does not have.

    layers: (settings by the names of flags, whether a setting that the method lacks is an error). InputError naming
    `source`.
    """
    values, unused = to_dict(RECIPES[recipe]()), []
    for settings, strict in layers:
        for name, value in settings.items():
            *path, last = name.split(".")
            place: Any = values
            for part in path:
                place = place.get(part) if isinstance(place, dict) else None
            if isinstance(place, dict) and last in place and name != "method":
                place[last] = list(value) if isinstance(value, tuple) else value
            elif strict:
                raise InputError(f"{source} sets {name}, which {values['method']} does not have.")
            else:
                unused.append(name)
    return from_dict(values, source), unused


def name_folders(scaled: Scaled) -> dict[str, str]:
    """Row -> the name of its folder, each its own: of all declared rows, also of those that --rows leaves out."""
    found: dict[str, str] = {}
    for row in scaled.declared:
        name, number = slug(row) or "row", 2
        while name in found.values():
            name, number = f"{slug(row) or 'row'}-{number}", number + 1
        found[row] = name
    return found


def _added(job: Job, plan: Plan) -> Job:
    """The job of the plan in this job's folder, which is this one if there was none. InputError if it is another."""
    other = plan.jobs.setdefault(job.folder, job)
    if job.name in OWN_FILES or replace(other, measures=(), seed=0) != replace(job, measures=(), seed=0):
        raise InputError(
            f"its folder {job.folder} is also that of another run, or of the study. Rename the row or its stage."
        )
    return other


def _with_sets(settings: dict[str, Any], study: Study) -> dict[str, Any]:
    """Settings with names of sets in data.backgrounds replaced by their folders."""
    given = settings.get("data.backgrounds")
    if not isinstance(given, list):
        return settings
    return {**settings, "data.backgrounds": [study.sets[n].path if n in study.sets else n for n in given]}


def _stage(row: Row, seed: int, plan: Plan) -> Job | None:
    """The job of the first stage of a row, made once; None for a row without."""
    scaled, study = plan.scaled, plan.scaled.study
    if row.start not in study.stages or scaled.init is not None:
        return None
    folder = plan.out / slug("first", row.start, f"seed{seed}")
    stage = study.stages[row.start]
    layers = [(_with_sets(study.settings, study), False), (_with_sets(stage.settings, study), True)]
    layers.append((scaled.overrides, False))
    layers.append(({"data.shards": study.sets[stage.set].path, "seed": seed}, True))
    config, _ = configure(stage.recipe, layers, f"stage {row.start}")
    data, lenders = study.sets[stage.set], _lenders(config, study)
    return _added(Job(folder, seed, stage.recipe, config, data, lenders), plan)


def _job(row: Row, name: str, seed: int, plan: Plan, folder: Path) -> Job:
    """The job of a row for one set of columns and one seed, without its measures."""
    scaled, study = plan.scaled, plan.scaled.study
    first = _stage(row, seed, plan)
    if not row.recipe and first:
        return first
    start = str(first.folder) if first else row.start if scaled.init is None else scaled.init
    if not row.recipe:
        merged = {**study.settings, **row.settings, **scaled.overrides}
        model = {key: value for key, value in merged.items() if key.startswith("model.")}
        return Job(folder, seed, weights=start, model=model)
    set_name = row.set or name
    layers = [(_with_sets(study.settings, study), False)]
    layers += [(_with_sets(row.settings, study), True), (row.per_set.get(set_name, {}), True)]
    layers += [(scaled.overrides, False), ({"data.shards": study.sets[set_name].path, "seed": seed}, True)]
    if row.start or (scaled.init is not None and RECIPES[row.recipe]().init):
        layers.append(({"init": None if start == "random" else start}, True))
    config, absent = configure(row.recipe, layers, f"row {row.name!r}")
    plan.unused.setdefault(row.name, sorted(scaled.overrides.keys() & absent))
    several = not row.set and len({column.set for column in study.columns}) > 1
    parts = (folder.name, slug(name) if several else "", f"seed{seed}")
    folder = folder.with_name("-".join(filter(None, parts)))
    data, lenders, needs = study.sets[set_name], _lenders(config, study), first.folder if first else None
    return Job(folder, seed, row.recipe, config, data, lenders, needs)


def _lenders(config: Config, study: Study) -> tuple[DataSet, ...]:
    """The study's sets whose images are backgrounds of a run."""
    named = set(map(str, config.data.backgrounds))
    return tuple({data.path: data for data in study.sets.values() if data.path in named}.values())


def _measures(columns: Iterable[Column], scaled: Scaled) -> list[Measure]:
    """The evaluations that fill these columns, each once."""
    found, study = {}, scaled.study
    for column in columns:
        if column.evaluation != "cost":
            key = json.dumps([column.evaluation, column.settings, column.set], sort_keys=True)
            found[key] = Measure(column.evaluation, column.settings, study.sets[column.set], scaled.size)
    return list(found.values())


def check_started(plan: Plan) -> None:
    """InputError if a run in the study's folder was started with other settings, or on another shard set."""
    for job in plan.jobs.values():
        if job.config is not None and (job.folder / "config.json").is_file():
            run = RunDir(job.folder)
            changed = differences(relevant(run.config()), relevant(job.config))
            if job.needs and "init" in changed and len({Path(str(init)).name for init in changed["init"]}) == 1:
                del changed["init"]  # the same first stage; the study was moved, or its path is written otherwise
            if changed:
                listed = ", ".join(f"{name} {a} -> {b}" for name, (a, b) in list(changed.items())[:4])
                raise InputError(
                    f"{job.folder} was run with other settings ({listed}). Name another folder with --out, or the "
                    "settings that it was run with."
                )
            old = run.facts.get("shards", {}).get("digest")
            if old and job.data and job.data.is_built and old != (new := manifest(job.data.folder)["digest"]):
                raise InputError(
                    f"{job.folder} was trained on a shard set with digest {old[:12]}, but {job.data.path} has digest "
                    f"{new[:12]}. Name another folder with --out, or the set that it was trained on with --data.shards."
                )


def commands(job: Job, missing: Sequence[Measure], device_name: str, threads: int, settings: Path) -> list[list[str]]:
    """The words of the fgtrain commands that a job still needs, in order. Writes the run's settings to `settings`.

    missing: evaluations without a result. threads: of the run.
    """
    words: list[list[str]] = []
    device = ["--device", device_name]
    if not job.trained:
        settings.mkdir(parents=True, exist_ok=True)
        file = settings / f"{job.name}.json"
        assert job.config is not None
        write_json(file, to_dict(job.config))
        run = ["run", job.recipe, "--config", str(file), "--out", str(job.folder), "--resume", *device]
        words.append([*run, "--threads", str(threads)])
    for measure in missing:
        subject = [str(job.folder)]
        if job.weights:
            subject = ["--weights", job.weights, *_words(job.model), "--results", str(job.folder / "results.jsonl")]
        options = evaluation_words(measure)
        words.append(["eval", measure.evaluation, *subject, "--shards", measure.data.path, *options, *device])
    return [[*each, *shlex.split(plugins.flags())] for each in words]


def evaluation_words(measure: Measure) -> list[str]:
    """The settings of an evaluation as words of its command."""
    flags_of(measure.evaluation, measure.settings, measure.evaluation)
    return _words({"size": measure.size, **measure.settings})


def _words(values: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command; those that are None or False are left out."""
    words: list[str] = []
    for name, value in values.items():
        if value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else map(str, value if isinstance(value, (list, tuple)) else [value])
    return words
