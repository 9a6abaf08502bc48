"""Training on a small drawn set: exact resumption, stop signals, precision, kNN during training."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainable import allow_half_precision, final, metrics, same, small, stop_at_step

from fgdata.errors import InputError
from fgtrain import cli
from fgtrain.engine import lifecycle, trainer
from fgtrain.engine.trainer import Trainer
from fgtrain.networks.encoder import Encoder
from fgtrain.objectives import bases
from fgtrain.runs.files import write_json
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Config
from fgtrain.settings.file import to_dict


@pytest.fixture(scope="module")
def undisturbed(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lifecycle.train(small(drawn_set, tmp_path_factory.mktemp("runs") / "whole"), "cvsa")


def test_a_run_leaves_its_files(undisturbed: Path, drawn_set: Path):
    lines = metrics(undisturbed)
    assert [line["step"] for line in lines] == [3, 6, 8]
    assert all({"loss", "contrast", "align", "align_saturated", "feature_std", "lr"} <= line.keys() for line in lines)
    facts = json.loads((undisturbed / "run.json").read_text())
    assert facts["status"] == "done"
    assert facts["step"] == 8
    assert facts["shards"]["path"] == str(drawn_set)
    assert {"argv", "commit", "versions", "device"} <= facts.keys()
    assert facts["machine"].keys() == {"cpu", "cores", "system"}, "and no host name"
    assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == ["0000004", "0000008", "last"]
    assert os.readlink(undisturbed / "checkpoints" / "last") == "0000008"
    assert not list(undisturbed.rglob("*.part"))
    assert "step 8/8" in (undisturbed / "log.txt").read_text()


def test_a_resumed_run_records_what_wrote_its_earlier_parts(undisturbed: Path, drawn_set: Path):
    before = json.loads((undisturbed / "run.json").read_text())
    lifecycle.train(small(drawn_set, undisturbed, resume=True), "cvsa")
    after = json.loads((undisturbed / "run.json").read_text())
    assert after["earlier"] == [{k: before[k] for k in ("argv", "commit", "versions", "device", "started", "step")}]
    assert {"python", "torch", "timm", "numpy"} <= after["versions"].keys()


METHODS = (
    *("moco", "simsiam", "byol", "simclr", "cvsa", "cvsa-moco", "synth-pair", "synth-pair-simsiam"),
    *("supervised", "rotation", "relative-location", "looc", "lcr", "lcr-byol", "sam", "lewel"),
    *("dino", "foreground", "foreground-saliencymix", "insloc", "moco-sinkhorn", "papn", "box-distill"),
)


def interrupted(config: Config, name: str, stop_at: int) -> Path:
    """A run that is stopped by a signal after a step and resumed to its end."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(patch, stop_at)
        run = lifecycle.train(config, name)
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    assert final(run)["step"] == stop_at
    return lifecycle.train(replace(config, machine=replace(config.machine, resume=True)), name)


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert metrics(ours) == metrics(theirs)
    a, b = final(ours), final(theirs)
    assert [k for k in b if not same(a[k], b[k])] == []


@pytest.mark.parametrize(("name", "stop_at"), [(name, 5) for name in METHODS] + [("cvsa", 1), ("moco", 4)])
def test_resumed_run_is_bitwise_the_undisturbed_one(
    name: str, stop_at: int, drawn_set: Path, undisturbed: Path, tmp_path: Path
):
    whole = undisturbed if name == "cvsa" else lifecycle.train(small(drawn_set, tmp_path / "whole", name), name)
    assert_same_run(interrupted(small(drawn_set, tmp_path / "parts", name), name, stop_at), whole)


