"""kNN against scikit-learn, the linear layer on features known to be separable, export into torchvision, the sheet."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.neighbors import KNeighborsClassifier
from torchvision import models

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import cli, config, methods, train
from fgtrain.checkpoint import Checkpoint
from fgtrain.evaluate import pictures, probe, report


@pytest.fixture(scope="module")
def run(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of a standard-width ResNet-18, so that its export fits torchvision's."""
    settings = methods.ByolConfig(
        data=config.Data(drawn_set, batch_size=16),
        views=ViewSpec(size=32),
        byol=methods.Byol(hidden=16, dim=8),
        epochs=1,
        machine=config.Machine(out=tmp_path_factory.mktemp("runs") / "byol", device="cpu", threads=2),
    )
    return train.train(settings, "byol")


def clusters(seed: int, n: int, spread: float, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (n,), generator=generator)
    return centres[labels] + spread * torch.randn(n, 16, generator=generator), labels


@pytest.mark.parametrize("temperature", [0.0, 0.07])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_knn_agrees_with_scikit_learn(k: int, temperature: float):
    bank, labels = clusters(0, 400, spread=2.0)
    queries, _ = clusters(1, 150, spread=2.0)
    weights = "uniform" if temperature == 0 else (lambda distance: np.exp((1 - distance) / temperature))
    theirs = KNeighborsClassifier(k, algorithm="brute", metric="cosine", weights=weights)  # pyright: ignore[reportArgumentType]
    theirs.fit(bank.double().numpy(), labels.numpy())
    ours = probe.knn_predict(bank.double(), labels, queries.double(), k, temperature, 5)
    assert ours.tolist() == theirs.predict(queries.double().numpy()).tolist()


def test_knn_with_more_neighbours_than_bank_uses_them_all():
    predicted = probe.knn_predict(torch.eye(3), torch.tensor([1, 1, 0]), torch.eye(3), 20, 0.0, 2)
    assert predicted.tolist() == [1, 1, 1]


@pytest.mark.parametrize("protocol", probe.PROTOCOLS.values(), ids=probe.PROTOCOLS)
def test_linear_learns_separable_features(protocol: probe.Protocol):
    features, labels = clusters(0, 120, spread=0.3)
    queries, truth = clusters(1, 100, spread=0.3)
    rows = (features, labels, torch.arange(120))
    valid = probe.held_out(labels, seed=0)
    layer, rate = probe.fit_linear(lambda _epoch: rows, valid, 5, protocol, seed=0)
    assert rate in protocol.rates
    assert (layer(queries).argmax(1) == truth).float().mean() > 0.95


def test_held_out_part_is_a_tenth_of_each_class():
    labels = torch.tensor([0] * 40 + [1] * 5 + [2])
    held = probe.held_out(labels, seed=3)
    assert [int(held[labels == c].sum()) for c in range(3)] == [4, 1, 0]


def test_score_and_paired_difference_on_paper():
    right, other = torch.tensor([True] * 3 + [False]), torch.tensor([True, False, False, True])
    assert probe.score(right) == {"accuracy": 0.75, "standard_error": pytest.approx(0.75**0.5 / 4), "n": 4}
    gain, error = probe.paired(right, other)  # differences 0, 1, 1, -1
    assert gain == pytest.approx(0.25)
    assert error == pytest.approx(((0.0625 + 2 * 0.5625 + 1.5625) / 4 / 4) ** 0.5)


def test_eval_commands_append_results(run: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["eval", "knn", str(run), "--k", "5", "--untrained"]) == 0
    assert cli.main(["eval", "linear", str(run / "checkpoints" / "last"), "--protocol", "cvsa", "--cache"]) == 0
    printed = capsys.readouterr().out
    assert "untrained" in printed
    assert "gain over untrained" in printed
    records = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert [r["evaluation"] for r in records] == ["knn", "linear"]
    assert all(r["n"] == 16 and r["chance"] == 0.25 and 0 <= r["accuracy"] <= 1 for r in records)
    assert {"untrained", "gain", "gain_standard_error", "k"} <= records[0].keys()


def test_linear_on_fresh_crops_runs(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(probe.PROTOCOLS, "synth-pair", probe.Protocol(2, 8, (30.0,)))
    assert report.run_linear(run, None, "synth-pair", cache=False, seed=0, size=None, device="cpu")["n"] == 16


def test_untrained_network_is_the_one_the_run_started_from(run: Path):
    found = Checkpoint.find(run)
    started = train.objectives.build(found.run.config(), samples=32).encoder  # pyright: ignore[reportOptionalMemberAccess]
    ours, trained = found.untrained().state_dict(), found.encoder().state_dict()
    assert all(torch.equal(v, started.state_dict()[k]) for k, v in ours.items())
    assert not torch.equal(ours["conv1.weight"], trained["conv1.weight"])


def test_export_loads_into_torchvision(run: Path, tmp_path: Path):
    assert cli.main(["export", str(run), str(tmp_path / "encoder.safetensors")]) == 0
    network = models.resnet18()
    result = network.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=False)
    assert set(result.missing_keys) == {"fc.weight", "fc.bias"}
    assert not result.unexpected_keys
    assert cli.main(["export", str(run), str(tmp_path / "encoder.pt")]) == 2


def test_encoder_alone_is_evaluated_with_shards_named(run: Path, drawn_set: Path, tmp_path: Path):
    file = tmp_path / "encoder.safetensors"
    report.run_export(run, file)
    record = report.run_knn(file, drawn_set, 5, 0.07, untrained=False, size=None, device="cpu")
    assert record["size"] == 32
    with pytest.raises(InputError, match="initial weights are unknown"):
        report.run_knn(file, drawn_set, 5, 0.07, untrained=True, size=None, device="cpu")


def test_what_is_no_encoder_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no encoder of fgtrain"):
        Checkpoint.find(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"not one")
    with pytest.raises(InputError, match="no encoder of fgtrain"):
        Checkpoint.find(tmp_path / "weights.safetensors")


def test_list_names_recipes_and_runs(run: Path, drawn_set: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "shards").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run)
    (tmp_path / "shards" / "drawn").symlink_to(drawn_set)
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("cvsa", "byol", "runs/mine", "done", "shards/drawn", "gt"))


def test_contact_sheet_shows_box_and_masks(run: Path, drawn_set: Path, tmp_path: Path):
    out = tmp_path / "views.png"
    line = f"show views --data.shards {drawn_set} --data.detector gt --size 64 --rows 3 --out {out}"
    assert cli.main(line.split()) == 0
    sheet = np.asarray(Image.open(out))
    marks = (sheet == pictures.MARK).all(2)
    height = (sheet.shape[0] - 2 * pictures.MARGIN - pictures.HEADER) // 3
    for row in range(3):
        top = pictures.MARGIN + pictures.HEADER + row * height
        for left in (pictures.MARGIN, pictures.MARGIN + 64 + pictures.GROUP_GAP):  # the image, and its first view
            assert marks[top : top + 64, left : left + 64].sum() > 40
    assert cli.main(["show", "views", str(run), "--rows", "2", "--size", "48"]) == 0
    assert (run / "views.png").is_file()


def test_extent_and_wrapping_of_the_sheet():
    mask = np.zeros((10, 10))
    assert pictures.extent(mask) is None
    mask[2:5, 3:9] = 1
    assert pictures.extent(mask) == (3, 2, 9, 5)
    font = pictures.ImageFont.load_default(15)
    assert pictures.wrapped("one two three four five six seven", font, 80).count("\n") == 2
