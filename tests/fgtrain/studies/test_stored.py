"""What a study's folder already has: which runs and results count, and what is read of long logs."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
from owner_files import from_afar

from fgdata.errors import InputError
from fgdata.files import owners
from fgtrain import cli, objectives
from fgtrain.engine.signals import StopSignals
from fgtrain.evaluate.records import with_checksum
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.studying import Study as Flags
from fgtrain.studies import child, declaration, running
from fgtrain.studies.figures import Results, measure_cost
from fgtrain.studies.plan import Job, Plan, check_started, make
from fgtrain.studies.scaling import scale
from fgtrain.studies.traces import last_step, manifest, median_speed, without_weights

STUDY = """
title = "Stored"
base = "MoCo v2"
[settings]
epochs = 2
data.batch_size = 8
data.detector = "gt"
model.width = 8
[sets.mine]
title = "birds"
path = "SET"
[stages.first]
recipe = "byol"
set = "mine"
[[columns]]
evaluation = "localization"
sets = ["mine"]
settings = { seed = 0 }
[[rows]]
name = "MoCo v2"
recipe = "moco"
[[rows]]
name = "second"
recipe = "supervised"
start = "first"
[[rows]]
name = "as it is"
start = "a.pth"
"""


def plan_of(shards: Path, out: Path, text: str = STUDY) -> Plan:
    study = declaration.parse(text.replace("SET", str(shards)), "stored", "stored.toml")
    return make(scale(study, Flags("stored")), out)


def trained(plan: Plan, digest: str) -> None:
    """Writes the settings and facts of finished runs."""
    for job in plan.jobs.values():
        if job.config is not None:
            with RunDir.claim(job.folder, job.config) as run:
                run.start(job.config)
                run.note(status="done", step=8, total=8, shards={"path": "somewhere", "digest": digest})


def test_runs_on_another_shard_set_are_refused(drawn_set: Path, tmp_path: Path):
    plan = plan_of(drawn_set, tmp_path / "out")
    trained(plan, manifest(drawn_set)["digest"])
    check_started(plan)
    other = shutil.copytree(drawn_set, tmp_path / "other")
    content = json.loads((other / "manifest.json").read_text()) | {"digest": "f" * 64}
    (other / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"trained on a shard set with digest .*other has digest {'f' * 12}.*--out"):
        check_started(plan_of(other, tmp_path / "out"))


def test_a_study_that_was_moved_keeps_the_runs_that_start_from_its_first_stages(drawn_set: Path, tmp_path: Path):
    trained(plan_of(drawn_set, tmp_path / "out"), manifest(drawn_set)["digest"])
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    plan = plan_of(drawn_set, moved)
    check_started(plan)
    second = next(job for job in plan.jobs.values() if job.recipe == "supervised")
    settings = json.loads((second.folder / "config.json").read_text()) | {"init": str(moved / "another-first-stage")}
    (second.folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="other settings .init .*another-first-stage -> "):
        check_started(plan)


def test_a_result_counts_only_for_its_weights_network_and_seed(drawn_set: Path, tmp_path: Path):
    plan = plan_of(drawn_set, tmp_path / "out")
    job = next(job for job in plan.jobs.values() if job.weights)
    digest = manifest(drawn_set)["digest"]
    line = {
        "evaluation": "localization",
        "step": 0,
        "maxboxacc": 0.5,
        "maxboxaccv2": 0.5,
        "seed": 0,
        "size": 224,
        "digest": digest,
    }
    network = {"backbone": "resnet18", "width": 8, "stem": "imagenet"}
    whole = json.loads(json.dumps(vars(job.network)))
    assert network.items() <= whole.items()
    line |= {"weights": "a.pth", "model": whole}
    job.folder.mkdir(parents=True)
    for changed, counts in (
        ({}, True),
        ({"weights": "b.pth"}, False),
        ({"model": whole | {"width": 16}}, False),
        ({"seed": 1}, False),
    ):
        (job.folder / "results.jsonl").write_text(with_checksum(line | changed) + "\n")
        missing = Results(plan).missing(job)
        assert (not missing) == counts, changed


def test_a_fraction_that_is_not_measured_is_refused(drawn_set: Path, tmp_path: Path):
    column = 'evaluation = "linear"\nsets = ["mine"]\nfraction = 0.2'
    text = STUDY.replace('evaluation = "localization"\nsets = ["mine"]\nsettings = { seed = 0 }', column)
    with pytest.raises(
        InputError, match="shows the fraction 0.2, which is not measured; allowed: one of its fractions, 1. Add it"
    ):
        plan_of(drawn_set, tmp_path, text)
    plan_of(
        drawn_set, tmp_path, text.replace("fraction = 0.2", "fraction = 0.2\nsettings = { fractions = [1.0, 0.2] }")
    )


def test_the_step_and_speed_of_a_long_log(tmp_path: Path):
    """The step is read from its end: the part of a line that begins there counts for nothing."""
    assert (last_step(tmp_path), median_speed(tmp_path)) == (0, None)
    log = tmp_path / "metrics.jsonl"
    lines = [
        json.dumps({"step": 10 * i, "images_per_second": float(i), "loss": 0.1234567890123}) for i in range(1, 4000)
    ]
    log.write_text("\n".join(lines) + "\n")
    assert log.stat().st_size > 3 << 16
    assert (last_step(tmp_path), median_speed(tmp_path)) == (39_990, 2000.0)
    with log.open("a") as file:
        file.write(json.dumps({"step": 50_000, "images_per_second": 1e6, "knn": 0.5}) + '\n{"step": 60')
    assert (last_step(tmp_path), median_speed(tmp_path)) == (50_000, 2000.5), "it has grown"


def test_a_dry_run_with_tune_does_not_refuse_tuned_runs(drawn_set: Path, tmp_path: Path, capsys):
    (tmp_path / "stored.toml").write_text(
        STUDY.replace("SET", str(drawn_set)).replace('start = "a.pth"', 'start = "random"')
    )
    words = ["study", str(tmp_path / "stored.toml"), "--out", str(tmp_path / "out"), "--device", "cpu", "--dry-run"]
    plan = make(scale(declaration.load(words[1]), Flags(words[1])), tmp_path / "out")
    trained(plan, manifest(drawn_set)["digest"])
    for job in plan.jobs.values():
        if job.recipe == "moco":
            settings = json.loads((job.folder / "config.json").read_text())
            settings["optim"]["lr"] *= 3
            (job.folder / "config.json").write_text(json.dumps(settings))
    assert cli.main(words) == 2
    assert "was run with other settings (optim.lr" in capsys.readouterr().err
    assert cli.main([*words, "--tune"]) == 0


def test_parameters_count_a_classifier_for_the_classes_of_the_set(drawn_set: Path, tmp_path: Path):
    plan = plan_of(drawn_set, tmp_path / "out")
    trained(plan, manifest(drawn_set)["digest"])
    job = next(job for job in plan.jobs.values() if job.recipe == "supervised")
    assert job.config is not None
    whole = objectives.build(without_weights(job.config), 32, 4)  # the drawn set's four classes
    expected = sum(parameter.numel() for parameter in whole.parameters() if parameter.requires_grad)
    assert measure_cost(job)["parameters"] == pytest.approx(expected / 1e6)


def test_a_job_that_another_process_measures_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The other process is on another machine; when it ends, nothing is lacking, and nothing has failed."""
    clock, done, started = itertools.count(), [], []
    monkeypatch.setattr(running.time, "sleep", lambda _: None)
    monkeypatch.setattr(owners.time, "monotonic", lambda: float(next(clock)))
    file = from_afar(tmp_path / "a" / child.MEASURING)

    def report(active: list[Job], left: int) -> None:
        if not done:
            assert (active, left) == ([], 1)
            file.unlink()
            done.append(1)

    def commands(_: Job) -> list[list[str]]:
        return [] if done else [["eval"]]

    failed = running.run([Job(tmp_path / "a", 0)], commands, lambda *_: started.append(1), 1, report, StopSignals())  # pyright: ignore
    assert (failed, started) == ({}, [])


