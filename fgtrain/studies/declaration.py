"""A study as declared in a TOML file: what is trained (rows), what is measured (columns), and what a paper printed.

    title = "BYOL against CVSA"
    base = "BYOL"
    seeds = [0, 1, 2]

    [settings]                       # of every row whose method has them
    epochs = 100

    [[columns]]
    evaluation = "knn"               # knn, linear, finetune, retrieval, localization; cost: hours, parameters
    sets = ["cub"]                   # of sets.py, or of [sets.NAME]

    [[rows]]
    name = "BYOL"
    recipe = "byol"
    paper = [64.85]                  # percent, one value per column; "" where there is none

docs/studies.md lists every key.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from fgdata.errors import InputError, suggest

from ..runs.files import MOST_SETTINGS_BYTES, read_bytes
from ..settings.common import SEEDS
from ..settings.file import build, check_keys, flat
from .sets import SETS, DataSet

EVALUATIONS = {
    "knn": ("accuracy",),
    "linear": ("accuracy",),
    "finetune": ("accuracy",),
    "retrieval": ("map", "rank1", "rank5"),
    "localization": ("maxboxacc", "maxboxaccv2"),
    "cost": ("hours", "parameters"),
}
"""Evaluation -> its figures; the first is the default. `cost` is read from the run itself."""
TITLES = {"rank1": "rank-1", "rank5": "rank-5", "map": "mAP", "maxboxacc": "MaxBoxAcc", "maxboxaccv2": "MaxBoxAccV2"}
TITLES |= {"hours": "hours", "parameters": "parameters, M"}
MOST_PRINTED = 1e9
"""The largest printed figure: that of a column of counts. An axis is not drawn for more, nor for nan."""
BUILT_IN = files("fgtrain.studies") / "built_in"


@dataclass(frozen=True)
class Column:
    """One figure of one evaluation on one shard set."""

    name: str
    set: str
    evaluation: str
    figure: str
    settings: dict = field(default_factory=dict)
    """Flags of the evaluation, by field name."""
    fraction: float = 1.0
    """linear: which of its fractions of the labels."""

    @property
    def percent(self) -> bool:
        """Whether the figure is a fraction of one, shown in percent."""
        return self.evaluation != "cost"


@dataclass(frozen=True)
class Columns:
    """[[columns]] of a file: one figure on one or more sets."""

    evaluation: str
    sets: tuple[str, ...]
    name: str = ""
    figure: str = ""
    fraction: float = 1.0
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A first stage: a training run on another set, whose weights rows start from."""

    recipe: str
    set: str
    settings: dict = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Row:
    """A row: a recipe with settings, or without a recipe the weights of `start` as they are."""

    name: str
    recipe: str = ""
    start: str = ""
    """Weights that it begins from: the name of a stage, or a value of --init."""
    set: str = ""
    """The set that it is trained on. Default: that of each column."""
    settings: dict = field(default_factory=dict)
    per_set: dict = field(default_factory=dict)
    """Set -> settings for training on it."""
    paper: tuple = ()
    """The printed figure of each column, in percent for shares; "" for none."""
    base: str = ""
    """The row that it is compared with. Default: the study's base."""
    missing: str = ""
    """Why it cannot be run."""


@dataclass(frozen=True)
class Study:
    """A whole study. `name` is that of its file."""

    name: str
    title: str
    about: str
    base: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    sets: dict[str, DataSet]
    stages: dict[str, Stage]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def base_of(self, row: Row) -> str:
        """The name of the row that a row is compared with; "" for none, or if that row is not part of the study."""
        base = row.base or self.base
        return base if base != row.name and any(other.name == base for other in self.rows) else ""

    def is_fixed(self, row: Row) -> bool:
        """Whether a row measures given weights as they are, which no seed changes."""
        return not row.recipe and row.start not in self.stages


def names() -> list[str]:
    """The built-in studies, sorted so that table 10 follows table 9."""
    found = [file.name.removesuffix(".toml") for file in BUILT_IN.iterdir() if file.name.endswith(".toml")]
    return sorted(found, key=lambda name: (name.rstrip("0123456789"), len(name), name))


