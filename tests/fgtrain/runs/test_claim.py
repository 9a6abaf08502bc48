"""Several processes, one run directory: exactly one of them trains in it."""

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from owner_files import from_afar, living

from fgdata.errors import InputError
from fgdata.files import lock, owners
from fgtrain.runs.rundir import OWNERS, RunDir
from fgtrain.settings.common import Config
from fgtrain.settings.recipes import RECIPES


def settings(out: Path, seed: int = 0, resume: bool = False) -> Config:
    config = RECIPES["byol"]()
    return replace(config, seed=seed, machine=replace(config.machine, out=out, resume=resume))


def claim_then_start(rank: int, out: Path, barrier: Any, results: Any) -> None:
    """Both claim the folder before it exists. Process 0 starts first and stays until process 1 has been refused."""
    try:
        with RunDir.claim(out, settings(out, seed=rank)) as run:
            barrier.wait()  # both have claimed
            if rank == 1:
                barrier.wait()  # process 0 has started
            run.start(settings(out, seed=rank))
            outcome = "started"
            if rank == 0:
                barrier.wait()
                barrier.wait()  # process 1 is done
    except InputError as error:
        outcome = str(error)
    if rank == 1:
        barrier.wait()
    results.put((rank, outcome))


def test_of_two_processes_with_one_new_folder_one_starts_and_the_other_is_refused(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    out, started, results = tmp_path / "run", context.Barrier(2), context.Queue()
    workers = [context.Process(target=claim_then_start, args=(rank, out, started, results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    outcomes = dict(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    assert outcomes[0] == "started"
    assert f"is training in {out}" in outcomes[1]
    assert "--out" in outcomes[1]
    assert json.loads((out / "config.json").read_text())["seed"] == 0


def test_a_run_that_ended_between_claim_and_start_is_not_overwritten(tmp_path: Path):
    out = tmp_path / "run"
    with RunDir.claim(out, settings(out)) as run:
        with RunDir.claim(out, settings(out, seed=1)) as other:
            other.start(settings(out, seed=1))
        with pytest.raises(InputError, match="contains a run"):
            run.start(settings(out))
    assert RunDir(out).config().seed == 1


def test_settings_are_compared_under_the_lock_also_when_resuming(tmp_path: Path):
    out = tmp_path / "run"
    with RunDir.claim(out, settings(out, resume=True)) as run:
        with RunDir.claim(out, settings(out, seed=1)) as other:
            other.start(settings(out, seed=1))
        with pytest.raises(InputError, match="seed: 1 -> 0"):
            run.start(settings(out, resume=True))


def test_a_run_that_fails_before_it_starts_leaves_no_folder(tmp_path: Path):
    with pytest.raises(RuntimeError), RunDir.claim(tmp_path / "a" / "run", settings(tmp_path)):
        raise RuntimeError
    assert not (tmp_path / "a").exists()


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose locks do not reach other machines, such as NFS; a dead process is noticed soon."""
    monkeypatch.setattr(lock, "_try_lock", lambda *_, **__: None)
    monkeypatch.setattr(owners, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(owners, "LEASE_SECONDS", 5.0)


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_in_which_another_machine_trains_is_refused(tmp_path: Path, resume: bool):
    out = tmp_path / "run"
    with RunDir.claim(out, settings(out)) as run:
        if resume:
            run.start(settings(out))
    out.mkdir(exist_ok=True)
    before = sorted(path for path in out.rglob("*"))
    with living(out / OWNERS) as path:
        refused = rf"^process 42 on node7 is training in {out}; it began about [0-9]+ s ago\. .*on node7: kill 42"
        with pytest.raises(InputError, match=refused), RunDir.claim(out, settings(out, resume=resume)):
            pass
        assert path.exists()
    path.unlink()
    path.parent.rmdir()
    assert sorted(path for path in out.rglob("*")) == before


@pytest.mark.usefixtures("far_away")
def test_a_folder_that_another_machine_takes_before_the_start_is_refused(tmp_path: Path):
    out = tmp_path / "run"
    with RunDir.claim(out, settings(out)) as run, living(out / OWNERS):
        with pytest.raises(InputError, match="^process 42 on node7 is training in"):
            run.start(settings(out))
        assert [path.name for path in out.iterdir()] == [OWNERS]


@pytest.mark.usefixtures("far_away")
def test_the_folder_of_a_dead_process_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(owners, "LEASE_SECONDS", 0.2)
    out = tmp_path / "run"
    with RunDir.claim(out, settings(out)) as run:
        run.start(settings(out))
        assert len(list((out / OWNERS).iterdir())) == 1
    assert not (out / OWNERS).exists()
    from_afar(out / OWNERS)
    with RunDir.claim(out, settings(out, resume=True)) as run:
        assert [path.name for path in (out / OWNERS).glob("node7*")] == []
    assert f"process 42 on node7 began to write to {out}. Waiting 0 s" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["config.json"]


@pytest.mark.usefixtures("far_away")
def test_settings_are_compared_again_after_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The other machine starts a run with other settings, and dies, while this one waits."""
    out, other = tmp_path / "run", tmp_path / "other"
    out.mkdir()
    with RunDir.claim(other, settings(out, seed=1)) as run:
        run.start(settings(out, seed=1))
    monkeypatch.setattr(
        owners, "find_live", lambda *_, **__: (other / "config.json").replace(out / "config.json") and None
    )
    with pytest.raises(InputError, match="seed: 1 -> 0"), RunDir.claim(out, settings(out, resume=True)):
        pass
    assert RunDir(out).config().seed == 1


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"epochs": 3}, "--epochs 3"),
        ({"sync_norm": False, "precision": "fp16"}, "--precision fp16 --no-sync-norm"),
        ({"data": replace(RECIPES["byol"]().data, backgrounds=(Path("a b"),))}, "--data.backgrounds 'a b'"),
    ],
)
def test_changed_settings_are_refused_with_both_commands(
    changes: dict, command: str, trained: bool, tmp_path: Path, monkeypatch
):
    checkpoints = property(lambda _: [tmp_path] if trained else [])
    monkeypatch.setattr(RunDir, "checkpoints", checkpoints)
    out = tmp_path / "my run"
    with RunDir.claim(out, settings(out)) as run:
        run.start(settings(out))
        run.note(name="byol-cub-r18")
    with pytest.raises(InputError) as error, RunDir.claim(out, replace(settings(out, resume=True), **changes)):
        pass
    message = str(error.value)
    assert f"fgtrain run byol-cub-r18 --out '{out}' --resume" in message
    start = f" {'--extend' if 'epochs' in changes else '--init'} '{out}'"  # what takes the other settings
    start = start if trained else ""
    assert f"fgtrain run byol-cub-r18 --config '{out}' {command}{start} --out '{out}-2'" in message
    assert ("It has no checkpoint yet." in message) == (not trained)
    assert ("scheduled over all epochs" in message) == ("epochs" in changes and trained)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes only there")
def test_a_folder_whose_name_is_not_utf8(tmp_path: Path):
    out = tmp_path / os.fsdecode(b"run-\xff")
    try:
        out.mkdir()
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    with RunDir.claim(out, settings(out)) as run:
        run.start(settings(out))
        run.note(status="running", reason=str(out))
        run.log(f"trained in {out}")
    assert RunDir(out).config().machine.out == out
    assert RunDir(out).facts["reason"] == str(out)
    assert "trained in" in (out / "log.txt").read_text("utf-8")
