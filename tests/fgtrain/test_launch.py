"""How processes of a training join and leave: stray environment variables, kills, and the signals of schedulers."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from paths import ROOT
from trainable import assert_same_training, final, joined, small, without_batch_statistics

from fgdata.errors import InputError
from fgtrain import cli, parallel
from fgtrain.engine import lifecycle
from fgtrain.runs.files import write_json
from fgtrain.settings.common import Config
from fgtrain.settings.file import to_dict

VARIABLES = {
    **{"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


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
    for name, value in {**VARIABLES, **changes}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert cli.main(["run", "cvsa", "--device", "cpu", "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert named in message
    assert "env -u WORLD_SIZE" in message
    assert "torchrun --nproc-per-node" in message


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "1"}, {"RANK": "7"}, {"RANK": "3", "MASTER_PORT": "x"}])
def test_one_process_ignores_the_other_variables(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for name in VARIABLES:
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
        for name, value in {**VARIABLES, "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=f"127.0.0.1:{port}"), parallel.group("cpu"):
            pass


@pytest.mark.parametrize("gpu", [False, True])
def test_nccl_gives_up_early_and_python_values_are_patient(gpu: bool, monkeypatch: pytest.MonkeyPatch):
    joined, sent = {}, []
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "_own_device", lambda _: torch.device("cuda", 1) if gpu else torch.device("cpu"))
    monkeypatch.setattr(parallel, "rendezvous", lambda *_, **__: iter([(None, 1, 2)]))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **more: joined.update({backend: more["timeout"]}))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: (backend, timeout))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "all_gather_object", lambda values, value, group: sent.append(group))
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op, group: sent.append(group))
    with parallel.group("auto"):
        monkeypatch.setattr(parallel, "world_size", lambda: 2)
        parallel.collect("value")
        parallel.any_of(True)
    days, minutes = timedelta(days=2), timedelta(minutes=10)
    assert joined == ({"cpu:gloo,cuda:nccl": minutes} if gpu else {"gloo": days})
    assert sent == [("gloo", days) if gpu else None] * 2


KILL_LAST = """
import os, signal
from pathlib import Path
import pytest
from trainable import without_batch_statistics
from fgtrain.engine.trainer import Trainer

RECIPES, step = {}, Trainer.train_step
without_batch_statistics(pytest.MonkeyPatch())

def step_and_note(self, batch):
    step(self, batch)
    rank = os.environ["RANK"]
    with (Path(__file__).parent / f"rank{rank}").open("a") as file:
        print(*batch["index"].tolist(), file=file)
    if self.step == 10 and rank == "3":
        os.kill(os.getpid(), signal.SIGKILL)

Trainer.train_step = step_and_note
"""
SAVE_SLOWLY = """
import time
from fgtrain.runs.rundir import RunDir

RECIPES, save = {}, RunDir.save_checkpoint

def wait_and_save(self, step, *words):
    time.sleep(3)
    save(self, step, *words)

RunDir.save_checkpoint = wait_and_save
"""


def words(config: Config, name: str, plugin: str = "") -> list[str]:
    """The words of `fgtrain run` with these settings, and with a plug-in of that text."""
    assert config.machine.out is not None
    folder = config.machine.out.parent
    write_json(folder / "config.json", to_dict(config))
    (folder / "behaviour.py").write_text(plugin)
    more = ["--plugin", str(folder / "behaviour.py")] if plugin else []
    return ["run", name, "--config", str(folder / "config.json"), "--out", str(config.machine.out), *more]


def start(*command: str, **environment: str) -> subprocess.Popen:
    """Starts a command whose Python finds the project and the helpers of the tests."""
    environment = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env={**os.environ, **environment}, **pipes)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.is_file() and process.poll() is None:
        time.sleep(0.1)


@pytest.mark.slow
def test_four_processes_train_as_one_until_one_is_killed_and_one_process_ends_the_run(
    drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The fourth is killed at step 10, after the checkpoint of step 8."""
    config = replace(joined(drawn_set, tmp_path / "run", "moco"), epochs=3)
    config = replace(config, machine=replace(config.machine, log_every=4))  # no line mixes both parts of the run
    process = start(*TORCHRUN, "4", "-m", "fgtrain", *words(config, "moco", KILL_LAST))
    printed, _ = process.communicate()
    assert process.returncode == 1, printed
    assert parallel.LOST_PROCESS in printed
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["status"], facts["reason"]) == ("failed", parallel.LOST_PROCESS)
    seen = [(tmp_path / f"rank{rank}").read_text().splitlines() for rank in range(4)]
    for steps in (slice(0, 4), slice(4, 8)):
        numbers = [int(number) for lines in seen for line in lines[steps] for number in line.split()]
        assert sorted(numbers) == list(range(32))
        assert {len(line.split()) for lines in seen for line in lines[steps]} == {2}
    assert final(tmp_path / "run")["step"] == 8
    without_batch_statistics(monkeypatch)
    lifecycle.train(replace(config, machine=replace(config.machine, resume=True)), "moco")
    lifecycle.train(replace(config, machine=replace(config.machine, out=tmp_path / "one")), "moco")
    assert_same_training(tmp_path / "run", tmp_path / "one")


