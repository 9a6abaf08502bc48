"""Lists of labelled images: which images a line names, what is refused, and that only these are learned from."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from trainable import metrics, small

from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, label, meta
from fgdata.views.mattes import Mattes
from fgtrain.engine.lifecycle import train
from fgtrain.engine.needs import choose_images
from fgtrain.evaluate.compare import latest
from fgtrain.evaluate.labels import Labelled, Names, Share
from fgtrain.evaluate.probe import labelled, labels_of
from fgtrain.evaluate.records import append_record, read_records
from fgtrain.evaluate.report import run_finetune, run_knn, run_linear
from fgtrain.settings.evaluations import Finetune, Knn, Linear
from fgtrain.studies.declaration import Column
from fgtrain.studies.figures import identify

DETECTOR = "spectral-residual"


@pytest.fixture(scope="module")
def images(drawn_set: Path) -> list[tuple[str, str, int]]:
    """Id, file and class of every train image."""
    reader = ShardSet.open(drawn_set).split("train")
    samples = [reader.read(number, without="jpg") for number in range(len(reader))]
    return [(meta(sample)["id"], meta(sample)["file"], label(sample)) for sample in samples]


def listed(shards: Path, tmp_path: Path, *lines: str) -> list[int]:
    """The numbers of the images that a file of these lines lists."""
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(lines))
    return Labelled(ShardSet.open(shards), "train", file).split("train").rows  # pyright: ignore


def test_a_line_is_an_id_or_a_path_and_perhaps_a_label(drawn_set, images, tmp_path):
    name = ShardSet.open(drawn_set).classes[images[4][2]]
    lines = (
        images[7][0],
        f"{images[2][1]} {images[2][2]}",
        f"./data/Birds/images/{images[3][1]},{images[3][2]}",
        "",
        f"{images[4][1]}\t{name}",
        f"{images[5][0]} , {images[5][2]}",
        images[7][0],
    )
    assert listed(drawn_set, tmp_path, *lines) == [2, 3, 4, 5, 7]


def test_the_end_of_a_path_names_an_image_where_it_is_unique():
    files = ["train/a b/1.jpg", "train/a b/2.jpg", "train/c/1.jpg"]
    samples = [
        type("S", (dict,), {"info": {"id": str(10 + i), "file": file}})(cls=b"0") for i, file in enumerate(files)
    ]
    reader = type("Reader", (), {"__len__": lambda _: 3, "read": lambda _, number, without: samples[number]})()
    names = Names(SimpleNamespace(split=lambda _: reader), "train")  # pyright: ignore
    for name, number in (
        ("10", 0),
        ("a b/2.jpg", 1),
        ("2.jpg", 1),
        ("1.jpg", None),
        ("c/1.jpg", 2),
        ("x/train/c/1.jpg", 2),
        ("x/c/1.jpg", None),
        ("x/10", None),
    ):
        assert names.find(name) == number, name


def test_what_cannot_be_used_is_counted_and_named(drawn_set, images, tmp_path):
    wrong = (images[0][2] + 1) % 4
    for lines, says in (
        (["absent.jpg 0", images[0][0], "b.jpg"], r"labels.txt, 2 of 3 lines: no such image in the train.*: absent"),
        ([f"{images[0][0]} {wrong}"], rf"1 of 1 line: another label .*{wrong} \(in the set class {images[0][2]}"),
        (["", " "], "lists no image"),
        (["x" * 5000], "1 of 1 line: no such image"),
    ):
        with pytest.raises(InputError, match=says):
            listed(drawn_set, tmp_path, *lines)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for file, says in (("binary", "is not a list of images"), ("none", "no file at")):
        with pytest.raises(InputError, match=says):
            Labelled(ShardSet.open(drawn_set), "train", tmp_path / file)


def test_a_run_and_its_evaluations_learn_from_the_listed_images(drawn_set, images, tmp_path, capsys):
    file = tmp_path / "labels.txt"
    file.write_text("".join(f"{id_} {number}\n" for id_, _, number in images[:16] + images[20:24]))
    config = small(drawn_set, tmp_path / "run", "supervised")
    config = replace(config, epochs=1, data=replace(config.data, labels=file, batch_size=10))
    train(config, "supervised")
    text = capsys.readouterr().out
    assert "labels: 20 of 32 images of train, listed in" in text
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["step"] == 2, "two batches of 10"
    assert facts["labels"].startswith(f"{file} (")

    run = tmp_path / "run"
    [linear] = run_linear(Linear(run, labels=file, cache=True, epochs=1, device="cpu"))
    one = {"rates": (0.01,), "decays": (0.0,), "trials": 1, "epochs": 1, "batch_size": 10}
    [tuned] = run_finetune(Finetune(run, labels=file, device="cpu", **one))
    assert linear["labels"] == tuned["labels"] == facts["labels"]
    digest, found = ShardSet.open(drawn_set).manifest["digest"], latest(read_records(run / "results.jsonl"))
    settings = {"labels": str(file), "epochs": 1}
    for kind, more in (("linear", {"cache": True}), ("finetune", {**one, "rates": [0.01], "decays": [0.0]})):
        column = Column(kind, "drawn", kind, "accuracy", settings | more)
        assert identify(column, 32, digest) in found, "a study finds what it has measured"
    append_record(run / "results.jsonl", {key: value for key, value in linear.items() if key != "labels"})
    columns = latest(read_records(run / "results.jsonl"))
    assert {dict(column.settings)["labels"] for column in columns} == {facts["labels"], None}, "one without a list"
    with pytest.raises(InputError, match="--batch-size is 21; allowed: 2 to 20, the number of training images"):
        run_finetune(Finetune(run, labels=file, device="cpu", **{**one, "batch_size": 21}))

    file.write_text(images[0][0])
    again = replace(config, machine=replace(config.machine, resume=True))
    with pytest.raises(InputError, match=r"was trained on the images of .*--data.labels now gives .*Restore the file"):
        train(again, "supervised")


def test_a_run_learns_from_a_fraction_of_every_class(drawn_set, tmp_path, capsys):
    """Those of an evaluation's fraction with the run's seed: 4 of 8 images of each of 4 classes."""
    shards = ShardSet.open(drawn_set)
    labels = labels_of(shards, "train")
    for seed in (0, 3):
        part = Share(shards, "train", 0.5, seed)
        rows = part.split("train").rows  # pyright: ignore
        assert rows == labelled(labels, 0.5, seed).nonzero()[:, 0].tolist()
        assert labels[rows].bincount().tolist() == [4, 4, 4, 4]
        assert part.map_row("train", 2) == rows[2]
    with pytest.raises(InputError, match=r"--data.labels 0.01 leaves a class of 8 training images.*0.063 to 1"):
        Share(shards, "train", 0.01, 0)
    config = small(drawn_set, tmp_path / "run", "supervised")
    config = replace(config, seed=3, epochs=1, data=replace(config.data, labels=0.5))
    train(config, "supervised")
    assert "labels: 16 of 32 images of train, 0.5 of every class, seed 3" in capsys.readouterr().out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["step"], facts["labels"]) == (2, "0.5 of every class, seed 3")
    train(replace(config, machine=replace(config.machine, resume=True)), "supervised")  # it reads 0.5 from config.json
    with pytest.raises(InputError, match="--data.labels is 1.5; allowed: above 0, at most 1"):
        replace(config, data=replace(config.data, labels=1.5))


def test_measurements_during_training_are_those_of_the_evaluations(drawn_set, tmp_path):
    """Of the whole set, whatever part of it is learned from; pictures are drawn too."""
    config = small(drawn_set, tmp_path / "run", "supervised", knn_every=1, linear_every=1, pictures_every=1)
    run = train(replace(config, epochs=1, data=replace(config.data, labels=0.5)), "supervised")
    (line,) = [line for line in metrics(run) if "knn" in line]
    [linear] = run_linear(Linear(run, cache=True, epochs=30, device="cpu"))
    assert line["knn"] == pytest.approx(run_knn(Knn(run, device="cpu"))["accuracy"])
    assert line["linear"] == pytest.approx(linear["accuracy"])
    assert len(list((run / "pictures").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("byol", {}, "byol learns without labels.*--labels"),
        ("supervised", {"shuffle_block": 2}, "cannot be combined with --data.shuffle-block"),
        ("supervised", {}, "^--data.labels: there is no file at"),
    ],
)
def test_a_run_that_cannot_use_a_list_refuses_it(drawn_set, tmp_path, name, change, says):
    config = small(drawn_set, tmp_path / "run", name)
    with pytest.raises(InputError, match=says):
        train(replace(config, data=replace(config.data, labels=tmp_path / "labels.txt", **change)), name)


def test_pasted_mattes_are_those_of_the_listed_images(tmp_path):
    build(read("drawn", classes=2, images_per_class=6, size=64), tmp_path / "set", saliency=(DETECTOR,), keep_maps=True)
    whole, file = ShardSet.open(tmp_path / "set"), tmp_path / "labels.txt"
    reader, rows = whole.split("train"), [1, 4, 6]
    file.write_text("".join(f"{meta(reader.read(row, without='jpg'))['id']}\n" for row in rows))
    config = small(tmp_path / "set", tmp_path / "run", "supervised")
    views = replace(config.views, crop="matte-paste", mattes=True, matte=1.0)
    config = replace(config, views=views, data=replace(config.data, detector=DETECTOR, labels=file, batch_size=3))
    chosen = choose_images(config, whole)
    every = Mattes(whole, "train", DETECTOR)
    for number, row in enumerate(rows):
        assert np.array_equal(Mattes(chosen, "train", DETECTOR).read(number).alpha, every.read(row).alpha)
    assert not np.array_equal(every.read(0).alpha, every.read(rows[0]).alpha)  # so the numbers matter
    train(replace(config, epochs=1), "supervised")
