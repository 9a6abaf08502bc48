"""`fgtrain embed`: rows of a shard set and of a folder, against the features of the evaluations."""

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgdata import datasets
from fgdata.shards.reader import ShardSet, SplitReader, label, meta
from fgdata.views import threads
from fgtrain import cli
from fgtrain.evaluate.embed import Folder
from fgtrain.evaluate.probe import embed
from fgtrain.networks.encoder import Encoder
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Model

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    """A narrow network, and the folder of its checkpoint."""
    network = Encoder(Model(width=8)).eval()
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "1", "method": "byol"}
    return network, RunDir(tmp_path_factory.mktemp("embed")).save_checkpoint(1, network, about, {}, keep=1)


def test_rows_of_a_shard_set_are_the_features_of_evaluations(encoder, drawn_set: Path, tmp_path: Path):
    network, checkpoint = encoder
    out = tmp_path / "new" / "features.parquet"
    assert cli.main(["embed", str(checkpoint), str(drawn_set), "--out", str(out), "--device", "cpu"]) == 0
    table = pq.read_table(out)
    assert table.schema.field("feature").type.list_size == network.dim
    assert json.loads(table.schema.metadata[b"fgtrain"])["size"] == 32
    rows, shards = table.to_pylist(), ShardSet.open(drawn_set)
    assert [r["split"] for r in rows] == ["train"] * 32 + ["test"] * 16
    for split in ("train", "test"):
        features, labels, _ = embed(network, shards, split, network.evaluation_view(32), torch.device("cpu"))
        own = [r for r in rows if r["split"] == split]
        np.testing.assert_array_equal(np.array([r["feature"] for r in own], np.float32), features.numpy())
        assert [r["label"] for r in own] == labels.tolist()
        infos = [meta(shards.split(split).read(i)) for i in range(len(own))]
        assert [(r["id"], r["file"], r["class"]) for r in own] == [(m["id"], m["file"], m["class"]) for m in infos]
    assert pq.read_table(out).to_pandas()["feature"].iloc[0].shape == (network.dim,)


def test_a_folder_gives_the_rows_of_its_shard_set(encoder, drawn_set: Path, tmp_path: Path, capsys):
    """The images of a set as files; one of them stored on its side, with an EXIF tag that says so."""
    _, checkpoint = encoder
    root, shards, expected = tmp_path / "birds", ShardSet.open(drawn_set), {}
    for split, count in shards.splits.items():
        for i in range(count):
            sample = shards.split(split).read(i)
            name = f"{split}/{shards.classes[label(sample)]}/{i}.jpg"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(sample["jpg"])
            expected[name] = (split, label(sample), i)
    upright = Image.open(io.BytesIO(shards.split("train").read(0)["jpg"])).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = root / "train" / shards.classes[0] / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    assert cli.main(["embed", str(checkpoint), str(root), "--out", str(tmp_path / "a.parquet"), "--device", "cpu"]) == 0
    assert "33" in capsys.readouterr().out
    assert cli.main(["embed", str(checkpoint), str(drawn_set), "--out", str(tmp_path / "b.parquet")]) == 0
    rows = {r["file"]: r for r in pq.read_table(tmp_path / "a.parquet").to_pylist()}
    of_set = pq.read_table(tmp_path / "b.parquet").to_pylist()
    by_number = {s: [r for r in of_set if r["split"] == s] for s in shards.splits}
    assert rows.keys() == {*expected, turned.relative_to(root).as_posix()}
    for name, (split, number, i) in expected.items():
        assert (rows[name]["split"], rows[name]["label"]) == (split, number)
        np.testing.assert_allclose(rows[name]["feature"], by_number[split][i]["feature"], rtol=1e-4, atol=1e-5)
    side = rows[turned.relative_to(root).as_posix()]["feature"]
    np.testing.assert_allclose(side, by_number["train"][0]["feature"], rtol=0.02, atol=0.02)  # other decoders


def test_every_image_is_read_and_decoded_once(encoder, drawn_set: Path, tmp_path: Path, monkeypatch):
    seen, reader = Counter(), ShardSet.open(drawn_set).split("train")
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(reader.read(number)["jpg"])
    read, opened, decode = datasets.read, SplitReader._open, threads.decode

    def read_counting(*arguments):
        found = read(*arguments)
        return replace(found, load=lambda record: seen.update([record.file]) or found.load(record))

    def open_counting(reader, place, stored, without=None):
        seen[without] += 1
        return opened(reader, place, stored, without)

    monkeypatch.setattr(datasets, "read", read_counting)
    monkeypatch.setattr(SplitReader, "_open", open_counting)
    monkeypatch.setattr(threads, "decode", lambda data, name: seen.update(["decoded"]) or decode(data, name))
    flags = ["--out", str(tmp_path / "a.parquet"), "--device", "cpu"]
    assert cli.main(["embed", str(encoder[1]), str(tmp_path), *flags]) == 0
    assert seen == {"0.jpg": 1, "1.jpg": 1, "2.jpg": 1, "decoded": 3}
    seen.clear()
    assert cli.main(["embed", str(encoder[1]), str(drawn_set), *flags]) == 0
    assert seen == {None: 48, "jpg": 48, "decoded": 48}, "one read has the image, the other what is beside it"


def test_images_without_classes(tmp_path: Path):
    Image.new("RGB", (40, 30), (200, 0, 0)).save(tmp_path / "a.png")
    (split,) = (name for name, count in Folder(tmp_path).splits.items() if count)
    sample = Folder(tmp_path).split(split).read(0)
    assert (split, meta(sample)["width"], label(sample)) == ("train", 40, 0)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["nowhere"], "nowhere does not exist. Name a shard set or a folder of images."),
        ([".", "--out", "a.csv"], "--out is a.csv; allowed: a file whose name ends in .parquet."),
        ([".", "--size", "5"], ". has no images. Name a shard set or a folder of images."),
    ],
)
def test_what_cannot_be_embedded(encoder, flags: list[str], error: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["embed", str(encoder[1]), *flags]) == 2
    assert error in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())


def test_a_bad_image_names_the_command_that_builds_a_set_without_it(encoder, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), (200, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("not an image")
    assert cli.main(["embed", str(encoder[1]), ".", "--out", "a.parquet"]) == 2
    command = "fgdata build-shards --dataset flat --root . --on-bad-image skip"
    assert command in capsys.readouterr().err
    assert not Path("a.parquet").exists()


def test_missing_pyarrow_is_named(encoder, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert cli.main(["embed", str(encoder[1]), str(tmp_path)]) == 2
    assert "pip install pyarrow" in capsys.readouterr().err
