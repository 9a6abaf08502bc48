"""Figures and pictures during training, and the programs that get them. None of it changes the run."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from trainable import final, metrics, same, small

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgtrain import cli
from fgtrain.engine import lifecycle
from fgtrain.engine.trackers import Trackers, check_trackers
from fgtrain.evaluate import online
from fgtrain.evaluate.finetune import Part
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Machine


class Calls(list):
    """A package that records its calls, with the signatures of the functions that `--log` uses."""

    def note(self, called: str, /, **given: Any) -> None:
        self.append((called, given))

    def named(self, name: str) -> list[dict]:
        return [given for own, given in self if own == name]


def fake_wandb(calls: Calls) -> SimpleNamespace:
    def init(entity=None, project=None, dir=None, id=None, name=None, config=None, resume=None, **_):
        calls.note("init", project=project, id=id, name=name, config=config, resume=resume)
        return SimpleNamespace(
            log=lambda data, step=None, commit=None: calls.note("log", data=data, step=step),
            finish=lambda exit_code=None, quiet=None: calls.note("finish", code=exit_code),
        )

    return SimpleNamespace(init=init, Image=lambda data_or_path, mode=None, caption=None: ("image", data_or_path))


def fake_trackio(calls: Calls) -> SimpleNamespace:
    def init(project, name=None, group=None, space_id=None, config=None, resume="never"):
        calls.note("init", project=project, name=name, config=config, resume=resume)

    return SimpleNamespace(
        init=init,
        log=lambda metrics, step=None: calls.note("log", data=metrics, step=step),
        finish=lambda: calls.note("finish"),
        Image=lambda value, caption=None: ("image", value),
    )


def fake_mlflow(calls: Calls) -> SimpleNamespace:
    def start_run(run_id=None, experiment_id=None, run_name=None, nested=False):
        calls.note("init", id=run_id, name=run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc"))

    return SimpleNamespace(
        set_experiment=lambda experiment_name=None: calls.note("experiment", name=experiment_name),
        start_run=start_run,
        log_params=lambda params, synchronous=None, run_id=None: calls.note("params", params=params),
        log_metrics=lambda metrics, step=None, synchronous=None: calls.note("log", data=metrics, step=step),
        log_artifact=lambda local_path, artifact_path=None: calls.note("artifact", file=local_path, to=artifact_path),
        end_run=lambda status="FINISHED": calls.note("finish", status=status),
    )


FAKES = {"wandb": fake_wandb, "trackio": fake_trackio, "mlflow": fake_mlflow}


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Calls]:
    """The calls of each program."""
    calls = {name: Calls() for name in FAKES}
    for name, fake in FAKES.items():
        monkeypatch.setitem(sys.modules, name, fake(calls[name]))  # pyright: ignore[reportArgumentType]
    return calls


def test_everything_at_once_leaves_the_run_as_it_is(drawn_set: Path, tmp_path: Path, programs, capsys):
    plain = lifecycle.train(small(drawn_set, tmp_path / "plain", "byol"), "byol")
    every = {"linear_every": 2, "rankme_every": 1, "pictures_every": 2, "log": ("tensorboard", *FAKES)}
    run = lifecycle.train(small(drawn_set, tmp_path / "run", "byol", **every), "byol")
    assert same(final(run), final(plain))
    lines = metrics(run)
    assert [line for line in lines if "loss" in line] == metrics(plain)
    measured = [line for line in lines if "loss" not in line]
    assert [sorted(line) for line in measured] == [["epoch", "rankme", "step"], ["epoch", "linear", "rankme", "step"]]
    assert "RankMe" in capsys.readouterr().out
    pictures = [Image.open(io.BytesIO(file.read_bytes())) for file in sorted((run / "pictures").iterdir())]
    assert pictures[0].width > pictures[1].width, "Grad-CAM in two cells of 224 px, and two views of 32 px"
    whole = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = [(line["step"], {k: v for k, v in line.items() if k != "step"}) for line in whole]
    for name, calls in programs.items():
        logged = [(c["step"], c["data"]) for c in calls.named("log") if "views" not in c["data"]]
        assert [each for each in logged if "gradcam" not in each[1]] == expected, name
        assert len(calls.named("finish")) == 1
    shown = [c["data"] for c in programs["wandb"].named("log") if "views" in c["data"]]
    assert shown == [{"views": ("image", str(run / "pictures" / "0000008-views.png"))}]
    assert [Path(c["file"]).name for c in programs["mlflow"].named("artifact")] == [
        "0000008-views.png",
        "0000008-gradcam.png",
    ]
    assert programs["mlflow"].named("finish") == [{"status": "FINISHED"}]
    parameters = [c["params"] for c in programs["mlflow"].named("params")]
    assert max(map(len, parameters)) <= 100
    assert {k: v for part in parameters for k, v in part.items()}["optim.lr"] == small(drawn_set, run, "byol").optim.lr
    # The evaluation of the last checkpoint, with the same settings, gives the same accuracy.
    assert cli.main(["eval", "linear", str(run), "--cache", "--epochs", "30", "--device", "cpu"]) == 0
    result = json.loads((run / "results.jsonl").read_text())
    assert result["accuracy"] == pytest.approx(measured[-1]["linear"])


def test_a_resumed_run_continues_in_each_program(tmp_path: Path, drawn_set: Path, programs):
    run, config = RunDir(tmp_path), small(drawn_set, tmp_path, log=tuple(FAKES))
    for status in ("stopped", "done"):
        Trackers(run, config, 0).close(status)
    for name in ("wandb", "trackio"):
        first, second = programs[name].named("init")
        assert first == second
        assert first["resume"] == "allow"
    assert programs["mlflow"].named("init")[1] == {"id": "abc", "name": None}
    given = [key for c in programs["mlflow"].named("params") for key in c["params"]]
    assert len(given) == len(set(given)) > 100, "parameters are given once"
    assert [c["status"] for c in programs["mlflow"].named("finish")] == ["KILLED", "FINISHED"]


def test_a_program_that_fails_is_dropped_and_training_continues(tmp_path: Path, drawn_set: Path, programs):
    trackers = Trackers(RunDir(tmp_path), small(drawn_set, tmp_path, log=("wandb", "trackio")), 0)

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    sys.modules["trackio"].log = fail  # pyright: ignore[reportAttributeAccessIssue]
    (line,) = trackers.write(3, {"loss": 1.0})
    assert line == "trackio failed (no route to host) and gets no more metrics; metrics.jsonl has them all"
    assert trackers.write(6, {"loss": 1.0}) == []
    assert len(programs["wandb"].named("log")) == 2


@pytest.mark.parametrize("name", FAKES)
def test_a_missing_program_is_named_with_the_command_that_installs_it(
    name: str, drawn_set: Path, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, name, None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=f"--log {name} needs {name}, which is not installed: pip install {name}"):
        check_trackers(small(drawn_set, tmp_path, log=(name,)))


def test_a_program_that_cannot_start_is_an_error(drawn_set: Path, tmp_path: Path, programs):
    def fail(**_: Any) -> None:
        raise RuntimeError("api_key not configured.\nlogin first")

    sys.modules["wandb"].init = fail  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match=r"--log wandb could not start: api_key not configured\. Fix it, or omit it\."):
        Trackers(RunDir(tmp_path), small(drawn_set, tmp_path, log=("wandb",)), 0)


def test_rankme_is_the_entropy_of_the_singular_values():
    generator = np.random.default_rng(0)
    for shape in ((40, 6), (6, 40)):
        x = generator.normal(size=shape) @ np.diag(np.arange(1.0, shape[1] + 1))
        s = np.linalg.svd(x, compute_uv=False)
        p = s / s.sum() + 1e-7
        expected = np.exp(-sum(each * np.log(each) for each in p))
        assert online.rankme(torch.from_numpy(x).float()) == pytest.approx(expected, rel=1e-5)  # float32 input
    assert online.rankme(torch.eye(7)) == pytest.approx(7, rel=1e-4)  # eps
    assert online.rankme(torch.ones(9, 5)) == pytest.approx(1, rel=1e-4)


def test_rankme_takes_evenly_spaced_samples(monkeypatch):
    monkeypatch.setattr(online, "SAMPLES", 4)
    assert online._evenly(10).tolist() == [0, 2, 5, 7]
    assert online._evenly(3).tolist() == [0, 1, 2]


def test_what_a_set_lacks_is_named(drawn_set: Path):
    shards = ShardSet.open(drawn_set)
    alone = Part(shards, "train", torch.arange(8))
    alone.splits = {"train": 8, "test": 0}
    with pytest.raises(
        InputError, match=r"--linear-every needs a train and a test split; .* has train\. .*--test-fraction 0\.2"
    ):
        online.check(Machine(linear_every=1), alone)
    alone.splits, alone.classes = shards.splits, ("unlabelled",)
    with pytest.raises(InputError, match=r"--knn-every needs a set of two classes or more.*--rankme-every needs no"):
        online.check(Machine(knn_every=1), alone)
    online.check(Machine(rankme_every=1, pictures_every=1), alone)
