"""How processes of a training join and leave: stray environment variables, and a process that is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from trainable import small

from fgdata.errors import InputError
from fgtrain import cli, parallel
from fgtrain.runs.files import write_json
from fgtrain.settings.file import to_dict

TORCHRUN = {
    **{"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"RANK": None, "LOCAL_RANK": None, "MASTER_ADDR": None, "MASTER_PORT": None}, "RANK is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2'"),
        ({"WORLD_SIZE": "1" * 5000}, "WORLD_SIZE"),
        ({"RANK": "2"}, "RANK is '2'"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is '99999'"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
    ],
)
def test_variables_that_torchrun_did_not_set_are_named(
    changes: dict[str, str | None], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    for name, value in {**TORCHRUN, **changes}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert cli.main(["run", "cvsa", "--device", "cpu", "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert named in message
    assert "env -u WORLD_SIZE" in message
    assert "torchrun --nproc-per-node" in message


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "1"}, {"RANK": "7"}, {"RANK": "3", "MASTER_PORT": "x"}])
def test_one_process_ignores_the_other_variables(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with parallel.group("cpu") as device:
        assert (device.type, parallel.rank(), parallel.world_size()) == ("cpu", 0, 1)


def test_a_port_in_use_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=f"127.0.0.1:{port}"), parallel.group("cpu"):
            pass


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_a_message(drawn_set: Path, tmp_path: Path):
    run = tmp_path / "run"
    write_json(tmp_path / "config.json", to_dict(replace(small(drawn_set, run, "byol"), epochs=2000)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "fgtrain", "run", "byol", "--config", str(tmp_path / "config.json")]
    processes = []
    for rank in ("0", "1"):
        environment = {**os.environ, **TORCHRUN, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen([*command, "--out", str(run)], env=environment, text=True, **pipes))
    first, second = processes
    while not (run / "metrics.jsonl").is_file() and first.poll() is None and second.poll() is None:
        time.sleep(0.1)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    _, message = first.communicate()
    assert first.returncode == 2, message
    assert "Another process of this run ended" in message
    assert "Traceback" not in message
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "failed"
    assert "Another process of this run ended" in facts["reason"]


@pytest.mark.slow
def test_torchrun_that_is_told_to_passes_sigusr1_on(drawn_set: Path, tmp_path: Path):
    """The command of docs/training.md for jobs that a scheduler warns by SIGUSR1. torchrun itself ends with 1."""
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    if "--signals-to-handle" not in subprocess.run([*launcher, "--help"], capture_output=True, text=True).stdout:
        pytest.skip("this torchrun has no --signals-to-handle")
    run = tmp_path / "run"
    write_json(tmp_path / "config.json", to_dict(replace(small(drawn_set, run, "byol"), epochs=2000)))
    launcher += ["--standalone", "--nproc-per-node", "2", "--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
    command = [*launcher, "-m", "fgtrain", "run", "byol", "--config", str(tmp_path / "config.json"), "--out", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (run / "metrics.jsonl").is_file() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    printed, _ = process.communicate()
    facts = json.loads((run / "run.json").read_text())
    assert (facts["status"], process.returncode) == ("stopped", 1), printed
    assert "--resume" in printed