def load(name: str) -> Study:
    """A built-in study by name, or one's own by its file. InputError if there is none or it is not valid."""
    path = Path(name)
    if name in names():
        return parse((BUILT_IN / f"{name}.toml").read_text("utf-8"), name, f"study {name}")
    if path.suffix != ".toml" or not path.is_file():
        what = "is not a study" if path.suffix != ".toml" else "is a folder" if path.is_dir() else "does not exist"
        raise InputError(
            f"{name} {what}.{suggest(name, names())} Allowed: {', '.join(names())}, or a file that ends in .toml. Show "
            "them: fgtrain study list"
        )
    try:
        return parse(read_bytes(path, MOST_SETTINGS_BYTES).decode("utf-8-sig"), path.stem, str(path))
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is not a text file in UTF-8. Write it anew; docs/studies.md has an example."
        ) from None


@dataclass(frozen=True)
class _File:
    """The top level of a study's file."""

    title: str
    columns: list
    rows: list
    about: str = ""
    base: str = ""
    seeds: tuple[int, ...] = (0,)
    settings: dict = field(default_factory=dict)
    sets: dict = field(default_factory=dict)
    stages: dict = field(default_factory=dict)


def parse(text: str, name: str, source: str) -> Study:
    """The text of a study's file -> the study. InputError naming `source` and the key of the first fault."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as fault:
        raise InputError(f"{source} is not valid TOML: {fault}. docs/studies.md has an example.") from None
    check_keys(_File, values, source)
    if single := [key for key in ("columns", "rows") if isinstance(values.get(key), dict)]:
        raise InputError(f"{source}: [{single[0]}] is a single table; write [[{single[0]}]], once for each.")
    if absent := [key for key in ("title", "columns", "rows") if not values.get(key)]:
        raise InputError(f"{source} lacks {absent[0]}. docs/studies.md has an example.")
    file = build(_File, values, source)
    own = {key: build_table(DataSet, value, f"{source}: sets.{key}") for key, value in file.sets.items()}
    known = {**SETS, **{key: _data_set(key, value) for key, value in own.items()}}
    columns = [
        column for values in file.columns for column in _columns(values, known, f"{source}: columns", file.columns)
    ]
    rows = [build_table(Row, values, f"{source}: rows") for values in file.rows]
    stages = {key: build_table(Stage, value, f"{source}: stages.{key}") for key, value in file.stages.items()}
    study = Study(
        name,
        file.title,
        file.about,
        file.base,
        file.seeds,
        flat_settings(file.settings, source),
        known,
        {key: replace(stage, settings=flat_settings(stage.settings, source)) for key, stage in stages.items()},
        tuple(columns),
        tuple(
            replace(
                row,
                settings=flat_settings(row.settings, source),
                per_set={
                    key: flat_settings(value, f"{source}: row {row.name!r}: per_set.{key}")
                    for key, value in row.per_set.items()
                },
            )
            for row in rows
        ),
    )
    check(study, source)
    return study


def _data_set(key: str, given: DataSet) -> DataSet:
    """A set of sets.py with the given changes, or a new one."""
    base = SETS.get(key, DataSet(key))
    changed = {f.name: getattr(given, f.name) for f in fields(DataSet) if getattr(given, f.name)}
    return replace(base, **changed)


def build_table(kind: type, values: Any, source: str) -> Any:
    """A table of the file -> a dataclass."""
    if not isinstance(values, dict):
        raise InputError(f"{source} is {str(values)[:60]!r}, not a table. docs/studies.md has an example.")
    where = f"{source} {values['name']!r}" if isinstance(values.get("name"), str) else source
    check_keys(kind, values, where)
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if absent := [key for key in required if key not in values]:
        raise InputError(f"{where} lacks {absent[0]}.")
    values = {
        key: tuple(value) if key == "paper" and isinstance(value, list) else value for key, value in values.items()
    }
    return build(kind, values, where)


def _columns(values: Any, sets: dict[str, DataSet], source: str, every: Sequence[Any]) -> list[Column]:
    """[[columns]] -> a column for each of its sets."""
    given: Columns = build_table(Columns, values, source)
    if given.evaluation not in EVALUATIONS:
        raise InputError(f"{source}: {given.evaluation!r} is not an evaluation; allowed: {', '.join(EVALUATIONS)}.")
    figures = EVALUATIONS[given.evaluation]
    figure = given.figure or figures[0]
    if figure not in figures:
        raise InputError(f"{source}: {figure!r} is not a figure of {given.evaluation}; allowed: {', '.join(figures)}.")
    if not given.sets:
        raise InputError(f"{source}: sets is empty. Name one set or more; without a set, leave the column out.")
    if given.fraction != 1 and given.evaluation != "linear":
        raise InputError(f"{source}: {given.evaluation} has no fraction; only linear has.")
    if unknown := [name for name in given.sets if name not in sets]:
        raise InputError(
            f"{source}: {unknown[0]!r} is not a set; allowed: {', '.join(sets)}. Add it: [sets.{unknown[0]}]"
        )
    several = len({name for other in every if isinstance(other, dict) for name in other.get("sets", ())}) > 1
    what = given.name or TITLES.get(figure, given.evaluation)
    settings = {key.replace("-", "_"): value for key, value in given.settings.items()}
    return [
        Column(
            (f"{sets[name].title} {given.name}".strip() if several else what),
            name,
            given.evaluation,
            figure,
            settings,
            given.fraction,
        )
        for name in given.sets
    ]


def flat_settings(values: Any, source: str) -> dict[str, Any]:
    """Settings of a file, dotted or nested -> by the names of flags: {"optim.lr": 0.1}. InputError for no table."""
    if not isinstance(values, dict):
        raise InputError(f"{source} is {str(values)[:60]!r}; expected a table, such as {{ optim.lr = 0.1 }}.")
    return {key.replace("-", "_"): value for key, value in flat(values).items()}


def check(study: Study, source: str) -> None:
    """InputError for a name that cannot be shown, does not exist or appears twice, a set without a folder, or a printed
    figure too many."""
    for name in (study.title, *(row.name for row in study.rows), *(column.name for column in study.columns)):
        if not name.strip() or not name.isprintable():
            raise InputError(f"{source}: the name {name!r} is blank, or has control characters. Give it another.")
    if without := [key for key in dict.fromkeys(column.set for column in study.columns) if not study.sets[key].path]:
        raise InputError(f'{source}: sets.{without[0]} lacks path, the folder of the shard set: path = "shards/mine"')
    for kind, every in (("row", [row.name for row in study.rows]), ("column", [c.name for c in study.columns])):
        if twice := [name for name in every if every.count(name) > 1]:
            raise InputError(f"{source}: the {kind} {twice[0]!r} appears twice. Give each its own name.")
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise InputError(f"{source}: seeds is {list(study.seeds)}; allowed: one seed or more, each once.")
    if not all(0 <= seed < SEEDS for seed in study.seeds):
        raise InputError(f"{source}: seeds is {list(study.seeds)}; allowed: 0 to 2^64 - 1.")
    rows = [row.name for row in study.rows]
    listed = ", ".join(map(repr, rows))
    if study.base and study.base not in rows:
        raise InputError(f"{source}: base {study.base!r} is not a row; allowed: {listed}.")
    for row in study.rows:
        where = f"{source}: row {row.name!r}"
        if row.base and row.base not in rows:
            raise InputError(f"{where}: its base {row.base!r} is not a row; allowed: {listed}.")
        if not row.recipe and not row.start and not row.missing:
            raise InputError(f"{where} has neither a recipe nor a start. Name one, or say why it is missing.")
        if len(row.paper) not in (0, len(study.columns)):
            raise InputError(
                f"{where} has {len(row.paper)} printed figures for {len(study.columns)} columns "
                f'({", ".join(c.name for c in study.columns)}). Write "" where there is none.'
            )
        if wrong := [v for v in row.paper if v != "" and (type(v) not in (int, float) or not abs(v) <= MOST_PRINTED)]:
            raise InputError(
                f'{where} has the printed figure {wrong[0]!r}; allowed: a number up to 10^9, or "" for none.'
            )
        for name in [*row.per_set, *filter(None, [row.set])]:
            if name not in study.sets:
                raise InputError(f"{where}: {name!r} is not a set; allowed: {', '.join(study.sets)}.")
    for key, stage in study.stages.items():
        if stage.set not in study.sets:
            raise InputError(f"{source}: stage {key!r}: {stage.set!r} is not a set; allowed: {', '.join(study.sets)}.")
