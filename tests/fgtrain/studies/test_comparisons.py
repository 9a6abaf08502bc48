"""The built-in studies compare like with like: one budget per study, base rows that can run, one figure per result."""

import re
from pathlib import Path
from typing import Any

import pytest

from fgtrain.settings.file import flat, to_dict
from fgtrain.settings.studying import Study as Flags
from fgtrain.studies import declaration, record
from fgtrain.studies.figures import Line
from fgtrain.studies.plan import Job, make, reason_missing
from fgtrain.studies.scaling import scale

DRAWN = ("drawn-birds", "drawn-birds-more", "drawn-foreground", "decisions")
OWN = (*DRAWN, "real-birds", "real-signs")
SHARED = re.compile(r"(epochs|seed|init|norm|freeze_stages|data\.batch_size|data\.labels|model\..*|optim\..*)")
OF_METHODS = {"model.attend", "model.parts", "optim.clip", "optim.clip_by"}
"""The attention of LCR and SAM, the parts of PAPN, and the gradient clipping of DINO."""
COLOURS = ("jitter", "brightness", "contrast", "saturation", "hue", "grayscale", "blur", "solarize")
WITHOUT_COLOURS = {"supervised", "sam", "rotation", "relative-location"}


def jobs_of(name: str, folder: Path) -> dict[str, Job]:
    """Row -> its training run with the first seed."""
    study = declaration.load(name)
    plan = make(scale(study, Flags(name)), folder)
    found = {row: plan.jobs[path] for (row, _, seed), path in plan.cells.items() if seed == study.seeds[0]}
    return {row: job for row, job in found.items() if job.config is not None}


def settings_of(job: Job) -> dict[str, Any]:
    assert job.config is not None
    return {name: str(value) for name, value in flat(to_dict(job.config)).items()}


@pytest.mark.parametrize("name", OWN)
def test_the_rows_of_our_own_studies_have_one_budget_and_one_optimiser(name: str, tmp_path: Path):
    study, found = declaration.load(name), {}
    for row, job in jobs_of(name, tmp_path).items():
        settings = settings_of(job)
        without = OF_METHODS | ({"model.zero_init_residual"} if settings["init"] != "None" else set())  # no effect
        for setting, value in settings.items():
            if SHARED.fullmatch(setting) and setting not in without and setting not in study.row(row).settings:
                found.setdefault(setting, {}).setdefault(value, []).append(row)
    assert {setting: rows for setting, rows in found.items() if len(rows) > 1} == {}


@pytest.mark.parametrize("name", DRAWN)
def test_the_rows_on_drawn_birds_have_the_same_colour_changes(name: str, tmp_path: Path):
    found: dict[str, set[str]] = {}
    for job in jobs_of(name, tmp_path).values():
        if job.config is not None and job.config.method not in WITHOUT_COLOURS:
            for colour in COLOURS:
                found.setdefault(colour, set()).add(settings_of(job)[f"views.{colour}"])
    assert {colour: len(values) for colour, values in found.items()} == dict.fromkeys(COLOURS, 1)


def test_a_decision_changes_one_setting(tmp_path: Path):
    study = declaration.load("decisions")
    jobs = jobs_of("decisions", tmp_path)
    others = {}
    for row in study.rows:
        if base := study.base_of(row):
            ours, theirs = settings_of(jobs[row.name]), settings_of(jobs[base])
            changed = {name for name in ours | theirs if ours.get(name) != theirs.get(name)} - {"data.shards"}
            if len(changed) != 1:
                others[row.name] = ours["method"] == theirs["method"]
    assert others == {"CVSA on MoCo v2": True, "BYOL": False, "CVSA, RandomResizedCrop": False, "Pairs": False}


@pytest.mark.parametrize("name", declaration.names())
def test_a_row_that_can_run_is_compared_with_one_that_can(name: str):
    study = declaration.load(name)
    runnable = [row.name for row in study.rows if not reason_missing(row, study)]
    bases = {row: study.base_of(study.row(row)) for row in runnable}
    assert {row: base for row, base in bases.items() if base and base not in runnable} == {}


def printed(cell: tuple[str, str, int]) -> float:
    """(study, row, column) -> the paper's figure."""
    study, row, column = cell
    return declaration.load(f"cvsa-{study}").row(row).paper[column]


FIRST_STAGES = [("table-2", "COCO"), ("table-3", "IN-1k")]
TWICE = [(("table-1", row, 0), ("table-a1", f"{row}, CUB", 0)) for row in ("Rot-Pred", "MoCo v2", "BYOL")]
TWICE += [
    ((table, f"{row}, stage 1", 0), ("table-a1", f"{row}, {on}", 0))
    for table, on in FIRST_STAGES
    for row in ("MoCo v2", "BYOL")
]
TWICE += [
    ((table, "BYOL, stage 1", wide), ("table-5", f"BYOL, {on}", narrow))
    for table, on in FIRST_STAGES
    for wide, narrow in ((0, 0), (2, 1), (3, 2))
]
TWICE += [
    (("table-6", f"{row}, CUB", 0), ("table-a2", f"{row}, ground truth", 0)) for row in ("BYOL+SS", "BYOL+SS+Align")
]
TWICE += [(("table-3", row, 1), ("table-a3", row, 5)) for row in ("BYOL", "BYOL+DiLo", "BYOL+CVSA")]


@pytest.mark.parametrize(("one", "other"), TWICE)
def test_a_result_that_the_paper_prints_twice_has_one_figure(one: tuple[str, str, int], other: tuple[str, str, int]):
    assert printed(one) == pytest.approx(printed(other), abs=0.051), "Tables 5 and A3 print one digit"


def test_parts_of_a_row_chain_have_no_base_that_is_not_there(tmp_path: Path):
    """Pairs, NT-Xent is compared with Pairs, and Pairs with MoCo v2, which is not run."""
    scaled = scale(declaration.load("decisions"), Flags("decisions", rows=("Pairs, NT-Xent",)))
    assert [(row.name, scaled.study.base_of(row)) for row in scaled.study.rows] == [
        ("Pairs", ""),
        ("Pairs, NT-Xent", "Pairs"),
    ]


def test_the_notes_say_which_row_each_row_is_compared_with():
    lines = [Line(name, (), base) for name, base in (("A", ""), ("B", "A"), ("C", "A"), ("D", "B"), ("E", "B"))]
    assert record.against(lines[:1]) == []
    start = "to base, or with a sign: the difference from A"
    assert record.against(lines[:3]) == [f"{start}."]
    assert record.against(lines) == [f"{start}, except for these rows: from B: D; E."]


def test_the_papers_figures_stay_comparable_with_fewer_rows_and_seeds():
    study = declaration.load("cvsa-table-1")
    assert not any("not comparable" in line for line in record.head(study, (), ("seeds 0 1 2", "2 of 9 rows")))
    assert any("not comparable" in line for line in record.head(study, ("epochs 2",), ()))
