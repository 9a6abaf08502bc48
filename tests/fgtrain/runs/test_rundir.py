"""Run directories: who may use one, full disks, damaged files."""

import json
import os
import re
import resource
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainable import final, metrics, small, stop_at_step

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import cli
from fgtrain.engine import checkpointing, lifecycle
from fgtrain.engine.trainer import Trainer
from fgtrain.runs import files
from fgtrain.runs.files import append, write_json
from fgtrain.runs.rundir import RunDir
from fgtrain.runs.state import load_state
from fgtrain.settings import file, recipes
from fgtrain.settings.common import Data


@pytest.fixture(scope="module")
def undisturbed(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lifecycle.train(small(drawn_set, tmp_path_factory.mktemp("runs") / "whole"), "cvsa")


def test_a_folder_that_is_not_empty_is_refused(undisturbed: Path, drawn_set: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"contains a run.*--resume.*--out"):
        lifecycle.train(small(drawn_set, undisturbed), "cvsa")
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match=r"no config\.json"):
        lifecycle.train(small(drawn_set, tmp_path, resume=True), "cvsa")
    with pytest.raises(InputError, match="is a file"):
        lifecycle.train(small(drawn_set, tmp_path / "letter.txt"), "cvsa")


def test_a_run_without_its_settings_is_named_as_such(undisturbed: Path, drawn_set: Path, tmp_path: Path):
    shutil.copytree(undisturbed, tmp_path / "my run", symlinks=True)
    (tmp_path / "my run/config.json").unlink()
    with pytest.raises(InputError, match=r"whose config\.json is missing.*Restore.*rm -r '\S+ run' removes the run"):
        lifecycle.train(small(drawn_set, tmp_path / "my run", resume=True), "cvsa")
    assert sorted(p.name for p in (tmp_path / "my run").rglob("*")) == sorted(
        p.name for p in undisturbed.rglob("*") if p.name != "config.json"
    )


def test_resume_with_changed_settings_says_which(undisturbed: Path, drawn_set: Path):
    changed = replace(small(drawn_set, undisturbed, resume=True), epochs=3, seed=1)
    with pytest.raises(InputError, match=r"epochs: 2 -> 3\n\s*seed: 0 -> 1"):
        lifecycle.train(changed, "cvsa")


@pytest.mark.parametrize(
    ("change", "start"),
    [({"epochs": 99}, "--extend"), ({"seed": 9}, "--extend"), ({"views": ViewSpec(size=48)}, "--init")],
)
def test_resume_with_changed_settings_suggests_what_they_allow(change, start, undisturbed: Path, drawn_set: Path):
    with pytest.raises(InputError, match=rf"fgtrain run \S+ --config .* {start} \S+ --out") as refused:
        lifecycle.train(replace(small(drawn_set, undisturbed, resume=True), **change), "cvsa")
    assert ("--extend" in str(refused.value)) == (start == "--extend")


def test_resume_on_another_shard_set_is_refused(undisturbed: Path, drawn_set: Path):
    run = RunDir(undisturbed)
    facts = run.facts
    run.note(shards={"path": "elsewhere", "digest": "0" * 64})
    try:
        with pytest.raises(InputError, match="digest 000000000000"):
            lifecycle.train(small(drawn_set, undisturbed, resume=True), "cvsa")
    finally:
        run.note(**facts)


