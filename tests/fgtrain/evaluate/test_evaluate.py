"""kNN against scikit-learn, every eval command on a small run, refused settings, and export."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import DOCS, python_block, python_blocks
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from trainable import small

from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec
from fgtrain import cli, objectives
from fgtrain.engine import lifecycle
from fgtrain.evaluate import finetune, knn, linear, probe, report
from fgtrain.evaluate.subject import untrained_encoder
from fgtrain.networks.encoder import Encoder
from fgtrain.networks.saved import load_encoder, run_export
from fgtrain.runs import provenance
from fgtrain.runs.checkpoint import Checkpoint
from fgtrain.settings import common, methods
from fgtrain.settings.evaluations import Export, Knn, Linear


@pytest.fixture(scope="module")
def run(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of a standard-width ResNet-18, so that its export fits torchvision's."""
    settings = methods.ByolConfig(
        data=common.Data(drawn_set, batch_size=16),
        views=ViewSpec(size=32),
        byol=methods.ByolSettings(hidden=16, dim=8),
        epochs=1,
        machine=common.Machine(out=tmp_path_factory.mktemp("runs") / "byol", device="cpu", threads=2),
    )
    return lifecycle.train(settings, "byol")


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
    ours = knn.knn_predict(bank.double(), labels, queries.double(), k, temperature, 5)
    assert ours.tolist() == theirs.predict(queries.double().numpy()).tolist()


def test_knn_at_a_low_temperature_equals_float64():
    """exp(1 / 0.005) overflows float32: every weight would be infinite, and the lowest class would win."""
    bank, labels = clusters(0, 400, spread=2.0)
    queries, _ = clusters(1, 150, spread=2.0)
    unit = torch.nn.functional.normalize
    similarity = unit(queries.double()) @ unit(bank.double()).T
    votes = torch.zeros(150, 5, dtype=torch.float64)
    for q in range(150):
        for n in similarity[q].argsort(descending=True)[:7].tolist():
            votes[q, labels[n]] += (similarity[q, n] / 0.005).exp()
    assert knn.knn_predict(bank, labels, queries, 7, 0.005, 5).tolist() == votes.argmax(1).tolist()


@pytest.mark.parametrize("cells", [knn.CELLS, 400 * 64])
def test_leave_one_out_agrees_with_scikit_learn(cells: int, monkeypatch: pytest.MonkeyPatch):
    """Without queries, KNeighborsClassifier predicts each image from the others too; also in parts of 64 rows."""
    monkeypatch.setattr(knn, "CELLS", cells)
    bank, labels = clusters(0, 400, spread=2.0)
    theirs = KNeighborsClassifier(7, algorithm="brute", metric="cosine").fit(bank.double().numpy(), labels.numpy())
    ours = knn.knn_predict(bank.double(), labels, None, 7, 0.0, 5)
    assert ours.tolist() == theirs.predict(None).tolist()
    assert ours.tolist() != knn.knn_predict(bank.double(), labels, bank.double(), 7, 0.0, 5).tolist()


def test_an_image_without_another_of_its_class_votes_but_is_not_scored():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, -0.01]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    right = knn.classify_each((features, labels, torch.arange(5)), k=1, temperature=0.0, classes=3)
    assert right.tolist() == [False, True, True, True]  # the nearest of the first is the fifth
    with pytest.raises(InputError, match="No class of the train split has two images"):
        knn.classify_each((features[::2], labels[::2], torch.arange(3)), k=1, temperature=0.0, classes=3)


def test_knn_with_more_neighbours_than_bank_uses_them_all():
    predicted = knn.knn_predict(torch.eye(3), torch.tensor([1, 1, 0]), torch.eye(3), 20, 0.0, 2)
    assert predicted.tolist() == [1, 1, 1]


def test_score_and_paired_difference_on_paper():
    right, other = torch.tensor([True] * 3 + [False]), torch.tensor([True, False, False, True])
    assert probe.score(right) == {"accuracy": 0.75, "standard_error": pytest.approx(0.75**0.5 / 4), "n": 4}
    gain, error = probe.paired(right, other)  # differences 0, 1, 1, -1
    assert gain == pytest.approx(0.25)
    assert error == pytest.approx(((0.0625 + 2 * 0.5625 + 1.5625) / 4 / 4) ** 0.5)


