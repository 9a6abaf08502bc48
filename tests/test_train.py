"""The loop and the run directory, on a small drawn set: exact continuation, stopping, refusals, settings read back."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import cli, config, configfile, methods, recipes, train
from fgtrain.rundir import RunDir, load_state

RATES = ("images_per_second", "data_wait")


def small(shards: Path, out: Path, name: str = "cvsa", **machine) -> config.Config:
    """Four batches of 8 at 32 px per epoch, two epochs, a network of width 8."""
    base = recipes.RECIPES[name]()
    fields = {
        "data": config.Data(shards, batch_size=8, detector="gt"),
        "views": ViewSpec(size=32, crop=base.views.crop),
        "model": config.Model(width=8),
        "optim": replace(base.optim, warmup_epochs=0.5),
        "byol": methods.Byol(hidden=16, dim=8),
        "moco": methods.Moco(dim=8),
        "align": methods.Align(hidden=16, dim=8),
        "epochs": 2,
        "machine": config.Machine(out=out, device="cpu", threads=2, log_every=3, checkpoint_every=1, **machine),
    }
    return replace(base, **{k: v for k, v in fields.items() if k in {f.name for f in dataclasses.fields(base)}})


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in RATES} for line in lines]


def final(run: Path) -> dict:
    last = RunDir(run).last_checkpoint
    assert last is not None
    return load_state(last)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def undisturbed(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.train(small(drawn_set, tmp_path_factory.mktemp("runs") / "whole"), "cvsa")


def test_a_run_leaves_its_files(undisturbed: Path, drawn_set: Path):
    lines = metrics(undisturbed)
    assert [line["step"] for line in lines] == [3, 6, 8]
    assert all({"loss", "contrast", "align", "align_saturated", "feature_std", "lr"} <= line.keys() for line in lines)
    facts = json.loads((undisturbed / "run.json").read_text())
    assert facts["status"] == "done"
    assert facts["step"] == 8
    assert facts["shards"]["path"] == str(drawn_set)
    assert {"argv", "commit", "versions", "device"} <= facts.keys()
    assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == ["0000004", "0000008", "last"]
    assert os.readlink(undisturbed / "checkpoints" / "last") == "0000008"
    assert not list(undisturbed.rglob("*.part"))
    assert "step 8/8" in (undisturbed / "log.txt").read_text()


@pytest.mark.parametrize("name", ["byol", "cvsa", "cvsa-moco"])
@pytest.mark.parametrize("stop_at", [1, 5])
def test_resumed_run_is_bitwise_the_undisturbed_one(
    name: str, stop_at: int, drawn_set: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = undisturbed if name == "cvsa" else train.train(small(drawn_set, tmp_path / "whole", name), name)
    step = train.Trainer.train_step

    def stopped(self, batch):
        step(self, batch)
        if self.step == stop_at:
            os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "train_step", stopped)
        run = train.train(small(drawn_set, tmp_path / "parts", name), name)
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    assert final(run)["step"] == stop_at
    train.train(small(drawn_set, run, name, resume=True), name)
    assert metrics(run) == metrics(whole)
    ours, theirs = final(run), final(whole)
    assert [k for k in theirs if not same(ours[k], theirs[k])] == []


def test_killed_run_continues_from_its_last_checkpoint(drawn_set: Path, undisturbed: Path, tmp_path: Path, monkeypatch):
    step = train.Trainer.train_step

    def killed(self, batch):
        step(self, batch)
        if self.step == 7:  # step 4 has a checkpoint, and the line of step 6 is written
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train.train(small(drawn_set, tmp_path / "run"), "cvsa")
    run = tmp_path / "run"
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # a line cut short by the kill
    train.train(small(drawn_set, run, resume=True), "cvsa")
    assert metrics(run) == metrics(undisturbed)
    assert same(final(run)["objective"], final(undisturbed)["objective"])


@pytest.mark.slow
def test_sigterm_checkpoints_and_exits_with_0(drawn_set: Path, tmp_path: Path):
    flags = f"--data.shards {drawn_set} --data.batch-size 8 --data.detector gt --views.size 32 --model.width 8".split()
    flags += ["--byol.hidden", "16", "--align.hidden", "16", "--epochs", "100000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "fgtrain", "run", "cvsa", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not log.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    assert "--resume" in printed
    assert final(tmp_path / "run")["step"] >= 10


def test_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples(
    drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step = train.Trainer.train_step

    def poisoned(self, batch):
        if self.step == 4:
            batch = {**batch, "views": batch["views"] * float("nan")}
        step(self, batch)

    monkeypatch.setattr(train.Trainer, "train_step", poisoned)
    with pytest.raises(InputError, match=r"nan at step 5 \(epoch 2\)[\s\S]*checkpoint: 0000004[\s\S]*Samples.*00"):
        train.train(small(drawn_set, tmp_path / "run"), "cvsa")
    assert RunDir(tmp_path / "run").facts["status"] == "failed"
    assert all(torch.isfinite(v).all() for v in final(tmp_path / "run")["objective"].values() if v.is_floating_point())


def test_folder_that_is_not_empty_is_refused(undisturbed: Path, drawn_set: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"not empty[\s\S]*--resume"):
        train.train(small(drawn_set, undisturbed), "cvsa")
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match=r"no config\.json"):
        train.train(small(drawn_set, tmp_path, resume=True), "cvsa")
    with pytest.raises(InputError, match="is a file"):
        train.train(small(drawn_set, tmp_path / "letter.txt"), "cvsa")


def test_resume_with_changed_settings_says_which(undisturbed: Path, drawn_set: Path):
    changed = replace(small(drawn_set, undisturbed, resume=True), epochs=3, seed=1)
    with pytest.raises(InputError, match=r"epochs: 2 -> 3\n\s*seed: 0 -> 1"):
        train.train(changed, "cvsa")


def test_resume_on_another_shard_set_is_refused(undisturbed: Path, drawn_set: Path):
    run = RunDir(undisturbed)
    facts = run.facts
    run.note(shards={"path": "elsewhere", "digest": "0" * 64})
    try:
        with pytest.raises(InputError, match="digest 000000000000"):
            train.train(small(drawn_set, undisturbed, resume=True), "cvsa")
    finally:
        run.note(**facts)


def test_disk_full_leaves_the_previous_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, layer = RunDir(tmp_path), torch.nn.Linear(2, 2)
    run.save_checkpoint(1, layer, {}, {"step": 1}, keep=2)

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        run.save_checkpoint(2, layer, {}, {"step": 2}, keep=2)
    monkeypatch.undo()
    assert final(tmp_path)["step"] == 1
    (tmp_path / "checkpoints" / "last.part").symlink_to("0000001")  # and killed between two renames
    for step in (2, 3, 4):
        run.save_checkpoint(step, layer, {}, {"step": step}, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["0000003", "0000004", "last"]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_config_comes_back_from_its_json(name: str, tmp_path: Path):
    ours = replace(recipes.RECIPES[name](), epochs=7, data=config.Data(tmp_path, detector="rbd"))
    again = configfile.from_dict(json.loads(json.dumps(configfile.to_dict(ours))), "config.json")
    assert again == ours
    assert type(again) is type(ours)
    assert configfile.differences(ours, again) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "dino"}, "'dino'.*byol, moco, simsiam, simclr, cvsa"),
        ({"epoch": 3}, "setting 'epoch'"),
        ({"epochs": "3"}, "epochs is '3'; expected int"),
        ({"model": {"backbone": "vgg"}}, r"model\.backbone is 'vgg'.*resnet18"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"data": {"batch_size": 1}}, "--data.batch-size is 1; allowed: 2 or more"),
        ({"views": {"views": 3}}, "--views.views is 3"),
        ({"machine": {"log_every": 0}}, "--log-every is 0"),
        ({"views": {"size": 4}}, "allowed: a whole number"),
        ({"moco": {"queue": "all"}}, r"moco\.queue is 'all'"),
    ],
)
def test_config_file_with_a_fault_names_it(change: dict, message: str):
    with pytest.raises(InputError, match=message):
        configfile.from_dict({**configfile.to_dict(recipes.cvsa()), **change}, "config.json")


def test_flags_win_over_config_and_resume_takes_the_runs_settings(undisturbed: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(train, "train", lambda chosen, name: seen.append((chosen, name)))
    source = str(undisturbed / "config.json")
    assert cli.main(["run", "cvsa", "--config", source, "--epochs", "5", "--align.weight", "0.5"]) == 0
    chosen, name = seen.pop()
    assert (name, chosen.epochs, chosen.align.weight, chosen.views.size) == ("cvsa", 5, 0.5, 32)
    assert chosen.machine.out is None
    assert not chosen.machine.resume
    assert cli.main(["run", "cvsa", "--out", str(undisturbed), "--resume"]) == 0
    chosen, _ = seen.pop()
    assert chosen.machine.resume
    assert configfile.differences(RunDir(undisturbed).config(), chosen) == []


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
    assert "has no boxes by 'rbd'" in fails(f"run cvsa --data.detector rbd --device cpu --data.shards {drawn_set}")
    assert "has 32 samples" in fails(f"run cvsa --out other --device cpu --model.width 8 --data.shards {drawn_set}")
    assert not (tmp_path / "other").exists()  # nothing is in the way of the corrected command
    (tmp_path / "config.json").write_text(json.dumps(configfile.to_dict(recipes.byol())))
    assert "fgtrain run byol --config" in fails("run cvsa --config config.json")


@pytest.mark.parametrize("flags", ["", "run", "run cvsa", "eval", "eval knn", "eval linear", "show", "list", "export"])
def test_help_imports_no_torch(flags: str):
    code = (
        "import sys\nfrom fgtrain.cli import main\n"
        f"try:\n    main({[*flags.split(), '--help']!r})\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'torchvision', 'cv2', 'nvidia.dali', 'timm'} & sys.modules.keys()\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: fgtrain" in done.stdout