@pytest.mark.parametrize("stop_at", [5, 4])
def test_the_hook_between_epochs_is_called_once_after_each_complete_epoch(
    stop_at: int, drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whether the run stops within an epoch or at its end; and before the checkpoint, which has what it changes."""
    calls: list[tuple[int, int]] = []

    def after_epoch(self, epoch, loader, say):
        calls.append((epoch, loader.state_dict()["batch"]))
        self.projector[0].bias.data.fill_(epoch)
        say(f"after epoch {epoch}")

    monkeypatch.setattr(bases.Byol, "after_epoch", after_epoch, raising=False)
    run = interrupted(small(drawn_set, tmp_path / "run", "byol"), "byol", stop_at)
    assert calls == [(1, 0), (2, 0)]
    assert (final(run)["objective"]["projector.0.bias"] == 2).all()
    assert (run / "log.txt").read_text().count("after epoch") == 2


def test_half_precision_on_a_cpu_is_refused_before_the_run_has_a_folder(drawn_set: Path, tmp_path: Path):
    config = replace(small(drawn_set, tmp_path / "run"), precision="fp16")
    with pytest.raises(InputError, match=r"--precision is fp16, but the device is cpu.*Use --precision fp32"):
        lifecycle.train(config, "cvsa")
    assert not (tmp_path / "run").exists()


def test_every_setting_of_the_engine_resumes_bitwise(drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Initial weights, frozen stages, a batch in parts, fp16 with its loss scale, and kNN after each epoch."""
    allow_half_precision(monkeypatch)
    torch.save(Encoder(small(drawn_set, tmp_path).model).state_dict(), tmp_path / "weights.pth")

    def run(out: str) -> Config:
        config = small(drawn_set, tmp_path / out, knn_every=1)
        config = replace(config, init=str(tmp_path / "weights.pth"), freeze_stages=1, precision="fp16")
        return replace(config, optim=replace(config.optim, accumulate=2))

    whole = lifecycle.train(run("whole"), "cvsa")
    assert final(whole)["scaler"]["scale"] > 0
    with pytest.MonkeyPatch.context() as patch:  # a resumed run needs no --init; its file may be gone
        stop_at_step(patch, 4)
        lifecycle.train(run("parts"), "cvsa")
    config = run("parts")
    (tmp_path / "weights.pth").unlink()
    parts = lifecycle.train(replace(config, machine=replace(config.machine, resume=True)), "cvsa")
    assert_same_run(parts, whole)
    assert [line["step"] for line in metrics(whole) if "knn" in line] == [4, 8]


def test_knn_during_training_does_not_change_the_run(drawn_set: Path, undisturbed: Path, tmp_path: Path):
    run = lifecycle.train(small(drawn_set, tmp_path / "run", knn_every=1), "cvsa")
    evaluations = [line for line in metrics(run) if "knn" in line]
    assert [line["epoch"] for line in evaluations] == [1, 2]
    assert all(0 <= line["knn"] <= 1 for line in evaluations)
    assert [line for line in metrics(run) if "loss" in line] == metrics(undisturbed)
    assert same(final(run), final(undisturbed))
    assert "kNN accuracy" in (run / "log.txt").read_text()


def test_a_compiled_encoder_trains_as_the_plain_one(drawn_set: Path, undisturbed: Path, tmp_path: Path, monkeypatch):
    """Captured by torch.compile, but run without its code generator, which takes a minute."""
    compiled = []
    original = Encoder.compile

    def compile_eager(self):
        compiled.append(self)
        original(self, backend="eager")

    monkeypatch.setattr(Encoder, "compile", compile_eager)
    monkeypatch.setenv("CXX", sys.executable)  # no compiler is called
    run = lifecycle.train(small(drawn_set, tmp_path / "run", compile=True), "cvsa")
    assert len(compiled) == 2  # online and target
    for ours, theirs in zip(metrics(run), metrics(undisturbed)):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_tensorboard_has_the_metrics(drawn_set: Path, tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = lifecycle.train(small(drawn_set, tmp_path / "run", tensorboard=True), "cvsa")
    events = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"])) for line in metrics(run)
    ]


def test_a_missing_tensorboard_is_named_before_the_run_has_a_folder(drawn_set: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        lifecycle.train(small(drawn_set, tmp_path / "run", tensorboard=True), "cvsa")
    assert not (tmp_path / "run").exists()


def test_a_run_prints_what_it_starts_from(drawn_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = small(drawn_set, tmp_path / "run")
    lifecycle.train(replace(config, epochs=1, freeze_stages=2, views=replace(config.views, matte=0.9)), "cvsa")
    printed = capsys.readouterr().out
    assert "--views.matte has no effect: only with --views.crop matte-paste" in printed
    assert "1 epoch of 4 steps" in printed
    assert re.search("frozen: the stem and 2 stages.*random weights.*--init", printed)


def test_a_killed_run_resumes_from_its_last_checkpoint(drawn_set: Path, undisturbed: Path, tmp_path: Path, monkeypatch):
    step = Trainer.train_step

    def step_and_kill(self, batch):
        step(self, batch)
        if self.step == 7:  # step 4 has a checkpoint, and the line of step 6 is written
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step_and_kill)
        with pytest.raises(KeyboardInterrupt):
            lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    run = tmp_path / "run"
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # an incomplete line, as left by a kill
    lifecycle.train(small(drawn_set, run, resume=True), "cvsa")
    assert metrics(run) == metrics(undisturbed)
    assert same(final(run)["objective"], final(undisturbed)["objective"])


@pytest.mark.slow
def test_sigterm_checkpoints_and_exits_with_0(drawn_set: Path, tmp_path: Path):
    flags = f"--data.shards {drawn_set} --data.batch-size 8 --data.detector gt --views.size 32 --model.width 8".split()
    flags += ["--byol.hidden", "16", "--align.hidden", "16", "--epochs", "2000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "fgtrain", "run", "cvsa", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        while not log.is_file() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0, printed
    assert "--resume" in printed
    assert final(tmp_path / "run")["step"] >= 10


def test_ctrl_c_checkpoints_and_exits_with_130(drawn_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    write_json(tmp_path / "config.json", to_dict(small(drawn_set, run)))
    command = ["run", "cvsa", "--config", str(tmp_path / "config.json"), "--out", str(run), "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(patch, 5, signal.SIGINT)
        assert cli.main(command) == 130
    printed = capsys.readouterr().out
    assert "step 5 of 8" in printed
    assert f"fgtrain run cvsa --out {run} --resume" in printed
    assert RunDir(run).facts["status"] == "stopped"
    assert final(run)["step"] == 5
    assert cli.main(["run", "cvsa", "--out", str(run), "--resume"]) == 0
    assert final(run)["step"] == 8


def test_an_error_while_training_is_recorded_until_the_run_is_resumed(
    drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(self, batch):
        raise RuntimeError("the cable is out\nsecond line")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", fail)
        with pytest.raises(RuntimeError, match="cable"):
            lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    facts, log = RunDir(tmp_path / "run").facts, (tmp_path / "run" / "log.txt").read_text()
    assert (facts["status"], facts["step"]) == ("failed", 0)
    assert facts["reason"] == "RuntimeError: the cable is out\nsecond line"
    assert "failed: RuntimeError: the cable is out" in log
    lifecycle.train(small(drawn_set, tmp_path / "run", resume=True), "cvsa")
    assert RunDir(tmp_path / "run").facts["reason"] is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_full_memory_is_an_error_that_says_what_to_do(
    drawn_set: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, device: str
):
    config = small(drawn_set, tmp_path / "run", "moco")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "check_memory", lambda *_: None)
        with pytest.raises(InputError, match="do not fit into the memory of cpu"):
            lifecycle.train(replace(config, moco=replace(config.moco, queue=1 << 40)), "moco")
    assert not (tmp_path / "run").exists()

    def run_out_of_memory(*_: object) -> None:
        if device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        torch.empty(1 << 52)

    monkeypatch.setattr(Encoder, "forward", run_out_of_memory)
    with pytest.raises(InputError, match=r"8 samples of 32 px.*memory of cpu[\s\S]*--optim\.accumulate 2"):
        lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    assert cli.main(["eval", "knn", str(undisturbed), "--device", "cpu", "--k", "5"]) == 2
    assert "Not enough memory" in capsys.readouterr().err


def test_a_checkpoint_is_written_before_an_evaluation(drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An evaluation may take minutes, and be killed or fail."""
    run, seen = tmp_path / "run", []

    def evaluate(self: Trainer, monitor: object) -> None:
        last = RunDir(run).last_checkpoint
        seen.append((self.step, int(last.name) if last else 0))

    monkeypatch.setattr(trainer.Trainer, "evaluate", evaluate)
    lifecycle.train(small(drawn_set, run), "cvsa")
    assert seen == [(0, 0), (4, 4), (8, 8)]