def test_every_evaluation_prints_a_table_and_appends_a_line(run: Path, capsys: pytest.CaptureFixture[str]):
    commands = [
        f"knn {run} --k 5 --untrained",
        f"linear {run}/checkpoints/last --protocol cvsa --cache --fractions 1 0.5 --trials 2 --epochs 3",
        f"retrieval {run} --untrained",
        f"localization {run} --untrained",
        f"finetune {run} --epochs 1 --batch-size 8 --rates 0.1 0.01 --decays 0 --trials 2",
    ]
    for line in commands:
        assert cli.main(["eval", *line.split()]) == 0
        printed = capsys.readouterr().out
        assert ("gain over untrained" in printed) == ("--untrained" in line)
        assert ("A map of 1 x 1 positions shows little" in printed) == line.startswith("localization")
        assert "┃" in printed
    records = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()[-6:]]
    assert [r["evaluation"] for r in records] == ["knn", "linear", "linear", "retrieval", "localization", "finetune"]
    facts = {"step", "n", "size", "shards", "digest", "at"}
    assert all(r["n"] == 16 and facts <= r.keys() for r in records)
    source = {"commit": provenance.commit(), "versions": provenance.versions(), "device": "cpu"}
    assert all(source.items() <= r.items() for r in records)
    assert "torch" in source["versions"]
    errors = [[name for name in r if name.endswith("standard_error")] for r in records]
    figures = ["", "", "", "map_", "maxboxacc_", ""]
    assert [f"{figure}standard_error" in names for figure, names in zip(figures, errors)] == [True] * 6
    assert {"untrained", "gain", "gain_standard_error", "k", "chance"} <= records[0].keys()
    assert [(r["fraction"], len(r["accuracies"]), r["epochs"]) for r in records[1:3]] == [(1.0, 2, 3), (0.5, 2, 3)]
    assert all(len(r["lrs"]) == 2 and set(r["lrs"]) <= {0.1, 0.01, 0.001} for r in records[1:3])
    assert all(r["interval_half"] >= 0 for r in (*records[1:3], records[5]))
    assert all(0 <= records[3][name] <= 1 for name in ("rank1", "rank5", "map", "map_chance"))
    assert 0 <= records[4]["maxboxacc"] <= 1
    assert (records[5]["trials"], records[5]["lr"] in (0.1, 0.01)) == (2, True)


def test_a_stopped_fine_tuning_resumes_after_its_last_finished_fit(run: Path, monkeypatch, capsys):
    """Stopped in its third fit: the first two are not trained again, and the result equals an uninterrupted one."""
    line = f"eval finetune {run} --epochs 1 --batch-size 8 --rates 0.1 0.05 --decays 0 --trials 1 --seed 5".split()
    trained, fine_tune = [], finetune.fine_tune

    def counted(*given):
        trained.append(given[4])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return fine_tune(*given)

    monkeypatch.setattr(finetune, "fine_tune", counted)
    assert cli.main(line) == 130
    assert cli.main(line) == 0
    assert len(trained) == 4
    assert "(from finetune.jsonl)" in capsys.readouterr().out
    last = json.loads((run / "results.jsonl").read_text().splitlines()[-1])
    (run / "finetune.jsonl").unlink()
    assert cli.main(line) == 0
    assert len(trained) == 7
    again = json.loads((run / "results.jsonl").read_text().splitlines()[-1])
    same = {"at": "", "crc32": 0}
    assert {**last, **same} == {**again, **same}


