"""What an evaluation keeps: records before print, fits of the same weights and code only, and what a set lacks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec
from fgtrain import cli
from fgtrain.engine import lifecycle
from fgtrain.evaluate import compare, localization, report
from fgtrain.evaluate.every import MEASUREMENTS
from fgtrain.evaluate.finetune import Fit
from fgtrain.evaluate.records import read_records
from fgtrain.evaluate.subject import Subject
from fgtrain.settings import common, methods
from fgtrain.settings.evaluations import Finetune, Knn, Localization
from fgtrain.settings.file import plain
from fgtrain.studies.declaration import Column
from fgtrain.studies.figures import identify


@pytest.fixture(scope="module")
def run(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of a narrow network."""
    settings = methods.ByolConfig(
        data=common.Data(drawn_set, batch_size=16),
        views=ViewSpec(size=32),
        model=common.Model(width=8),
        byol=methods.ByolSettings(hidden=16, dim=8),
        epochs=1,
        machine=common.Machine(out=tmp_path_factory.mktemp("runs") / "byol", device="cpu", threads=2),
    )
    return lifecycle.train(settings, "byol")


SETTINGS = {
    "knn": {"k": 5},
    "linear": {"cache": True, "fractions": (1.0, 0.5), "epochs": 1},
    "retrieval": {},
    "localization": {},
    "finetune": {"epochs": 1, "batch_size": 8, "rates": (0.1,), "decays": (0.0,), "trials": 1},
}


def evaluate(name: str, run: Path) -> None:
    measurement = MEASUREMENTS[name]
    measurement.run(measurement.flags(run, device="cpu", **SETTINGS[name]))


def results(run: Path) -> list[dict[str, Any]]:
    return [line.values for line in read_records(run / "results.jsonl")]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_measurement_is_recorded_before_it_is_printed(name: str, run: Path, monkeypatch: pytest.MonkeyPatch):
    before = len(results(run))

    def gone(*parts: Any) -> None:
        if not isinstance(parts[0], str):  # the table
            raise BrokenPipeError

    monkeypatch.setattr(report, "say", gone)
    with pytest.raises(BrokenPipeError):
        evaluate(name, run)
    new = results(run)[before:]
    assert [line["evaluation"] for line in new] == [name] * (2 if name == "linear" else 1)
    lines = read_records(run / "results.jsonl")
    assert all(line.checked for line in lines)
    fraction = 0.5 if name == "linear" else 1.0  # a study finds the line again by the settings of its column
    columns = [Column("", "", name, figure, plain(SETTINGS[name]), fraction) for figure in compare.FIGURES[name]]
    wanted = [identify(column, 32, lines[-1].values["digest"]) for column in columns]
    assert all(compare.latest(lines)[column].values == new[-1] for column in wanted)