@contextmanager
def full_disk(limit: int):
    """No file of this process can grow beyond `limit` bytes: larger writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [100, 50_000])  # within encoder.safetensors, and within state.pt
def test_a_full_disk_leaves_the_previous_checkpoint_complete(limit: int, tmp_path: Path):
    run, layer = RunDir(tmp_path), torch.nn.Linear(20, 20)
    run.save_checkpoint(1, layer, {}, {"step": 1}, keep=2)
    large = {"step": 2, "much": torch.rand(100, 1000)}
    with full_disk(limit), pytest.raises(InputError, match=r"step 2 could not be[\s\S]*too large[\s\S]*0000001"):
        run.save_checkpoint(2, layer, {}, large, keep=2)
    assert final(tmp_path)["step"] == 1
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["0000001", "last"]


def test_checkpoints_are_in_the_order_of_their_steps_beyond_seven_digits(tmp_path: Path):
    run, layer = RunDir(tmp_path), torch.nn.Linear(2, 2)
    for step in (9_990_000, 10_000_000, 10_010_000):
        run.save_checkpoint(step, layer, {}, {"step": step}, keep=2)
    assert [path.name for path in run.checkpoints] == ["10000000", "10010000"]
    assert run.last_checkpoint == (tmp_path / "checkpoints" / "10010000").resolve()


def test_files_left_by_a_kill_while_saving_are_removed(tmp_path: Path):
    run, layer = RunDir(tmp_path), torch.nn.Linear(2, 2)
    run.save_checkpoint(1, layer, {}, {"step": 1}, keep=2)
    (tmp_path / "checkpoints" / "last.part").symlink_to("0000001")  # killed between two renames
    (tmp_path / "checkpoints" / "0000002.part").mkdir()
    for step in (2, 3, 4):
        run.save_checkpoint(step, layer, {}, {"step": step}, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["0000003", "0000004", "last"]


def test_a_full_disk_leaves_no_incomplete_line_and_no_part_file(tmp_path: Path):
    append(tmp_path / "metrics.jsonl", "a" * 50)
    write_json(tmp_path / "run.json", {"status": "running"})
    with full_disk(100):
        with pytest.raises(InputError, match="metrics.jsonl could not be written: File too large"):
            append(tmp_path / "metrics.jsonl", "b" * 70)
        with pytest.raises(InputError, match="run.json could not be written"):
            write_json(tmp_path / "run.json", {"status": "x" * 200})
    assert (tmp_path / "metrics.jsonl").read_text() == "a" * 50 + "\n"
    assert json.loads((tmp_path / "run.json").read_text()) == {"status": "running"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "run.json"]


def test_a_line_after_an_incomplete_line_starts_on_its_own(tmp_path: Path):
    file = tmp_path / "results.jsonl"
    append(file, "one")
    file.write_text(file.read_text() + '{"half')
    append(file, "two")
    append(file, "three")
    assert file.read_text() == 'one\n{"half\ntwo\nthree\n'


def test_a_full_disk_while_training_and_exporting(undisturbed: Path, drawn_set: Path, tmp_path: Path, capsys):
    with full_disk(20_000), pytest.raises(InputError, match="step 4 could not be written"):
        lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    assert RunDir(tmp_path / "run").facts["status"] == "failed"
    assert not list(tmp_path.rglob("*.part"))
    resumed = lifecycle.train(small(drawn_set, tmp_path / "run", resume=True), "cvsa")
    assert metrics(resumed) == metrics(undisturbed)
    with full_disk(20_000):
        assert cli.main(["export", str(undisturbed), str(tmp_path / "encoder.safetensors")]) == 2
    assert f"{tmp_path / 'encoder.safetensors'} could not be written" in capsys.readouterr().err
    assert not list(tmp_path.glob("encoder*"))
    assert cli.main(["export", str(undisturbed), str(tmp_path / "a file.safetensors" / "e.safetensors")]) == 0
    assert cli.main(["export", str(undisturbed), str(undisturbed / "run.json" / "e.safetensors")]) == 2


def test_two_runs_in_one_folder_are_refused(drawn_set: Path, tmp_path: Path):
    """The second starts while the first is in its first step."""
    errors, step = [], Trainer.train_step

    def start_another(self, batch):
        for resume in (False, True):
            if not errors[1:]:
                with pytest.raises(InputError) as error:
                    lifecycle.train(small(drawn_set, tmp_path / "run", resume=resume), "cvsa")
                errors.append(str(error.value))
        step(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", start_another)
        lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    assert all(f"(process {os.getpid()}) is training in {tmp_path / 'run'}" in message for message in errors)
    assert len(errors) == 2
    with pytest.raises(InputError, match="--resume"):  # the lock ends with the run
        lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "missing", "text"])
def test_a_damaged_checkpoint_is_named_with_the_others(damage: str, drawn_set: Path, undisturbed: Path, tmp_path: Path):
    run = tmp_path / "a run"
    lifecycle.train(small(drawn_set, run), "cvsa")
    file = run / "checkpoints" / "0000008" / "state.pt"
    whole = file.read_bytes()
    middle = whole.index(bytes(final(run)["objective"]["base.projector.0.weight"].numpy().data)) + 7
    bit = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]  # torch reads it as another weight
    content = {"cut": whole[:3000], "bit": bit, "empty": b"", "text": b"no checkpoint"}
    file.unlink() if damage == "missing" else file.write_bytes(content[damage])
    with pytest.raises(InputError) as error:
        lifecycle.train(small(drawn_set, run, resume=True), "cvsa")
    reason = {
        "cut": "damaged",
        "bit": "damaged",
        "empty": "empty",
        "text": "not written by torch",
        "missing": "missing",
    }
    assert re.search(f"{re.escape(str(file))} cannot be read.*{reason[damage]}.*0000004", str(error.value))
    command = str(error.value).splitlines()[-1].strip()
    assert command == f"rm -r '{file.parent}'"
    subprocess.run(command, shell=True, check=True)
    lifecycle.train(small(drawn_set, run, resume=True), "cvsa")
    assert metrics(run) == metrics(undisturbed)
    for folder in (run / "checkpoints").glob("0*"):
        (folder / "state.pt").write_bytes(b"")
    with pytest.raises(InputError, match="Other checkpoints.*0000004"):
        load_state(RunDir(run).last_checkpoint or run)


def test_state_of_another_version_is_refused(drawn_set: Path, tmp_path: Path):
    lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    last = RunDir(tmp_path / "run").last_checkpoint
    assert last is not None
    state = load_state(last)
    for change in ({"objective": {}}, {"ranks": None}):
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, last / "state.pt")
        with pytest.raises(InputError, match=r"does not fit this fgtrain[\s\S]*run\.json"):
            lifecycle.train(small(drawn_set, tmp_path / "run", resume=True), "cvsa")


def test_a_run_that_failed_before_its_first_checkpoint_may_be_removed(
    undisturbed: Path, drawn_set: Path, tmp_path: Path
):
    shutil.copytree(undisturbed, tmp_path / "a run", symlinks=True)
    shutil.rmtree(tmp_path / "a run" / "checkpoints")
    RunDir(tmp_path / "a run").note(status="failed", checkpoint=None)
    for resume in (False, True):
        with pytest.raises(InputError, match=rf"nothing is lost by rm -r '{tmp_path / 'a run'}'\.$"):
            lifecycle.train(replace(small(drawn_set, tmp_path / "a run", resume=resume), epochs=3), "cvsa")


def test_resume_without_the_checkpoints_it_once_had_is_refused(undisturbed: Path, drawn_set: Path):
    folder, aside = undisturbed / "checkpoints", undisturbed / "aside"
    folder.rename(aside)
    try:
        with pytest.raises(InputError, match=r"saved a checkpoint at step 8[\s\S]*--out"):
            lifecycle.train(small(drawn_set, undisturbed, resume=True), "cvsa")
    finally:
        aside.rename(folder)


def test_resume_of_another_recipe_names_the_one_that_was_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = RunDir(tmp_path / "my run")
    write_json(run.config_path, file.to_dict(recipes.cvsa_moco()))
    for recorded in ({"name": "cvsa-moco"}, {"name": "my own name"}, {}):
        write_json(run.path / "run.json", recorded)
        right = "cvsa-moco" if recorded.get("name") == "cvsa-moco" else "cvsa"
        for typed in ("moco", "cvsa-cub-r18", "cvsa"):
            if typed != right:
                assert cli.main(["run", typed, "--out", str(run.path), "--resume"]) == 2
                assert f"fgtrain run {right} --out '{run.path}' --resume" in capsys.readouterr().err


def test_resume_in_an_empty_folder_says_that_a_new_run_starts(drawn_set: Path, tmp_path: Path, capsys):
    config = small(drawn_set, tmp_path / "run", resume=True)
    lifecycle.train(replace(config, epochs=1), "cvsa")
    assert f"{tmp_path / 'run'}: starting a new run" in capsys.readouterr().out
    unusable = replace(small(drawn_set, tmp_path / "no", resume=True), data=Data(shards=drawn_set, batch_size=10**6))
    with pytest.raises(InputError, match=r"nothing to resume in .*no: starting a new run. --data.batch-size is"):
        lifecycle.train(unusable, "cvsa")


def test_a_run_that_ended_before_its_first_checkpoint_says_that_it_starts_again(
    drawn_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = small(drawn_set, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "save", lambda trainer: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lifecycle.train(config, "cvsa")
    capsys.readouterr()
    lifecycle.train(replace(config, machine=replace(config.machine, resume=True)), "cvsa")
    assert "before its first checkpoint: starting again" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["/proc/run", "letter.txt/run", "letter.txt"])
def test_an_out_that_cannot_be_a_folder_is_refused_before_anything_is_written(
    out: str, drawn_set: Path, tmp_path: Path
):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="--out"):
        lifecycle.train(small(drawn_set, tmp_path / out), "cvsa")
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_printed_commands_are_quoted(drawn_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    run = tmp_path / "my run"
    stop_at_step(monkeypatch, 2)
    lifecycle.train(small(drawn_set, run), "cvsa")
    assert f"fgtrain run cvsa --out '{run}' --resume" in capsys.readouterr().out
    monkeypatch.undo()
    lifecycle.train(small(drawn_set, run, resume=True), "cvsa")
    assert f"fgtrain eval knn '{run}' --untrained" in capsys.readouterr().out


def test_flags_override_config_and_resume_uses_the_settings_of_the_run(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = []
    monkeypatch.setattr(lifecycle, "train", lambda config, name, signals: calls.append((config, name)))
    source = str(undisturbed / "config.json")
    assert cli.main(["run", "cvsa", "--config", source, "--epochs", "5", "--align.weight", "0.5"]) == 0
    config, name = calls.pop()
    assert (name, config.epochs, config.align.weight, config.views.size) == ("cvsa", 5, 0.5, 32)
    assert config.machine.out is None
    assert not config.machine.resume
    assert cli.main(["run", "cvsa", "--out", str(undisturbed), "--resume"]) == 0
    config, _ = calls.pop()
    assert config.machine.resume
    assert file.differences(file.relevant(RunDir(undisturbed).config()), file.relevant(config)) == {}


def test_command_line_errors_are_one_message(
    drawn_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    monkeypatch.chdir(tmp_path)

    def fails(line: str) -> str:
        assert cli.main(line.split()) == 2
        return capsys.readouterr().err

    assert f"{tmp_path / 'shards'}" in (message := fails("run cvsa"))
    assert "fgdata build-shards" in message
    assert "does not exist" in fails("eval knn nowhere")
    assert "does not exist" in fails("run cvsa --config nowhere.json")
    assert "no shard set at nowhere" in fails("run cvsa --data.shards nowhere")
    assert "--device cuda:99" in fails(f"run cvsa --device cuda:99 --data.shards {drawn_set}")
    narrow = f"--device cpu --model.width 8 --data.shards {drawn_set}"
    assert "has no boxes by 'rbd'" in fails(f"run cvsa --data.detector rbd --data.batch-size 8 {narrow}")
    message = fails(f"run cvsa --out other {narrow}")
    assert "--data.batch-size is 256" in message
    assert "has 32 images; allowed: 2 to 32." in message
    assert not (tmp_path / "other").exists()  # so that the corrected command can use it
    (tmp_path / "config.json").write_text(json.dumps(file.to_dict(recipes.byol())))
    assert "fgtrain run byol --config" in fails("run cvsa --config config.json")


def test_without_permission_for_links_a_run_keeps_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on Windows outside developer mode; elsewhere the error is reported."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(22, "a required privilege is not held")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(OSError, match="privilege"):
        files.create_link(tmp_path / "last.part", "0000001")
    monkeypatch.setattr(files.sys, "platform", "win32")
    assert files.create_link(tmp_path / "last.part", "0000001") is False
    assert list(tmp_path.iterdir()) == []


def test_a_new_checkpoint_stays_also_if_later_ones_remain(tmp_path: Path):
    """`last` was set back by hand to step 10; training goes on from there."""
    run, layer = RunDir(tmp_path), torch.nn.Linear(2, 2)
    for step in (10, 20, 30):
        run.save_checkpoint(step, layer, {}, {"step": step}, keep=3)
    run.save_checkpoint(15, layer, {}, {"step": 15}, keep=2)
    assert run.last_checkpoint is not None
    assert run.last_checkpoint.name == "0000015"
    assert [checkpoint.name for checkpoint in run.checkpoints] == ["0000015", "0000030"]
