"""The names that a study's settings may have: those of the methods, and those of the evaluations."""

from collections.abc import Iterable
from dataclasses import fields
from functools import cache

from fgdata.errors import InputError, suggest

from ..settings import evaluations
from ..settings.file import flat, to_dict
from ..settings.methods import METHODS
from ..settings.recipes import RECIPES
from .declaration import Row, Study

KINDS = {
    "knn": evaluations.Knn,
    "linear": evaluations.Linear,
    "finetune": evaluations.Finetune,
    "retrieval": evaluations.Retrieval,
    "localization": evaluations.Localization,
}
"""Evaluation -> its flags."""
OWN = ("machine.", "method", "seed", "extend", "data.shards")
"""Settings of a run that the study sets itself; a name that ends in a dot stands for all of its group."""


@cache
def of_methods() -> frozenset[str]:
    """The settings of all methods, by the names of flags with underscores: optim.lr, data.batch_size."""
    every = {name for method in METHODS.values() for name in flat(to_dict(method()))}
    return frozenset(name for name in every if not name.startswith("machine.") and name not in OWN)


@cache
def of_evaluations() -> frozenset[str]:
    """The settings of all evaluations that a study may change: knn.k, finetune.batch_size."""
    common = {field.name for field in fields(evaluations.Evaluation)} - {"size"}
    return frozenset(
        f"{kind}.{field.name}" for kind, flags in KINDS.items() for field in fields(flags) if field.name not in common
    )


def is_own(name: str) -> bool:
    """Whether a study sets this itself."""
    return name in OWN or name.startswith("machine.")


def check_name(name: str, source: str, allowed: frozenset[str]) -> None:
    """InputError, naming `source`, unless the setting is one of these: of methods, of evaluations or of both."""
    known = of_methods() | of_evaluations()
    if name in allowed:
        return
    if is_own(name):
        flag = {"seed": "--seeds", "data.shards": "--data.shards"}.get(name)
        why = f"which a study sets itself.{f' Use {flag}.' * bool(flag)}"
    elif name in known:
        why = "which an evaluation has and no method. Write it in the settings of its [[columns]]."
    else:
        why = f"which no method and no evaluation has.{suggest(name, sorted(known))}"
    raise InputError(f"{source} sets {name}, {why} Show the settings of a method: fgtrain run METHOD --help")


def check_declared(study: Study) -> None:
    """InputError for a setting of a study's file that would have no effect there: one that the study sets itself, or
    one of an evaluation among those of runs. Whether a row's method has its settings is checked with its job."""
    for name in study.settings:
        check_name(name, f"study {study.name}: [settings]", of_methods())
    every = {f"row {row.name!r}": [row.settings, *row.per_set.values()] for row in study.rows}
    every |= {f"stage {key!r}": [stage.settings] for key, stage in study.stages.items()}
    for where, tables in every.items():
        for name in (name for table in tables for name in table if is_own(name)):
            check_name(name, f"study {study.name}: {where}", of_methods())
    for column in study.columns:
        known = {name.partition(".")[2] for name in of_evaluations() if name.startswith(f"{column.evaluation}.")}
        if column.evaluation in KINDS and (unknown := sorted(column.settings.keys() - known - {"size"})):
            raise InputError(
                f"study {study.name}: column {column.name!r} sets {unknown[0]}, which a column of {column.evaluation} "
                f"does not have; allowed: {', '.join(sorted(known | {'size'}))}."
            )


def of_rows(study: Study, rows: Iterable[Row], without_stages: bool) -> set[str]:
    """The settings that any of these rows has, or its first stage; a row without a recipe has those of a network."""
    names = {"views.size"}  # the size of the evaluated images, too
    for row in rows:
        stage = None if without_stages else study.stages.get(row.start)
        recipes = [row.recipe, stage.recipe if stage else ""]
        names |= {name for recipe in recipes if recipe in RECIPES for name in flat(to_dict(RECIPES[recipe]()))}
        names |= {name for name in of_methods() if name.startswith("model.") and not row.recipe}
    return names
