"""--tune: which rows share a rate, what is chosen, and that only the rate changes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fgdata.errors import InputError
from fgtrain.evaluate.knn import hold_out
from fgtrain.settings.studying import Study as Flags
from fgtrain.studies import declaration, tune
from fgtrain.studies.plan import Plan, make
from fgtrain.studies.scaling import scale

STUDY = """
title = "Rates"
base = "BYOL"
seeds = [0, 1]
[[columns]]
evaluation = "knn"
sets = ["cub", "cars"]
[[rows]]
name = "BYOL"
recipe = "byol"
[[rows]]
name = "BYOL+SS"
recipe = "byol"
settings = { views.crop = "saliency-swap", optim.lr = 0.2 }
[[rows]]
name = "CVSA"
recipe = "cvsa-moco"
[[rows]]
name = "Supervised"
recipe = "supervised"
"""


def plan(tmp_path: Path) -> Plan:
    return make(scale(declaration.parse(STUDY, "rates", "rates.toml"), Flags("rates")), tmp_path)


def test_each_method_has_one_sweep_and_the_same_factors(tmp_path: Path):
    every = tune.sweeps(plan(tmp_path))
    assert [sweep.method for sweep in every] == ["byol", "cvsa on moco"]
    for sweep in every:
        rates = [job.config.optim.lr for job in sweep.trials.values() if job.config]
        assert rates == [sweep.rate * factor for factor in tune.FACTORS]
        assert {job.seed for job in sweep.trials.values()} == {0}
        assert {m.data.path for job in sweep.trials.values() for m in job.measures} == {"shards/cub"}
        assert all(m.settings == {"split": "validation"} for job in sweep.trials.values() for m in job.measures)
    folders = {job.folder for sweep in every for job in sweep.trials.values()}
    assert len(folders) == 2 * len(tune.FACTORS)


def test_the_best_rate_is_picked_and_only_rates_change(tmp_path: Path):
    assert tune.pick({0.1: 0.5, 1.0: 0.7, 3.0: 0.7}) == 1.0
    before = plan(tmp_path)
    after = tune.apply(before, {"byol": 3.0})
    assert before.jobs.keys() == after.jobs.keys()
    for folder, job in before.jobs.items():
        other = after.jobs[folder]
        assert job.config is not None
        assert other.config is not None
        factor = 3.0 if job.config.method == "byol" else 1.0
        assert other.config.optim.lr == job.config.optim.lr * factor
        assert replace(other.config, optim=job.config.optim) == job.config


def test_the_note_names_the_chosen_multiples_and_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    accuracy = {"byol": {0.1: 0.1, 0.3: 0.9, 1.0: 0.9, 3.0: 0.2}, "cvsa": {0.1: 0.1, 0.3: 0.2, 1.0: 0.3, 3.0: 0.4}}
    before = plan(tmp_path)
    every = tune.sweeps(before)
    scores = {job.folder: accuracy[sweep.method.split()[0]][f] for sweep in every for f, job in sweep.trials.items()}
    monkeypatch.setattr(tune.Results, "figure", lambda self, job, column: scores[job.folder])
    chosen, (note,) = tune.choose(before, every)
    assert chosen == {"byol": 0.3, "cvsa on moco": 3.0}
    byol, cvsa = (f"{sweep.rate * chosen[sweep.method]:g}" for sweep in every)
    assert f"byol 0.3 times, {byol} (accuracy 90.0%); cvsa on moco 3 times, {cvsa} (accuracy 40.0%, at the end" in note
    scores[every[0].trials[0.1].folder] = None
    with pytest.raises(InputError, match="of byol are not all measured"):
        tune.choose(before, every)


def test_the_validation_part_is_a_tenth_of_every_class():
    labels = torch.arange(3).repeat_interleave(20)
    features = torch.arange(60.0)[:, None]
    bank, queries = hold_out((features, labels, torch.arange(60)))
    assert queries[1].bincount().tolist() == [2, 2, 2]
    assert torch.cat([bank[2], queries[2]]).sort().values.equal(torch.arange(60))
    assert bank[0][:, 0].long().equal(bank[2])
    assert labels[bank[2]].equal(bank[1])
