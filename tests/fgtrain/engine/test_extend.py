"""--extend: a new schedule from everything of another run, whole epochs, new settings of the optimiser, a new seed."""

import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from trainable import final, metrics, same, small, stop_at_step

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgtrain import cli
from fgtrain.engine import checkpointing, lifecycle
from fgtrain.engine.trainer import Trainer
from fgtrain.runs.rundir import RunDir
from fgtrain.runs.state import load_state
from fgtrain.settings import common

OPTIM = {
    "lr": 0.02,
    "momentum": 0.5,
    "weight_decay": 0.01,
    "weight_decay_end": 0.02,
    "exclude_norm_and_bias": True,
    "nesterov": True,
    "layer_decay": 0.7,
    "clip": 1.0,
    "clip_by": "parameter",
    "skip_nonfinite": 3,
    "warmup_epochs": 0.25,
    "accumulate": 2,
}


@pytest.fixture(scope="module")
def old(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of BYOL that was stopped in step 2 of 4 of its second epoch."""
    out = tmp_path_factory.mktemp("runs") / "old"
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(patch, 6)
        return lifecycle.train(small(drawn_set, out, "byol"), "byol")


def extending(old: Path, out: Path, **changes) -> common.Config:
    config = RunDir(old).config()
    return replace(config, extend=old, machine=replace(config.machine, out=out), **changes)


def opened(config: common.Config, extend: bool = True) -> Trainer:
    assert config.data.shards is not None
    assert config.extend is not None
    last = checkpointing.find_extended(config.extend)
    state = load_state(last)
    trainer = Trainer(config, RunDir(Path("x")), ShardSet.open(config.data.shards), torch.device("cpu"), None, state)
    if extend:
        checkpointing.extend(trainer, state, last)
    trainer.loader.close()
    return trainer


def by_name(trainer: Trainer) -> dict[str, dict]:
    return {name: dict(trainer.optimizer.state[p]) for name, p in trainer.objective.named_parameters()}


def options(trainer: Trainer) -> list[dict]:
    return [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]


def test_a_new_schedule_starts_from_everything_of_another_run(old: Path, tmp_path: Path, capsys):
    trainer = opened(extending(old, tmp_path / "x", epochs=3))
    assert same(dict(trainer.objective.state_dict()), dict(final(old)["objective"]))
    assert same(trainer.optimizer.state_dict()["state"], final(old)["optimizer"]["state"])
    assert trainer.step == 0
    new = lifecycle.train(extending(old, tmp_path / "new", epochs=3), "byol")
    assert "extends" in capsys.readouterr().out
    assert not same(final(new)["objective"], final(old)["objective"])
    with pytest.raises(InputError, match=r"model.width differ.*--config"):
        lifecycle.train(extending(old, tmp_path / "wrong", model=common.Model(width=16)), "byol")


def test_a_run_that_stopped_within_an_epoch_is_extended_by_whole_epochs(old: Path, tmp_path: Path, monkeypatch):
    seen: list[int] = []
    step = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self, b: (seen.extend(b["index"].tolist()), step(self, b)))
    new = lifecycle.train(extending(old, tmp_path / "new", epochs=3), "byol")
    assert [sorted(seen[i : i + 32]) for i in range(0, len(seen), 32)] == [list(range(32))] * 3
    assert RunDir(new).facts["status"] == "done"
    assert final(new)["step"] == 12
    assert metrics(new)[-1]["epoch"] == 3
    assert [path.name for path in RunDir(new).checkpoints] == ["0000008", "0000012"]


def test_every_setting_of_the_optimiser_but_its_rule_may_differ(old: Path, tmp_path: Path):
    """The settings are those of a new run, and every parameter has its old momentum, in whatever group it is now."""
    assert {"name", *OPTIM} == {field.name for field in fields(common.Optim)}
    config = extending(old, tmp_path / "new", epochs=1, optim=common.Optim("lars", **OPTIM))
    before, after, fresh = opened(extending(old, tmp_path / "x")), opened(config), opened(config, extend=False)
    assert len(options(before)) != len(options(fresh)), "the groups differ"
    assert options(after) == options(fresh)
    assert same(by_name(after), by_name(before))
    assert any(state.get("momentum_buffer") is not None for state in by_name(after).values())
    assert RunDir(lifecycle.train(config, "byol")).facts["step"] == 4


def test_another_update_rule_is_refused_by_name(old: Path, tmp_path: Path):
    with pytest.raises(InputError, match="optim.name differ from that run"):
        lifecycle.train(extending(old, tmp_path / "new", optim=common.Optim("adamw")), "byol")


def test_the_command_that_a_changed_seed_suggests_trains_with_that_seed(old: Path):
    config = RunDir(old).config()
    machine = replace(config.machine, resume=True)
    with pytest.raises(InputError, match="--extend") as refused:
        lifecycle.train(replace(config, seed=9, machine=machine), "byol")
    command = next(line for line in str(refused.value).splitlines() if "--extend" in line and "fgtrain run" in line)
    assert cli.main(shlex.split(command)[1:]) == 0
    new = RunDir(Path(f"{old}-2"))
    assert (new.facts["status"], new.facts["step"], new.config().seed) == ("done", 8, 9)


@pytest.mark.parametrize("seed", [0, 9])
def test_random_draws_continue_unless_the_seed_is_new(seed: int, old: Path, tmp_path: Path):
    opened(extending(old, tmp_path / "new", seed=seed))
    own, theirs = torch.get_rng_state(), final(old)["ranks"][0]["rng"]["cpu"]
    torch.manual_seed(seed)
    assert torch.equal(own, theirs if seed == 0 else torch.get_rng_state())


def test_a_run_that_started_from_heads_is_extended_and_its_start_is_not_repeated(old: Path, tmp_path: Path, capsys):
    config = RunDir(old).config()
    machine = replace(config.machine, out=tmp_path / "heads")
    heads = replace(config, init=str(old), init_heads=True, freeze_stages=1, epochs=1, machine=machine)
    run = lifecycle.train(heads, "byol")
    capsys.readouterr()
    new = lifecycle.train(extending(run, tmp_path / "new"), "byol")
    said = " ".join(capsys.readouterr().out.split())
    assert RunDir(new).facts["status"] == "done"
    assert "random weights" not in said
    assert "--init-heads has no effect" in said