def test_a_measurement_that_cannot_be_recorded_is_printed(run: Path, monkeypatch, capsys):
    def full(*_: Any) -> None:
        raise InputError("results.jsonl could not be written: No space left on device.")

    monkeypatch.setattr("fgtrain.evaluate.subject.append_record", full)
    assert cli.main(["eval", "retrieval", str(run), "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert "mAP" in printed.out
    assert "results.jsonl could not be written" in printed.err


def test_a_fit_is_reused_only_for_the_same_weights_code_and_machine(run: Path, monkeypatch: pytest.MonkeyPatch):
    trained = []

    def tune(_make: Any, _shards: Any, _size: int, _device: Any, tuning: Finetune, finish: Any) -> Any:
        fit = Fit(tuning.rates[0], tuning.decays[0], tuning.seed, search=False)
        return fit, [finish(fit, lambda: trained.append(fit) or 0.25)]

    monkeypatch.setattr(report.finetune, "tune", tune)
    flags = Finetune(run, device="cpu", rates=(0.3,), decays=(0.0,), trials=1)

    def trains(flags: Finetune = flags) -> bool:
        before = len(trained)
        assert report.run_finetune(flags)[0]["accuracies"] == [0.25]
        return len(trained) > before

    assert trains()
    assert not trains()
    changes: list[tuple[str, Any]] = [
        ("checksum", lambda _: 1),
        ("provenance.commit", lambda: "another"),
        ("provenance.versions", lambda: {"torch": "another"}),
        ("provenance.name_of", lambda _: "another GPU"),
        ("has_bf16", lambda _: True),
    ]
    for name, value in changes:
        with monkeypatch.context() as patch:
            patch.setattr(f"fgtrain.evaluate.report.{name}", value)
            assert trains(), name
            assert not trains(), name
    assert trains(replace(flags, seed=1))
    assert trains(replace(flags, epochs=2))
    assert not trains()


def test_fits_of_earlier_versions_are_not_reused(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """They do not say which weights and code they are of."""
    trained = []
    old = {"rate": 0.7, "decay": 0.0, "seed": 0, "search": False, "step": 2, "size": 32, "epochs": 50}
    old |= {"batch_size": 16, "digest": Subject.open(Knn(run), ()).shards.manifest["digest"], "accuracy": 0.9}
    journal = run / "finetune.jsonl"
    kept = journal.read_bytes() if journal.is_file() else b""
    journal.write_bytes(json.dumps(old).encode() + b"\n" + kept)

    def tune(_make: Any, _shards: Any, _size: int, _device: Any, _tuning: Finetune, finish: Any) -> Any:
        fit = Fit(0.7, 0.0, 0, search=False)
        return fit, [finish(fit, lambda: trained.append(fit) or 0.25)]

    monkeypatch.setattr(report.finetune, "tune", tune)
    (record,) = report.run_finetune(Finetune(run, device="cpu", rates=(0.7,), decays=(0.0,), trials=1))
    assert (record["accuracies"], len(trained)) == ([0.25], 1)


def folder_set(path: Path, classes: dict[str, tuple[str, ...]]) -> Path:
    """A set of three flat images of each class, by split."""
    every = sorted({name for names in classes.values() for name in names})
    for split in classes:
        for shade, name in enumerate(every):
            (path / "images" / split / name).mkdir(parents=True)
            for i in range(3):
                image = Image.fromarray(np.full((32, 32, 3), 40 * i + 20 * shade, np.uint8))
                image.save(path / "images" / split / name / f"{i}.png")
    out = path / "set"
    known = read("folder", path / "images")  # refuses a test class without a train folder
    records = tuple(record for record in known.records if record.class_name in classes[record.split])
    build(replace(known, records=records), out, saliency=("spectral-residual",), workers=1)
    return out


def test_test_classes_without_train_images_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shards = folder_set(tmp_path, {"train": ("auk", "gull"), "test": ("gull", "tern[1]")})
    command = [str(run), "--shards", str(shards), "--device", "cpu"]
    for evaluation in (["knn", "--k", "2"], ["linear", "--cache", "--epochs", "1"]):
        assert cli.main(["eval", evaluation[0], *command, *evaluation[1:]]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "1 of 2 test classes have no train images (tern[1])" in printed
        assert "fgtrain eval retrieval" in printed


def test_a_set_whose_splits_share_no_class_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shards = folder_set(tmp_path, {"train": ("auk", "gull"), "test": ("tern", "wren")})
    for evaluation in (["knn", "--k", "2"], ["linear"], ["finetune", "--batch-size", "2"]):
        command = ["eval", evaluation[0], str(run), "--shards", str(shards), "--device", "cpu", *evaluation[1:]]
        assert cli.main(command) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert "(tern, wren)" in message
        assert "fgtrain eval retrieval" in message
    assert cli.main(["eval", "retrieval", str(run), "--shards", str(shards), "--device", "cpu"]) == 0


def test_a_label_beyond_the_classes_of_the_set_is_named(run: Path):
    subject = Subject.open(Knn(run, device="cpu"), ())
    with pytest.raises(InputError, match="class 9, but its manifest lists only 4"):
        subject.check_classes(torch.tensor([0, 1]), torch.tensor([9]))


def test_k_is_at_most_the_images_that_vote(run: Path, drawn_set: Path):
    """With --split train, each image of the train split is scored, and does not vote for itself."""
    images = ShardSet.open(drawn_set).splits
    for split, most in (("train", images["train"] - 1), ("test", images["train"])):
        record = report.run_knn(Knn(run, device="cpu", k=most, split=split))
        assert (record["k"], record["n"], record.get("split", "test")) == (most, images[split], split)
        with pytest.raises(InputError, match=rf"--k is {most + 1}; allowed: 1 to {most}, the images of the train"):
            report.run_knn(Knn(run, device="cpu", k=most + 1, split=split))


def test_images_without_a_box_are_counted(run: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    true_boxes = localization.true_boxes
    monkeypatch.setattr(
        localization, "true_boxes", lambda *given: [boxes[: i >= 3] for i, boxes in enumerate(true_boxes(*given))]
    )
    assert report.run_localization(Localization(run, device="cpu"))["n"] == 13
    assert "3 of 16 test images have no ground-truth box" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("shards", [[], "text", {"path": 3}, {"path": "a\0b"}, {"path": ["a"]}], ids=str)
def test_a_run_json_of_another_shape_is_named(shards: Any, run: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "checkpoints").symlink_to(run / "checkpoints")
    (copy / "config.json").write_bytes((run / "config.json").read_bytes())
    (copy / "run.json").write_text(json.dumps({"shards": shards}))
    with pytest.raises(InputError, match=r"run\.json.*shards.*Restore"):
        report.run_knn(Knn(copy, device="cpu", k=5))
