"""The shard set that an evaluation or picture uses, and config.json of a run that was edited."""

import json
import os
import shutil
from pathlib import Path

import pytest
from trainable import small

from fgdata.shards.manifest import signed
from fgtrain import cli
from fgtrain.engine import lifecycle
from fgtrain.evaluate import finetune, probe, subject
from fgtrain.evaluate.every import MEASUREMENTS
from fgtrain.evaluate.records import read_records
from fgtrain.networks.encoder import Encoder
from fgtrain.runs.checkpoint import Checkpoint
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Model
from fgtrain.show.listing import describe_run


@pytest.fixture(scope="module")
def trained(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose shard set, beside it, is its own."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(drawn_set, folder / "shards" / "set")
    run = lifecycle.train(small(folder / "shards" / "set", folder / "run", "byol"), "byol")
    assert cli.main(["eval", "knn", str(run), "--device", "cpu", "--k", "5"]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A copy of the run and of its set, as the working folder."""
    shutil.copytree(trained, tmp_path / "own", symlinks=True)
    monkeypatch.chdir(tmp_path / "own")
    change("run/run.json", shards={"path": str(Path("shards/set").resolve()), "digest": digest()})
    monkeypatch.setattr(subject, "_PRINTED", set())
    capsys.readouterr()
    return Path("run")


def digest(folder: str = "shards/set") -> str:
    return json.loads(Path(folder, "manifest.json").read_text())["digest"]


def change(file: str, **values: object) -> None:
    path = Path(file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rebuild(folder: str) -> None:
    """Gives a set another digest; its samples stay as they are."""
    path = Path(folder, "manifest.json")
    path.write_text(json.dumps(signed({**json.loads(path.read_text()), "reencoded": 7})))


KNN = ["eval", "knn", "run", "--device", "cpu", "--k", "5"]
PICTURE = ["show", "views", "run", "--rows", "1", "--size", "32"]


@pytest.mark.parametrize("words", [KNN, PICTURE], ids=["eval", "show"])
def test_a_set_that_changed_since_the_training_is_named_and_used(words: list[str], run: Path, capsys):
    before = digest()
    assert cli.main(words) == 0
    assert "digest" not in capsys.readouterr().out
    rebuild("shards/set")
    assert before != digest()
    assert cli.main(words) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "digest" in line]
    assert f"run was trained on a shard set of digest {before[:12]}" in line
    assert f"{Path('shards/set').resolve()} now has digest {digest()[:12]}" in line
    if words is KNN:
        assert json.loads((run / "results.jsonl").read_text().splitlines()[-1])["digest"] == digest()


def test_a_set_that_is_named_needs_no_remark_but_the_newest_one_does(run: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree("shards/set", "shards/other")
    rebuild("shards/other")
    assert cli.main([*KNN, "--shards", "shards/other"]) == 0
    assert "shard set" not in capsys.readouterr().out
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "shards"}))
    shutil.rmtree("shards/other")
    assert cli.main(KNN) == 0
    assert capsys.readouterr().out.count("shard set: shards/set, the newest under shards/") == 1


@pytest.mark.parametrize("what", ["knn", "finetune", "all"])
def test_results_that_cannot_be_saved_are_reported_before_anything_is_measured(
    what: str, run: Path, monkeypatch, capsys
):
    allowed = os.access
    monkeypatch.setattr(probe, "embed", None)
    monkeypatch.setattr(finetune, "tune", None)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "results.jsonl" and allowed(path, mode))
    assert cli.main(["eval", what, "run", "--device", "cpu"]) == 2
    assert "Results cannot be saved in run/results.jsonl: run/results.jsonl lacks" in capsys.readouterr().err
    if what == "finetune":
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run and allowed(path, mode))
        assert cli.main(["eval", what, "run", "--device", "cpu"]) == 2
        assert "Results cannot be saved in run/finetune.jsonl: run lacks the permission" in capsys.readouterr().err
    before = ["eval", "knn", "--weights", "random", "--model.width", "8", "--shards", "shards/set", "--device", "cpu"]
    assert cli.main([*before, "--results", "none/a.jsonl"]) == 2
    assert "none does not exist" in capsys.readouterr().err


def test_a_run_without_run_json_says_so_and_has_the_step_of_its_checkpoint(run: Path, capsys):
    step = Checkpoint.find(run).step
    (run / "run.json").unlink()
    assert describe_run(run)[1:3] == ("no run.json", str(step))
    assert cli.main(KNN) == 0
    assert "run/run.json is missing, which names the shard set of the run. shard set:" in capsys.readouterr().out
    shutil.rmtree("shards")
    assert cli.main(KNN) == 2
    assert "run/run.json is missing, which names the shard set of the run. No shard set" in capsys.readouterr().err


def test_an_encoder_that_is_missing_or_truncated_is_named_with_another_checkpoint(run: Path, capsys):
    checkpoints = RunDir(run).checkpoints
    file = checkpoints[-1] / "encoder.safetensors"
    whole = file.read_bytes()
    earlier = file.parent.with_name("0000001")
    shutil.copytree(file.parent, earlier)
    for each in checkpoints[:-1]:
        shutil.rmtree(each)
    for content in (b"", whole[:5], whole[: len(whole) // 2]):
        file.write_bytes(content)
        assert cli.main(KNN) == 2
        found = capsys.readouterr().err
        assert f"{file.resolve()} is truncated or damaged (" in found
        assert f"another checkpoint, such as {earlier.resolve()}" in found
    file.unlink()
    assert cli.main(KNN) == 2
    assert f"{file.resolve()} is missing. Restore it, or name another" in capsys.readouterr().err
    shutil.rmtree(earlier)
    assert cli.main(KNN) == 2
    assert "is missing. There is no other checkpoint" in capsys.readouterr().err


def test_an_edited_config_is_reported_wherever_it_is_read(run: Path, capsys: pytest.CaptureFixture[str]):
    """An error where the settings are used; in the list a cell, and the other runs are listed."""
    shutil.copytree(run, "runs/good", symlinks=True)
    shutil.copytree(run, "runs/edited", symlinks=True)
    optim = json.loads(Path("runs/edited/config.json").read_text())["optim"]
    change("runs/edited/config.json", optim={**optim, "lr": 0.5})
    changed = f"optim.lr: {optim['lr']} -> 0.5"
    for words in (
        ["show", "views", "runs/edited", "--rows", "1", "--size", "32"],
        ["show", "curves", "runs/edited", "runs/good"],
        [*KNN[:2], "runs/edited", *KNN[3:]],
        ["run", "byol", "--out", "runs/edited", "--resume"],
    ):
        assert cli.main(words) == 2
        assert changed in capsys.readouterr().err
    assert cli.main(["compare", "runs/edited", "runs/good"]) == 2
    printed = capsys.readouterr()
    assert "runs/good" in printed.out
    assert changed in printed.err
    row, good = describe_run(Path("runs/edited")), describe_run(Path("runs/good"))
    assert row[:3] == good[:3] == ("byol", "done", "8")
    assert changed in row[3]
    assert "changed since" not in good[3]
    assert cli.main(["list"]) == 0
    assert {"runs/good", "runs/edited"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints/0000008/encoder.safetensors"])
def test_a_run_without_its_large_files_is_still_compared_and_listed(lost: str, run: Path, capsys):
    shutil.rmtree(run / lost) if (run / lost).is_dir() else (run / lost).unlink()
    assert cli.main(["compare", "run"]) == 0
    assert describe_run(run)[:3] == ("byol", "done", "8")


def test_random_weights_are_measured_and_saved_where_results_says(run: Path, tmp_path: Path, capsys):
    """An untrained network, of seed 0; a run has its own file."""
    words = ["eval", "retrieval", "--weights", "random", "--model.width", "8", "--size", "32", "--shards", "shards/set"]
    file = tmp_path / "results.jsonl"
    assert cli.main([*words, "--device", "cpu", "--results", str(file)]) == 0
    (line,) = read_records(file)
    assert line.checked
    assert (line.values["evaluation"], line.values["step"], line.values["size"]) == ("retrieval", 0, 32)
    assert cli.main([*words, "--results", str(tmp_path / "results.txt")]) == 2
    assert "ends in .jsonl" in capsys.readouterr().err
    assert cli.main(["eval", "retrieval", str(run), "--results", str(file)]) == 2
    assert "only with --weights" in capsys.readouterr().err


def test_a_size_that_the_network_cannot_process_is_refused_before_anything_is_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """By every evaluation and by Grad-CAM, for given weights and for a run; by `eval all` once."""
    monkeypatch.setattr(probe, "embed", None)
    vit = RunDir(tmp_path / "vit")
    about = {"backbone": "test_vit", "width": "64", "stem": "imagenet", "size": "160", "step": "1", "method": "byol"}
    folder = vit.save_checkpoint(1, Encoder(Model("test_vit")), about, {}, keep=1)
    rest = ["--shards", "shards/set", "--device", "cpu", "--size", "100"]
    given = ["--weights", "random", "--model.backbone", "test_vit"]
    commands = [["eval", name, *given] for name in (*MEASUREMENTS, "all")]
    commands += [["eval", "retrieval", str(folder)], ["show", "gradcam", str(folder)]]
    for command in commands:
        assert cli.main([*command, *rest]) == 2, command
        error = capsys.readouterr().err
        assert error.count("--size is 100, which test_vit cannot process; allowed: 96, 112") == 1, command
