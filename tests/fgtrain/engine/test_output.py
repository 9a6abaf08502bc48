"""Nothing of a training is lost when its output cannot be written; and rates count training only."""

import json
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from trainable import final, small, stop_at_step

from fgtrain import cli
from fgtrain.engine import lifecycle, monitor
from fgtrain.runs.files import write_json
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.file import to_dict


def words(drawn_set: Path, run: Path) -> list[str]:
    write_json(run.parent / "config.json", to_dict(small(drawn_set, run)))
    return ["run", "cvsa", "--config", str(run.parent / "config.json"), "--out", str(run)]


@pytest.mark.slow
def test_training_continues_when_the_reader_of_its_output_is_gone(drawn_set: Path, tmp_path: Path):
    """As with `| head -n 1`: the reader leaves after the first line."""
    run = tmp_path / "run"
    with (tmp_path / "errors.txt").open("w+") as errors:
        command = [sys.executable, "-m", "fgtrain", *words(drawn_set, run)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() == 0
        assert (tmp_path / "errors.txt").read_text() == ""
    facts, log = json.loads((run / "run.json").read_text()), (run / "log.txt").read_text()
    assert (facts["status"], facts["step"], final(run)["step"]) == ("done", 8, 8)
    assert "step 8/8" in log
    assert "fgtrain eval knn" in log


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_training_continues_when_its_output_has_no_space(drawn_set: Path, tmp_path: Path):
    with open("/dev/full", "w") as full, redirect_stdout(full):
        assert cli.main(words(drawn_set, tmp_path / "run")) == 0
    assert final(tmp_path / "run")["step"] == 8


@pytest.mark.parametrize(
    ("handler", "end"),
    [(signal.SIG_DFL, ("stopped", 3)), (signal.SIG_IGN, ("done", 8))],  # ignored: under nohup
)
def test_a_closed_terminal_stops_a_run_with_a_checkpoint_unless_under_nohup(
    drawn_set: Path, tmp_path: Path, handler: signal.Handlers, end: tuple[str, int]
):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            stop_at_step(patch, 3, signal.SIGHUP)
            run = lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (RunDir(run).facts["status"], final(run)["step"]) == end


def test_rates_leave_out_evaluations_and_checkpoints(monkeypatch: pytest.MonkeyPatch):
    clock = [100.0]
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: clock[0])
    cpu = torch.device("cpu")
    watched = monitor.Monitor(None, 0, 10, 5)
    with watched.waiting(cpu):
        clock[0] += 1  # seconds
    watched.step(1, 40)
    clock[0] += 3
    with watched.paused(cpu):
        clock[0] += 500
    assert watched.rates() == {"images_per_second": 10, "data_wait": 0.25}
    with watched.paused(cpu):
        clock[0] += 500
    clock[0] += 2
    watched.step(2, 40)
    assert watched.rates() == {"images_per_second": 20, "data_wait": 0}
