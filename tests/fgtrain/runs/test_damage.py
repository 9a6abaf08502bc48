"""Files of a run that are damaged, edited or not regular files: one InputError that names the file."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainable import final, small

from fgdata.errors import InputError
from fgtrain import cli
from fgtrain.engine import lifecycle
from fgtrain.networks.saved import load_encoder
from fgtrain.runs.checkpoint import WEIGHTS, Checkpoint
from fgtrain.runs.files import append
from fgtrain.runs.rundir import RunDir
from fgtrain.runs.state import load_state

NOT_AN_OBJECT = {
    "empty": b"",
    "number": b"5",
    "list": b"[]",
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "4,301 digits": b'{"step": ' + b"1" * 4301 + b"}",
    "brackets": b"[" * 100_000,
    "nested": b'{"a": ' * 100_000,
}


@pytest.fixture(scope="module")
def trained(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lifecycle.train(small(drawn_set, tmp_path_factory.mktemp("runs") / "whole"), "cvsa")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("content", NOT_AN_OBJECT.values(), ids=NOT_AN_OBJECT)
def test_json_that_is_not_an_object(content: bytes, run: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("run.json", "config.json"):
        file = run / name
        before = file.read_bytes()
        file.write_bytes(content)
        assert str(file) in error_of(["run", "cvsa", "--out", str(run), "--resume"], capsys)
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shards", "cub"),
        ("shards", {"digest": 3}),
        ("shards", {"path": ["cub"]}),
        ("processes", "two"),
        ("step", "8"),
        ("checkpoint", [8]),
        ("earlier", 5),
        ("name", ["cvsa"]),
        ("status", {}),
        ("reason", 5),
    ],
)
def test_values_of_another_type_in_run_json_are_named(key: str, value: object, run: Path):
    file = run / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(InputError, match=rf"run\.json: {key}.*rm .*run\.json"):
        RunDir(run).resume_point()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": ["cvsa"]}, "method"),
        ({"optim": {"lr": 10**400}}, "optim.lr"),
        ({"data": {"shards": "a\0b"}}, "data.shards"),
        ({"data": [[[]]]}, "data"),
        ({"views": {"mean": "grey"}}, "views.mean"),
    ],
)
def test_values_of_another_type_in_config_json_are_named(change: dict, named: str, run: Path):
    file = run / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match=f"config.json: {named} is"):
        RunDir(run).config()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"optim": {"lr": 0.5}}, "optim.lr: .* -> 0.5"), ({"align": {"scale": 9.0}}, "align.scale: 8.0 -> 9.0")],
)
def test_an_edited_config_json_is_refused_with_the_changed_setting(
    change: dict[str, dict], named: str, run: Path, capsys: pytest.CaptureFixture[str]
):
    file = run / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, **{group: {**config[group], **values} for group, values in change.items()}}))
    message = error_of(["run", "cvsa", "--out", str(run), "--resume"], capsys)
    assert str(file) in message
    with pytest.raises(InputError, match=named):
        Checkpoint.find(run).config()
    assert final(run)["step"] == 8


def test_a_checkpoint_without_settings_resumes(drawn_set: Path, run: Path):
    """As those of earlier versions."""
    file = run / "checkpoints" / "0000008" / "state.pt"
    state = load_state(file.parent)
    torch.save({key: value for key, value in state.items() if key != "settings"}, file)
    lifecycle.train(small(drawn_set, run, resume=True), "cvsa")


def test_metrics_are_cut_at_the_first_line_after_the_step_and_unchanged_before(tmp_path: Path):
    kept = b'{"step": 1}\n\xff is not text\n{"step": "two"}\n[1]\n' + b"[" * 100_000 + b'\n{"step": 2, "knn": 0.5}\n'
    file, run = tmp_path / "metrics.jsonl", RunDir(tmp_path)
    for rest in (b"", b'{"step": 3}\nmore\n{"st', b'{"st'):
        file.write_bytes(kept + rest)
        assert run.has("knn", 2)
        assert not run.has("knn", 1)
        run.cut_metrics(2)
        assert file.read_bytes() == kept


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("name", ["config.json", "run.json", "metrics.jsonl", "log.txt"])
def test_a_fifo_in_place_of_a_file_is_never_opened(name: str, drawn_set: Path, run: Path):
    (run / name).unlink()
    os.mkfifo(run / name)
    if name == "config.json":
        with pytest.raises(InputError, match=r"config\.json is missing or not a file"):
            lifecycle.train(small(drawn_set, run, resume=True), "cvsa")
    elif name == "run.json":
        assert RunDir(run).facts == {}
    else:
        with pytest.raises(InputError, match=f"{name} is not a regular file"):
            append(run / name, "a line")
        assert not RunDir(run).has("knn")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_in_a_checkpoint_is_never_opened(run: Path):
    last = run / "checkpoints" / "0000008"
    for name in ("state.pt", WEIGHTS):
        (last / name).unlink()
        os.mkfifo(last / name)
    with pytest.raises(InputError, match=r"state\.pt cannot be read: it is not a regular file.*0000004"):
        load_state(last)
    for path in (run, last, last / WEIGHTS):
        with pytest.raises(InputError, match="not a regular file"):
            Checkpoint.find(path)


def test_a_last_link_to_another_place_is_refused(run: Path, trained: Path, drawn_set: Path):
    last = run / "checkpoints" / "last"
    for target in (trained / "checkpoints" / "0000004", run, Path("/")):
        last.unlink()
        last.symlink_to(target)
        for use in (Checkpoint.find, lambda path: lifecycle.train(small(drawn_set, path, resume=True), "cvsa")):
            with pytest.raises(InputError, match=r"last points to .* not a checkpoint of this run.*rm "):
                use(run)
    last.unlink()
    assert Checkpoint.find(run).step == 8


def test_a_copy_made_without_links_is_used_and_can_be_saved_to(trained: Path, tmp_path: Path):
    run = RunDir(Path(shutil.copytree(trained, tmp_path / "run")))
    assert (run.path / "checkpoints" / "last").is_dir()
    assert Checkpoint.find(run.path).step == 8
    run.save_checkpoint(9, torch.nn.Linear(2, 2), {}, {"step": 9}, keep=2)
    assert final(run.path) == {"step": 9}
    assert os.readlink(run.path / "checkpoints" / "last") == "0000009"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"backbone": "resnet19"}, "cannot be built.*resnet19 is not a network of timm.*resnet18"),
        ({"backbone": ["resnet18"]}, "backbone is"),
        ({"stem": 5}, "stem is 5"),
        ({"width": "1000000"}, "width 1000000.*width 8 to 4,096"),
        ({"width": "7"}, "width 7.*width 8 to 4,096"),
        ({"width": "-8"}, "width -8"),
        ({"width": "1" * 4301}, "not an encoder"),
        ({"size": None}, "not an encoder"),
        ({"step": [1]}, "not an encoder"),
        ({"settings": "all"}, "settings .* damaged"),
        ("5", "not an encoder"),
        ("[" * 100_000, "not an encoder"),
    ],
)
def test_encoder_metadata_that_describes_no_network(metadata: dict | str, message: str, run: Path, tmp_path: Path):
    weights = load_file(Checkpoint.find(run).file)
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "8"}
    text = metadata if isinstance(metadata, str) else json.dumps({**about, **metadata})
    save_file(weights, tmp_path / "encoder.safetensors", metadata={"fgtrain": text})
    with pytest.raises(InputError, match=message):
        load_encoder(Checkpoint.find(tmp_path / "encoder.safetensors"))
