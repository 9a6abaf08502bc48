"""Runs that are resumed elsewhere or otherwise than they began, and resumes that are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from trainable import final, same, small, stop_at_step

from fgdata import plugins
from fgdata.errors import InputError
from fgtrain.engine import checkpointing, lifecycle, trainer
from fgtrain.networks.encoder import Encoder
from fgtrain.runs.checkpoint import Checkpoint
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Config, Model


@pytest.fixture
def stopped(drawn_set: Path, tmp_path: Path) -> Config:
    """The settings that resume a run which a signal stopped at step 3."""
    config = small(drawn_set, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(patch, 3)
        lifecycle.train(config, "cvsa")
    assert RunDir(tmp_path / "run").facts["status"] == "stopped"
    return replace(config, machine=replace(config.machine, resume=True))


@pytest.mark.parametrize(("now", "changed"), [("0", False), ("1", True)])
def test_a_plugin_that_was_edited_is_named(now: str, changed: bool, stopped: Config, capsys, monkeypatch):
    RunDir(stopped.machine.out or Path()).note(plugins={"mine.py": "0"})
    monkeypatch.setattr(plugins, "loaded", lambda: {"mine.py": now, "new.py": "2"})
    lifecycle.train(stopped, "cvsa")
    note = "resumed from step 3; the file of the plug-in mine.py has changed since the run was last started, so from"
    assert (note in " ".join(capsys.readouterr().out.split())) is changed


def test_a_resume_that_is_refused_leaves_a_failed_run(drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A scheduler requeues a run while run.json says "stopped"."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(patch, 3)
        lifecycle.train(small(drawn_set, run), "cvsa")
    assert RunDir(run).facts["status"] == "stopped"
    monkeypatch.setattr(checkpointing, "restore", lambda *_: (_ for _ in ()).throw(InputError("out of memory")))
    config = small(drawn_set, run)
    with pytest.raises(InputError, match="out of memory"):
        lifecycle.train(replace(config, machine=replace(config.machine, resume=True)), "cvsa")
    facts = RunDir(run).facts
    assert (facts["status"], facts["reason"], facts["step"]) == ("failed", "out of memory", 3)
    RunDir(run).note(status="done")
    with pytest.raises(InputError, match="out of memory"):
        lifecycle.train(replace(config, machine=replace(config.machine, resume=True)), "cvsa")
    assert RunDir(run).facts["status"] == "done"


def test_a_run_keeps_the_mean_and_std_of_its_initial_weights(drawn_set: Path, tmp_path: Path):
    """When it is resumed or extended, nothing reads the file of --init again."""
    model, file = Model(width=8), tmp_path / "start"
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "1", "method": "byol"}
    about |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    start = RunDir(file).save_checkpoint(1, Encoder(model), about, {}, keep=1) / "encoder.safetensors"

    def config(name: str, **machine) -> Config:
        return replace(small(drawn_set, tmp_path / name, **machine), model=model, init=str(start))

    lifecycle.train(config("whole"), "cvsa")
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(patch, 3)
        lifecycle.train(config("halves"), "cvsa")
    start.unlink()
    lifecycle.train(config("halves", resume=True), "cvsa")
    lifecycle.train(replace(config("more"), extend=tmp_path / "whole", epochs=1), "cvsa")
    for name in ("whole", "halves", "more"):
        found = Checkpoint.find(tmp_path / name).normalisation
        assert found == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), name
    assert same(final(tmp_path / "whole")["objective"], final(tmp_path / "halves")["objective"])


def without_set(config: Config, patch: pytest.MonkeyPatch) -> Config:
    def open_shards(*_: object) -> None:
        raise InputError("the set is not mounted")

    patch.setattr(lifecycle, "open_shards", open_shards)
    return config


def without_gpu(config: Config, patch: pytest.MonkeyPatch) -> Config:
    def pick_device(_: str) -> None:
        raise InputError("--device cuda is not available")

    patch.setattr(lifecycle.parallel, "pick_device", pick_device)
    return config


def with_other_settings(config: Config, _: pytest.MonkeyPatch) -> Config:
    return replace(config, epochs=5)


@pytest.mark.parametrize(
    ("change", "words"),
    [(without_set, "not mounted"), (without_gpu, "cuda is not available"), (with_other_settings, "epochs")],
)
def test_a_scheduler_does_not_requeue_a_run_whatever_refuses_its_resume(
    change, words: str, stopped: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(InputError, match=words):
        lifecycle.train(change(stopped, monkeypatch), "cvsa")
    facts = RunDir(tmp_path / "run").facts
    assert (facts["status"], facts["step"]) == ("failed", 3)
    assert words in facts["reason"]


def test_a_second_process_that_is_refused_leaves_the_run_of_the_first(stopped: Config, tmp_path: Path):
    with RunDir.claim(tmp_path / "run", stopped), pytest.raises(InputError, match="is training in"):
        lifecycle.train(stopped, "cvsa")
    assert RunDir(tmp_path / "run").facts["status"] == "stopped"


def test_a_run_is_resumed_from_another_folder(drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = small(Path("drawn"), tmp_path / "run")
    monkeypatch.chdir(drawn_set.parent)
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(patch, 3)
        lifecycle.train(config, "cvsa")
    monkeypatch.chdir(tmp_path)
    lifecycle.train(replace(config, machine=replace(config.machine, resume=True)), "cvsa")
    assert RunDir(tmp_path / "run").facts["status"] == "done"


def test_a_checkpoint_without_a_loss_scale_is_resumed_in_fp16(
    drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Begun on a GPU with bf16 or on a CPU, resumed on a GPU for which auto is fp16."""
    config = small(drawn_set, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(patch, 3)
        lifecycle.train(config, "cvsa")
    monkeypatch.setattr(trainer, "pick_precision", lambda *_: "fp16")
    lifecycle.train(replace(config, machine=replace(config.machine, resume=True)), "cvsa")
    assert final(tmp_path / "run")["scaler"]["scale"] > 0