@pytest.mark.slow
def test_processes_whose_launcher_is_gone_stop_with_a_checkpoint(drawn_set: Path, tmp_path: Path):
    """SIGUSR1 ends torchrun itself unless it is told to pass it on; its processes must not train on without it."""
    config = replace(small(drawn_set, tmp_path / "run", "byol"), epochs=2000)
    process = start(*TORCHRUN, "2", "-m", "fgtrain", *words(config, "byol"))
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    process.send_signal(signal.SIGUSR1)
    printed, _ = process.communicate()  # ends when the last process closes the pipe
    assert process.returncode == -signal.SIGUSR1
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["status"], facts["step"]) == ("stopped", final(tmp_path / "run")["step"]), printed


@pytest.fixture
def slurm(drawn_set: Path, tmp_path: Path) -> list[str]:
    """The command of docs/cluster.md's script, for a small run of two processes; srun, torchrun and scontrol are short
    scripts: srun notes the process group of the job's step, scontrol its words."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    script = page[page.index("## Train under Slurm") :].partition("```bash\n")[2].partition("```")[0]
    run = replace(small(drawn_set, tmp_path / "run", "byol"), epochs=100_000, sync_norm=True)
    run = replace(run, machine=replace(run.machine, checkpoint_every=100_000))
    ours = shlex.join(words(run, "byol", SAVE_SLOWLY))
    for theirs, mine in {
        "run=/shared/runs/cvsa": f"run={tmp_path / 'run'}",
        "--nproc-per-node 8": "--nproc-per-node 2",
        "run cvsa --data.shards /shared/imagenet --out $run": ours,
    }.items():
        assert theirs in script
        script = script.replace(theirs, mine)
    (tmp_path / "script.sh").write_text(script)
    (tmp_path / "bin").mkdir()
    for name, text in {
        "srun": f'echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/step; exec setsid $FAIL "$@"',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "scontrol": f'echo "$@" > {tmp_path}/scontrol',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"PATH={tmp_path / 'bin'}:{os.environ['PATH']}"
    return ["env", path, "SLURM_JOB_ID=17", "bash", str(tmp_path / "script.sh")]


@pytest.mark.slow
def test_the_slurm_script_of_the_docs_requeues_a_stopped_run_and_no_failed_one(slurm: list[str], tmp_path: Path):
    """Slurm signals all processes of the step, so the workers get SIGUSR1 twice, once of it from torchrun. Their
    checkpoint takes longer than the 1 s that torchrun would wait here without the script's --shutdown-timeout."""
    job = start(*slurm, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="1")
    wait_for(tmp_path / "run" / "metrics.jsonl", job)
    os.killpg(int((tmp_path / "step").read_text()), signal.SIGUSR1)
    printed, _ = job.communicate()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["status"], facts["processes"], facts["nodes"]) == ("stopped", 2, 1)
    assert facts["step"] == final(tmp_path / "run")["step"]
    assert ((tmp_path / "scontrol").read_text(), job.returncode) == ("requeue 17\n", 0)
    assert printed.count("cpu x 2 processes") == 1
    assert "batch norm: separate statistics" in printed
    assert f"torchrun --nproc-per-node 2 -m fgtrain run byol --out {tmp_path / 'run'} --resume" in printed
    (tmp_path / "scontrol").unlink()
    write_json(tmp_path / "run" / "run.json", facts | {"status": "failed"})
    failed = start(*slurm, FAIL="false")
    failed.communicate()
    assert failed.returncode == 1
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.parametrize(("world", "local", "nodes"), [(1, "4", 1), (8, "8", 1), (8, "4", 2), (16, "4", 4)])
def test_the_nodes_of_a_run_are_counted(world: int, local: str, nodes: int, monkeypatch: pytest.MonkeyPatch):
    """As torchrun states them. A run of one process may have variables that another launcher left."""
    monkeypatch.setattr(parallel, "world_size", lambda: world)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert parallel.nodes() == nodes