def test_a_child_that_came_too_late_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It was refused, and the other process has ended since."""
    monkeypatch.setattr(running.time, "sleep", lambda _: None)
    started = []

    class Refused:
        def poll(self) -> int:
            return 2

    def launch(*_) -> Refused:
        started.append(1)
        return Refused()

    def commands(_: Job) -> list[list[str]]:
        return [] if started else [["eval"]]

    failed = running.run([Job(tmp_path / "a", 0)], commands, launch, 1, lambda *_: None, StopSignals())  # pyright: ignore
    assert (failed, started) == ({}, [1])


def test_a_child_measures_only_a_folder_that_nobody_else_measures(tmp_path: Path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(cli, "main", lambda words: ran.append((words, [*(tmp_path / child.MEASURING).iterdir()])) or 0)
    monkeypatch.setattr(child, "_stop_with_parent", lambda: None)
    line = json.dumps([str(tmp_path), [["eval", "knn", str(tmp_path)]]]) + "\n"
    monkeypatch.setattr(child.sys, "stdin", type("In", (), {"readline": lambda self: line})())
    assert child.main() == 0
    assert len(ran[0][1]) == 1, "it owns the folder meanwhile"
    assert not (tmp_path / child.MEASURING).exists()
    with owners.owning(tmp_path / child.MEASURING, "is measuring"):
        assert child.main() == 2
    assert len(ran) == 1
    assert "is measuring" in capsys.readouterr().err
