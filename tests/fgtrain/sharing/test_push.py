"""`fgtrain push` to a hub on this machine, from which timm loads the model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import Hub

from fgtrain import cli
from fgtrain.evaluate import compare
from fgtrain.evaluate.records import append_record
from fgtrain.networks.encoder import Encoder
from fgtrain.runs.checkpoint import Checkpoint
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Model
from fgtrain.settings.file import relevant
from fgtrain.settings.methods import ByolConfig
from fgtrain.sharing.card import model_card


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Encoder]:
    """A run with a checkpoint and two results, of which one is of an earlier step."""
    model, path = Model("test_vit"), tmp_path / "runs" / "vit"
    config = ByolConfig(model=model, init="/home/someone/secret/start.pth")
    with RunDir.claim(path, config) as claimed:
        claimed.start(config)
    network = Encoder(model).eval()
    about = {"backbone": "test_vit", "width": "64", "stem": "imagenet", "size": "160", "step": "7", "method": "byol"}
    about |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "settings": relevant(config)}
    RunDir(path).save_checkpoint(7, network, about, {}, keep=1)
    for step, accuracy in ((3, 0.25), (7, 0.5)):
        line = {"evaluation": "knn", "step": step, "accuracy": accuracy, "chance": 0.1, "n": 40, "k": 20}
        append_record(path / "results.jsonl", {**line, "digest": "abc", "shards": "/home/someone/shards/cub"})
    return path, network


def test_timm_loads_what_was_pushed(hub: Hub, run: tuple[Path, Encoder], capsys):
    import timm

    path, network = run
    assert cli.main(["push", str(path), "hf://my-lab/birds", "--licence", "mit", "--private"]) == 0
    assert "timm.create_model('hf-hub:my-lab/birds', pretrained=True)" in capsys.readouterr().out
    files = hub.repositories["my-lab/birds"]
    assert {"model.safetensors", "config.json", "README.md", "results.jsonl", "settings.json"} <= files.keys()
    assert hub.private["my-lab/birds"]
    theirs = timm.create_model("hf-hub:my-lab/birds", pretrained=True).eval()
    assert tuple(theirs.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), network(x).pooled, rtol=1e-4, atol=1e-5)  # another layout
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: timm\n")
    assert "license: mit\n" in card
    assert "| knn | k 20 | accuracy | 50.0% | 10.0% | 40 | abc |" in card
    assert "25.0%" not in card, "a result of another checkpoint"
    assert [json.loads(line)["step"] for line in files["results.jsonl"].splitlines()] == [7]
    assert json.loads(files["settings.json"])["init"] == "start.pth"
    assert not any(b"someone" in data for name, data in files.items() if name != "model.safetensors")


def test_the_weights_hold_no_path_of_the_machine(hub: Hub, run: tuple[Path, Encoder]):
    assert cli.main(["push", str(run[0]), "hf://my-lab/birds"]) == 0
    files = hub.repositories["my-lab/birds"]
    assert b"someone" not in files["model.safetensors"]
    assert "license: unknown" in files["README.md"].decode()
    assert "The licence of these weights is not stated." in files["README.md"].decode()


def test_a_second_push_replaces_the_first_as_a_whole(hub: Hub, run: tuple[Path, Encoder], capsys):
    """Results and settings of other weights do not stay beside new ones, nor does their card."""
    checkpoint = Checkpoint.find(run[0]).file
    assert cli.main(["push", str(run[0]), "hf://my-lab/birds"]) == 0
    files = hub.repositories["my-lab/birds"]
    files["notes.txt"] = b"mine"
    assert "50.0%" in files["README.md"].decode()
    alone = run[0].parent / "encoder.safetensors"
    shutil.copy(checkpoint, alone)
    assert cli.main(["push", str(alone), "hf://my-lab/birds"]) == 0
    assert files.keys() == {"model.safetensors", "config.json", "README.md", "notes.txt"}
    assert "50.0%" not in files["README.md"].decode()
    assert "is kept" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["edited", "own", "stub"])
def test_a_card_that_somebody_wrote_is_kept(kind: str, hub: Hub, run: tuple[Path, Encoder], capsys):
    assert cli.main(["push", str(run[0]), "hf://my-lab/birds"]) == 0
    files = hub.repositories["my-lab/birds"]
    written = files["README.md"]
    front = b"---\nlicense: mit\n---\n"
    card = {"edited": written.replace(b"## Results", b"## Our results"), "own": front + b"# Birds\n", "stub": front}
    files["README.md"] = card[kind]
    assert cli.main(["push", str(run[0]), "hf://my-lab/birds"]) == 0
    assert files["README.md"] == (written if kind == "stub" else card[kind])
    assert ("it is kept" in capsys.readouterr().out) == (kind != "stub")


def test_a_private_push_to_a_public_model_is_refused(hub: Hub, run: tuple[Path, Encoder], capsys):
    assert cli.main(["push", str(run[0]), "hf://my-lab/birds"]) == 0
    before, commits = dict(hub.repositories["my-lab/birds"]), list(hub.commits)
    assert cli.main(["push", str(run[0]), "hf://my-lab/birds", "--private"]) == 2
    assert "hf://my-lab/birds exists and is public, and --private" in " ".join(capsys.readouterr().err.split())
    assert (hub.repositories["my-lab/birds"], hub.commits) == (before, commits)
    hub.private["my-lab/birds"] = True
    assert cli.main(["push", str(run[0]), "hf://my-lab/birds", "--private"]) == 0


def test_a_hub_that_refuses_is_named(hub: Hub, run: tuple[Path, Encoder], capsys):
    hub.refuse = 403
    assert cli.main(["push", str(run[0]), "hf://my-lab/birds"]) == 2
    assert "hf://my-lab/birds could not be written: " in (error := capsys.readouterr().err)
    assert "hf auth login" in error


def test_a_network_that_timm_lacks_is_not_pushed(hub: Hub, tmp_path: Path, capsys):
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "1", "method": "byol"}
    checkpoint = RunDir(tmp_path / "a").save_checkpoint(1, Encoder(Model(width=8)), about, {}, keep=1)
    assert cli.main(["push", str(checkpoint), "hf://my-lab/birds"]) == 2
    assert "which timm does not have" in capsys.readouterr().err
    assert not hub.repositories


@pytest.mark.parametrize("kind", compare.SETTINGS)
def test_results_of_different_settings_are_different_rows_of_the_card(kind: str, run: tuple[Path, Encoder]):
    """Such as a figure of the validation images and one of the test split."""
    path, network = run
    names = (*compare.SETTINGS[kind], "size")
    plain = {"evaluation": kind, **dict.fromkeys(compare.FIGURES[kind], 0.5)} | dict.fromkeys(names, 1)
    lines = [plain, *({**plain, name: 2} for name in names)]
    card = model_card("a/b", Checkpoint.find(path), network, {}, lines, None)
    rows = [row for row in card.splitlines() if row.startswith(f"| {kind} |")]
    assert len(set(rows)) == len(rows) >= len(lines)
    without = {key: value for key, value in plain.items() if key != "split"}
    assert "split" not in model_card("a/b", Checkpoint.find(path), network, {}, [without], None)


@pytest.mark.parametrize("to", ["my-lab/birds", "hf://birds", "hf://a/b/c", "hf://a/../b"])
def test_an_address_that_is_none(to: str, tmp_path: Path, capsys):
    assert cli.main(["push", str(tmp_path), to]) == 2
    assert f"{to} is not the address of a model on the Hugging Face hub" in capsys.readouterr().err
