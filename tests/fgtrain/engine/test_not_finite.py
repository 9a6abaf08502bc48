"""Losses and weights that are not finite: steps are left out, and a run that goes on so is stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainable import allow_half_precision, final, metrics, same, small, stop_at_step

from fgdata.errors import InputError
from fgtrain.engine import left_out, lifecycle
from fgtrain.engine.trainer import Trainer
from fgtrain.runs.rundir import RunDir


def nan_at(patch: pytest.MonkeyPatch, *steps: int) -> None:
    """Runs have views that are NaN in these steps, from 1 on."""
    step = Trainer.train_step

    def with_nan(self, batch):
        if self.step + 1 in steps:
            batch = {**batch, "views": batch["views"] * float("nan")}
        step(self, batch)

    patch.setattr(Trainer, "train_step", with_nan)


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_a_step_whose_loss_is_not_finite_is_left_out_and_the_run_resumes_bitwise(
    name: str, drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with monkeypatch.context() as patch:
        nan_at(patch, 4, 6)
        whole = lifecycle.train(small(drawn_set, tmp_path / "whole", name), name)
        assert "The loss became nan at step 4, which has no update" in capsys.readouterr().out
        lines = metrics(whole)
        assert [line["step"] for line in lines] == [3, 6, 8]
        assert all(value == value for line in lines for value in line.values())  # none is NaN
        assert "samples of step 4: " in (whole / "log.txt").read_text()
        state = final(whole)
        assert state["left_out"] == [4, 6]
        stop_at_step(patch, 5)
        lifecycle.train(small(drawn_set, tmp_path / "run", name), name)
        lifecycle.train(small(drawn_set, tmp_path / "run", name, resume=True), name)
    assert same(final(tmp_path / "run"), state)
    assert metrics(tmp_path / "run") == lines


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_step_in_half_precision_is_left_out_too(clip: float, drawn_set: Path, tmp_path: Path, monkeypatch):
    nan_at(monkeypatch, 4, 5)
    allow_half_precision(monkeypatch)
    config = small(drawn_set, tmp_path / "run", "byol")
    config = replace(config, precision="fp16", optim=replace(config.optim, clip=clip))
    state = final(lifecycle.train(config, "byol"))
    assert (state["step"], state["left_out"]) == (8, [4, 5])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples(
    drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first two are left out."""
    nan_at(monkeypatch, 1, 3, 5)
    monkeypatch.setattr(left_out, "MOST_NAMED", 3)
    expected = r"After 2 steps without an update \(1, 3\), the loss became nan at step 5 \(epoch 2\)"
    with pytest.raises(InputError, match=rf"{expected}[\s\S]*checkpoint: 0000004[\s\S]*Samples") as error:
        lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    message, log = str(error.value), (tmp_path / "run" / "log.txt").read_text()
    assert message.endswith(f" and 5 more, all in {tmp_path / 'run' / 'log.txt'}")
    assert f"failed: {message.splitlines()[0]}" in log
    samples = next(line for line in log.splitlines() if "samples of step 5: " in line)
    assert len(samples.split("step 5: ")[1].split(", ")) == 8
    facts = RunDir(tmp_path / "run").facts
    assert (facts["status"], facts["step"], facts["reason"]) == ("failed", 5, message)
    assert all(torch.isfinite(v).all() for v in final(tmp_path / "run")["objective"].values() if v.is_floating_point())


def test_weights_that_are_not_finite_are_not_saved(drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The gradient of a finite loss may be infinite. The loss is computed before the update, so it does not show it."""
    step = Trainer.train_step

    def step_to_infinity(self, batch):
        step(self, batch)
        if self.step == 8:
            self.objective.encoder.network.conv1.weight.data[0, 0, 0, 0] = float("inf")

    monkeypatch.setattr(Trainer, "train_step", step_to_infinity)
    with pytest.raises(InputError, match=r"weights became NaN or infinite at step 8 \(epoch 2\).*checkpoint: 0000004"):
        lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    assert final(tmp_path / "run")["step"] == 4
    monkeypatch.setattr(Trainer, "train_step", step)
    lifecycle.train(small(drawn_set, tmp_path / "run", resume=True), "cvsa")
