"""--tune: which rows share a rate, what is chosen, and that only the rate changes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from studies_here import run_here

from fgdata.errors import InputError
from fgtrain import cli
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
settings = { k = 7 }
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
        assert all(m.settings == {"k": 7, "split": "train"} for job in sweep.trials.values() for m in job.measures)
    folders = {job.folder for sweep in every for job in sweep.trials.values()}
    assert len(folders) == 2 * len(tune.FACTORS)


def test_the_best_rate_is_picked_and_only_rates_change(tmp_path: Path):
    assert tune.pick({0.1: 0.5, 1.0: 0.7, 3.0: 0.7}) == 1.0
    before = plan(tmp_path)
    after = tune.apply(before, {"byol": 3.0})
    assert before.jobs.keys() == after.jobs.keys()
    assert after.scaled.changed == (*before.scaled.changed, "learning rates chosen by --tune")
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
    assert f": byol 10.0, 90.0, 90.0, 20.0 %: {byol} (0.3 times); cvsa on moco " in note
    assert f"30.0, 40.0 %: {cvsa} (3 times, at the end of the sweep). The method's other rows" in note
    scores[every[0].trials[0.1].folder] = None
    with pytest.raises(InputError, match="of byol are not all measured"):
        tune.choose(before, every)


SMALL = """
title = "Small"
base = "MoCo v2"
[settings]
epochs = 2
data.batch_size = 8
data.detector = "gt"
model.width = 8
views.size = 32
moco.dim = 8
moco.queue = 16
optim.warmup_epochs = 0
[[columns]]
evaluation = "knn"
sets = ["drawn"]
settings = { k = 3 }
[[rows]]
name = "MoCo v2"
recipe = "moco"
[[rows]]
name = "with saliency-swap"
recipe = "moco"
settings = { views.crop = "saliency-swap", optim.lr = 0.5 }
"""


def test_a_tuned_study_trains_every_row_with_the_best_multiple(
    drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_here(monkeypatch)
    (tmp_path / "small.toml").write_text(SMALL)
    out, started = tmp_path / "out", ["study", str(tmp_path / "small.toml"), "--device", "cpu", "--tune"]
    words = [*started, "--data.shards", str(drawn_set), "--seeds", "0", "--out", str(out)]
    assert cli.main(words) == 0

    def rate(run: Path) -> float:
        return json.loads((run / "config.json").read_text())["optim"]["lr"]

    scores = {}
    for run in (out / "tune").iterdir():
        (line,) = map(json.loads, (run / "results.jsonl").read_text().splitlines())
        assert (line["split"], line["n"], line["k"]) == ("train", 32, 3)
        scores[rate(run)] = line["accuracy"]
    assert len(scores) == len(tune.FACTORS)
    own = sorted(scores)[tune.FACTORS.index(1.0)]
    best = min(scores, key=lambda each: (-scores[each], each))
    assert rate(out / "moco-v2-seed0") == best
    assert rate(out / "with-saliency-swap-seed0") == pytest.approx(0.5 * best / own)
    before = {file: file.read_bytes() for file in out.rglob("*.jsonl")}
    assert cli.main(words) == 0, "all of it is done"
    assert {file: file.read_bytes() for file in out.rglob("*.jsonl")} == before
    assert f": {best:g} (" in (out / "table.md").read_text()