def test_linear_on_fresh_crops(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Every epoch has new crops of all samples; --epochs changes only the epochs of the protocol."""
    epochs, protocols, fit = [], [], linear.fit

    def watched(passes, trials, protocol, device):
        epochs.extend(next(passes) for _ in range(protocol.epochs))
        protocols.append(protocol)
        fit(epochs, trials, protocol, device)

    monkeypatch.setattr(linear, "fit", watched)
    (record,) = report.run_linear(Linear(run, device="cpu", epochs=2))
    assert (record["n"], record["epochs"], record["cache"]) == (16, 2, False)
    assert protocols == [linear.Protocol(2, 128, (30.0,), drops=(0.6, 0.8))]
    (one, labels, numbers), (two, *same) = epochs
    assert numbers.tolist() == list(range(32))
    assert torch.equal(labels, same[0])
    assert torch.equal(numbers, same[1])
    assert not torch.isclose(one, two).all(1).any()


def test_the_batch_and_the_rate_of_a_linear_protocol_are_recorded_where_they_are_changed(run: Path, monkeypatch):
    protocols, fit = [], linear.fit
    monkeypatch.setattr(linear, "fit", lambda *given: (protocols.append(given[2]), fit(*given)))
    flags = Linear(run, device="cpu", protocol="cvsa", cache=True, epochs=2, batch_size=8, rate=0.025)
    (record,) = report.run_linear(flags)
    assert (record["batch_size"], record["rate"], record["lrs"]) == (8, 0.025, [0.025])
    assert protocols == [linear.Protocol(2, 8, (0.025,))]
    same = replace(flags, protocol="synth-pair", batch_size=128, rate=30.0)
    (record,) = report.run_linear(same)
    assert not {"batch_size", "rate"} & record.keys()
    assert protocols[1] == linear.Protocol(2, 128, (30.0,), drops=(0.6, 0.8))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("linear --batch-size 0", "--batch-size is 0; allowed: 1 to"),
        ("linear --rate 0", "--rate is 0.0; allowed: above 0"),
        ("knn --k 0", "--k is 0; allowed: 1 to 32, the images of the train split"),
        ("knn --k 33", "--k is 33"),
        ("knn --temperature -1", "--temperature is -1.0; allowed: 0, or 0.001 to 1,000"),
        ("knn --size 7", "--size is 7; allowed: 8 to 4096 pixels"),
        ("linear --fractions 0", "--fractions is 0; allowed"),
        (
            "linear --fractions 0.01 --cache",
            "this set allows 0.063 to 1",
        ),
        ("linear --trials 0", "--trials is 0"),
        ("finetune --batch-size 1", "--batch-size is 1"),
    ],
)
def test_invalid_settings_are_refused(line: str, message: str, run: Path, capsys: pytest.CaptureFixture[str]):
    what, *flags = line.split()
    before = (run / "results.jsonl").stat().st_size if (run / "results.jsonl").is_file() else 0
    assert cli.main(["eval", what, str(run), *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    after = (run / "results.jsonl").stat().st_size if (run / "results.jsonl").is_file() else 0
    assert after == before


def test_a_set_without_a_test_split_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.new("RGB", (64, 48), (60 * i, 90, 30)).save(tmp_path / "images" / f"{i}.jpg")
    build(read("flat", tmp_path / "images"), tmp_path / "flat", saliency=("spectral-residual",), workers=1)
    for what in ("knn", "linear", "finetune", "localization", "retrieval"):
        assert cli.main(["eval", what, str(run), "--shards", str(tmp_path / "flat")]) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert "no test split" in message
        assert "train (4)" in message


def test_a_set_of_one_class_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = tmp_path / "images"
    for split in ("train", "test"):
        (images / split / "gull").mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (64, 48), (60 * i, 90, 30)).save(images / split / "gull" / f"{i}.jpg")
    build(read("folder", images), tmp_path / "set", saliency=("spectral-residual",), workers=1)
    for what in ("knn", "linear", "finetune", "localization", "retrieval"):
        assert cli.main(["eval", what, str(run), "--shards", str(tmp_path / "set")]) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert "has 1 class," in message


def test_untrained_network_is_the_one_the_run_started_from(run: Path):
    checkpoint = Checkpoint.find(run)
    started = objectives.build(checkpoint.run.config(), samples=32).encoder  # pyright: ignore[reportOptionalMemberAccess]
    ours, trained = untrained_encoder(checkpoint).state_dict(), load_encoder(checkpoint).state_dict()
    assert all(torch.equal(v, started.state_dict()[k]) for k, v in ours.items())
    assert not torch.equal(ours["conv1.weight"], trained["conv1.weight"])


def test_the_untrained_network_of_replaced_weights_is_refused(drawn_set: Path, tmp_path: Path):
    config = small(drawn_set, tmp_path / "run", "simclr")
    torch.save(Encoder(config.model).state_dict(), tmp_path / "start.pth")
    run = lifecycle.train(replace(config, init=str(tmp_path / "start.pth"), epochs=1), "simclr")
    untrained_encoder(Checkpoint.find(run))
    torch.save(Encoder(config.model).state_dict(), tmp_path / "start.pth")
    with pytest.raises(InputError, match=r"start\.pth is another file than the one that the run started from"):
        untrained_encoder(Checkpoint.find(run))


def test_export_loads_into_torchvision_as_the_page_says(run: Path, tmp_path: Path, monkeypatch, capsys):
    assert cli.main(["export", str(run), str(tmp_path / "encoder.safetensors")]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    (block,) = python_blocks(DOCS / "training.md")
    exec(compile(block, "docs/training.md", "exec"), {})
    assert "missing_keys=['fc.weight', 'fc.bias'], unexpected_keys=[]" in capsys.readouterr().out
    assert cli.main(["export", str(run), str(tmp_path / "encoder.pt")]) == 2


def test_the_guide_predicts_one_image_as_eval_knn_does(run: Path, drawn_set: Path, tmp_path: Path, monkeypatch, capsys):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install pyarrow")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(run), "encoder.safetensors"]) == 0
    assert cli.main(["embed", str(run), str(drawn_set), "--device", "cpu"]) == 0
    Path("new.jpg").write_bytes(ShardSet.open(drawn_set).split("test").read(0)["jpg"])
    names: dict = {}
    capsys.readouterr()
    code = python_block(DOCS / "guides.md", "pyarrow").replace("224  #", "32  #").replace("topk(20)", "topk(5)")
    exec(compile(code, "docs/guides.md", "exec"), names)
    table = pq.read_table("features.parquet")
    row = next(row for row in table.to_pylist() if row["split"] == "test")
    cosine = torch.cosine_similarity(names["feature"], torch.tensor([row["feature"]])).item()
    assert cosine > 0.99  # Pillow resizes the image here, fgdata there
    bank, labels = names["bank"].double(), names["labels"]
    predicted = knn.knn_predict(bank, labels, names["feature"].double(), 5, 0.07, int(labels.max()) + 1)
    assert capsys.readouterr().out == f"{names['names'][int(predicted)]}\n"


def test_encoder_alone_is_evaluated_with_shards_named(run: Path, drawn_set: Path, tmp_path: Path):
    file = tmp_path / "encoder.safetensors"
    run_export(Export(run, file))
    record = report.run_knn(Knn(file, drawn_set, device="cpu", k=5))
    assert record["size"] == 32
    with pytest.raises(InputError, match="initial weights are unknown"):
        report.run_knn(Knn(file, drawn_set, device="cpu", k=5, untrained=True))


def test_files_that_are_not_encoders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"config\.json.*encoder\.safetensors.*runs/"):
        Checkpoint.find(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"not one")
    with pytest.raises(InputError, match=r"weights\.safetensors.*encoder"):
        Checkpoint.find(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eval linear RUN --seed -1", "--seed is -1; allowed: 0 to 2^64 - 1"),
        ("eval localization RUN --seed -1", "--seed is -1"),
        ("show gradcam RUN --seed -1", "--seed is -1"),
        ("show curves RUN --out a.txt", "--out is a.txt; allowed: a file whose name ends in .png"),
    ],
)
def test_flags_that_commands_share_are_refused_before_any_work(line: str, message: str, run: Path, capsys):
    assert cli.main([str(run) if word == "RUN" else word for word in line.split()]) == 2
    assert message in capsys.readouterr().err
