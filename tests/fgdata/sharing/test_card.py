"""`fgdata card`: metadata.parquet, croissant.json and README.md of a set, compared with the tars and the reader."""

import hashlib
import json
import os
import re
import shutil
import tarfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import yaml
from paths import TINY

from fgdata import cli
from fgdata.boxes.geometry import iou
from fgdata.datasets import DATASETS
from fgdata.datasets.terms import TERMS, UNKNOWN, terms_of
from fgdata.report.score import score
from fgdata.shards.manifest import dump, read_manifest, signed

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the golden set: 12 samples with boxes by rbd and gt."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def card(folder: Path, *flags: str) -> int:
    return cli.main(["card", str(folder), *flags])


def stored(folder: Path) -> dict[str, dict]:
    """Every sample by its key, read with tarfile, json and NumPy alone."""
    samples: dict[str, dict] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                key, extension = member.name.split(".", 1)
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(key, {"shard": path.name})[extension] = file.read()
    return samples


def test_a_change_of_the_set_names_the_files_that_described_it(tiny: Path, capsys: pytest.CaptureFixture[str]):
    assert card(tiny) == 0
    capsys.readouterr()
    words = ["add", str(tiny), "--saliency", "vsf", "--jobs", "1"]
    assert cli.main([*words, "--out", str(tiny.with_name("other"))]) == 0
    assert "describe" not in capsys.readouterr().out
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Removed metadata.parquet, croissant.json, which described the old boxes." in lines
    new = f"rm {tiny}/README.md && fgdata card {tiny}"
    assert f"{tiny}/README.md describes the old boxes. Edit it, or write a new one: {new}" in lines
    (tiny / "README.md").unlink()
    assert card(tiny) == 0
    assert "`vsf`" in (tiny / "README.md").read_text("utf-8")
    (tiny / "README.md").write_text("my notes")
    capsys.readouterr()
    assert cli.main(["add", str(tiny), "--saliency", "spectral-residual", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert f"which described the old boxes. Write them again: fgdata card {tiny}" in out
    assert "README" not in out


def test_metadata_has_a_row_for_each_sample(tiny: Path):
    assert card(tiny) == 0
    rows = pq.read_table(tiny / "metadata.parquet").to_pylist()
    samples = stored(tiny)
    assert sorted(row["key"] for row in rows) == sorted(samples)
    order = [shard["name"] for split in read_manifest(tiny)["splits"].values() for shard in split["shards"]]
    assert list(dict.fromkeys(row["shard"] for row in rows)) == [f"{name}.tar" for name in order]
    for row in rows:
        sample = samples[row["key"]]
        info = json.loads(sample["json"])
        for name in ("id", "file", "class", "split", "width", "height"):
            assert row[name] == info[name]
        assert (row["shard"], row["label"]) == (sample["shard"], int(sample["cls"]))
        np.testing.assert_array_equal(np.float32(row["boxes"]), np.float32(info["boxes"]))
        for detector in ("rbd", "gt"):
            box = np.frombuffer(sample[f"{detector}.npy"][-16:], "<f4")
            np.testing.assert_array_equal(np.float32(row[f"box_{detector}"]), box)
            assert row[f"fallback_{detector}"] == info["detectors"][detector]["fallback"]
            best = max(float(iou(box, np.array(truth, np.float32))) for truth in info["boxes"])
            assert row[f"iou_{detector}"] == pytest.approx(best, rel=1e-6)  # float32


def test_croissant_describes_every_file_and_column(tiny: Path):
    assert card(tiny, "--to", "hf://datasets/my-lab/birds") == 0
    about = json.loads((tiny / "croissant.json").read_bytes())
    required = "@context @type conformsTo name description license url creator datePublished"
    assert set(required.split()) <= about.keys()
    assert (about["@type"], about["conformsTo"]) == ("sc:Dataset", "http://mlcommons.org/croissant/1.0")
    files = {one["@id"]: one for one in about["distribution"]}
    jpegs = files.pop("jpegs")
    assert {one["@id"] for one in jpegs["containedIn"]} == {path.name for path in tiny.glob("*.tar")}
    assert files.keys() == {"metadata.parquet", *(path.name for path in tiny.glob("*.tar"))}
    for name, one in files.items():
        assert one["sha256"] == hashlib.sha256((tiny / name).read_bytes()).hexdigest()
        assert one["contentUrl"] == f"https://huggingface.co/datasets/my-lab/birds/resolve/main/{name}"
    samples, images = about["recordSet"]
    columns = pq.read_schema(tiny / "metadata.parquet").names
    assert [field["source"]["extract"]["column"] for field in samples["field"]] == [
        *("key", "id", "file", "class", "split", "shard", "label", "width", "height"),
        *("box_rbd", "fallback_rbd", "iou_rbd", "box_gt", "fallback_gt", "iou_gt"),
    ]
    assert {field["name"] for field in samples["field"]} == {*columns} - {"boxes"}
    pattern = images["field"][0]["source"]["transform"]["regex"]
    for key in stored(tiny):
        assert (match := re.match(pattern, f"{key}.jpg")) is not None
        assert match[1] == key


def test_the_card_lists_the_tars_of_each_split_and_the_scores(tiny: Path):
    assert card(tiny, "--to", "hf://datasets/my-lab/birds") == 0
    text = (tiny / "README.md").read_text("utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["size_categories"]) == ("mit", ["n<1K"])
    (config,) = front["configs"]
    manifest = read_manifest(tiny)
    for entry in config["data_files"]:
        named = {path.name for path in tiny.iterdir() if fnmatch(path.name, entry["path"])}
        assert named == {f"{shard['name']}.tar" for shard in manifest["splits"][entry["split"]]["shards"]}
    assert [entry["split"] for entry in config["data_files"]] == ["train", "test"]
    row = score(tiny)["detectors"]["rbd"]
    figures = [f"{row[key]:.3f}" for key in ("mean_iou", "corloc", "corloc_70", "corloc_90")]
    assert f"| `rbd` | {' | '.join(figures)} | 12 |" in text
    assert "fgdata pull hf://datasets/my-lab/birds shards/birds" in text
    assert manifest["digest"] in text


def test_an_edited_card_is_kept_until_the_set_changes(tiny: Path, capsys):
    assert card(tiny) == 0
    path = tiny / "README.md"
    edited = path.read_text("utf-8") + "\nOurs.\n"
    path.write_text(edited, "utf-8")
    assert card(tiny) == 0
    assert card(tiny, "--out", str(tiny / "copy")) == 0
    assert path.read_text("utf-8") == (tiny / "copy" / "README.md").read_text("utf-8") == edited
    manifest = signed(read_manifest(tiny) | {"skipped": [{"file": "a.jpg", "why": "damaged"}]})
    (tiny / "manifest.json").write_bytes(dump(manifest))
    assert card(tiny) == 2
    assert f"README.md does not name the digest of this set, {manifest['digest']}" in capsys.readouterr().err


def test_names_of_the_set_are_not_markup(tiny: Path):
    manifest = read_manifest(tiny)
    manifest["dataset"]["name"] = "<b>a|b\n# c"
    (tiny / "manifest.json").write_bytes(dump(signed(manifest)))
    assert card(tiny) == 0
    text = (tiny / "README.md").read_text("utf-8")
    assert "12 images of the dataset &lt;b&gt;a&#124;b # c in 2 classes" in text
    assert "<b>" not in text
    assert "license: unknown" in text
    assert UNKNOWN.words in text


def test_terms_are_known_of_every_dataset_and_given_to_the_card(tiny: Path):
    assert {"folder", "table", "flat", "drawn", "cub"} <= TERMS.keys() <= DATASETS.keys()
    assert [name for name, terms in TERMS.items() if terms.allowed] == ["drawn", "pets"]
    assert terms_of("plug-in") is UNKNOWN
    assert card(tiny, "--licence", "cc-by-4.0") == 0
    assert "license: cc-by-4.0" in (tiny / "README.md").read_text("utf-8")
    assert json.loads((tiny / "croissant.json").read_bytes())["license"] == "cc-by-4.0"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--to", "hf://my-lab/birds"], "hf://my-lab/birds is not the address of a dataset on the Hugging Face hub"),
        (["--licence", "MIT License"], "--licence is MIT License; allowed: a name of the hub"),
    ],
)
def test_flags_are_checked(tiny: Path, capsys, flags: list[str], words: str):
    assert card(tiny, *flags) == 2
    assert words in capsys.readouterr().err
    assert not (tiny / "README.md").exists()


def test_missing_pyarrow_is_named(tiny: Path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert card(tiny) == 2
    assert "pip install pyarrow" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named_with_the_next_command(tiny: Path, capsys, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tiny and allowed(path, mode))
    assert card(tiny) == 2
    found = capsys.readouterr().err
    assert f"{tiny} cannot be written: it lacks the permission. Name another folder: --out FOLDER" in found
