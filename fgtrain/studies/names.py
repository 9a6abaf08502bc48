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


def check_name(name: str, source: str) -> None:
    """InputError, naming `source`, unless a method or an evaluation has the setting."""
    known = of_methods() | of_evaluations()
    if name in known:
        return
    if name in OWN or name.startswith("machine."):
        flag = {"seed": "--seeds", "data.shards": "--data.shards"}.get(name)
        why = f"which a study sets itself.{f' Use {flag}.' * bool(flag)}"
    else:
        why = f"which no method and no evaluation has.{suggest(name, sorted(known))}"
    raise InputError(f"{source} sets {name}, {why} Show the settings of a method: fgtrain run METHOD --help")


def of_rows(study: Study, rows: Iterable[Row], without_stages: bool) -> set[str]:
    """The settings that any of these rows has, or its first stage; a row without a recipe has those of a network."""
    names = {"views.size"}  # the size of the evaluated images, too
    for row in rows:
        stage = None if without_stages else study.stages.get(row.start)
        recipes = [row.recipe, stage.recipe if stage else ""]
        names |= {name for recipe in recipes if recipe in RECIPES for name in flat(to_dict(RECIPES[recipe]()))}
        names |= {name for name in of_methods() if name.startswith("model.") and not row.recipe}
    return names
