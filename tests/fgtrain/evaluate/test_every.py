"""`fgtrain eval NAME RUN...` and `eval all`: several runs in one command, and which evaluations fit a set."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from trainable import small

from fgdata.building.build import build
from fgdata.datasets import read
from fgtrain import cli
from fgtrain.engine import lifecycle
from fgtrain.evaluate.records import read_records
from fgtrain.show.listing import describe_run


@pytest.fixture(scope="module")
def run(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lifecycle.train(small(drawn_set, tmp_path_factory.mktemp("runs") / "byol", "byol"), "byol")


def measured(run: Path) -> list[str]:
    return [line.values["evaluation"] for line in read_records(run / "results.jsonl")]


def test_an_evaluation_takes_several_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("checkpoints", "config.json", "run.json"):
        (other / name).symlink_to(run / name)
    before = measured(run)
    flags = ["--device", "cpu", "--k", "5"]
    assert cli.main(["eval", "knn", str(run), str(tmp_path / "gone"), str(other), str(run), *flags]) == 2
    assert measured(run) == [*before, "knn"]  # named twice, measured once
    assert measured(other) == ["knn"]
    assert capsys.readouterr().err.startswith(f"fgtrain: {tmp_path / 'gone'}: ")


def test_all_measures_what_fits_and_names_what_does_not(run: Path, tmp_path: Path, capsys):
    words = ["eval", "all", str(run), "--device", "cpu", "--skip", "linear", "finetune"]
    before = measured(run)
    assert cli.main(words) == 0
    assert measured(run)[len(before) :] == ["knn", "retrieval", "localization"]
    assert all("untrained" in line.values for line in read_records(run / "results.jsonl")[len(before) :])
    capsys.readouterr()

    folder = tmp_path / "photos"  # class folders: no boxes, no test split
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40, 40), (60 * i, 90, 120)).save(folder / label / f"{i}.png")
    build(read("folder", folder), tmp_path / "set", saliency=("spectral-residual",), workers=1)
    assert cli.main([*words, "--shards", str(tmp_path / "set")]) == 2
    said = capsys.readouterr().err
    assert f"knn, retrieval, localization are skipped: {tmp_path / 'set'} has no test split" in said
    assert said.count("no test split") == 1


def test_all_goes_on_after_an_evaluation_that_the_images_do_not_allow(run: Path, tmp_path: Path, capsys):
    """Fewer training images than neighbours of kNN, and one test image of each class, so nothing to retrieve."""
    birds = read("drawn", classes=4, images_per_class=3, size=64)
    records = {(record.split, record.label): record for record in birds.records}
    assert {split for split, _ in records} == {"train", "test"}
    build(replace(birds, records=tuple(records.values())), tmp_path / "few", saliency=("gt",), workers=1)
    before = measured(run)
    words = ["eval", "all", str(run), "--shards", str(tmp_path / "few")]
    words += "--device cpu --skip linear finetune".split()
    assert cli.main(words) == 0
    assert measured(run)[len(before) :] == ["localization"]
    said = capsys.readouterr().out
    assert "knn is skipped: " in said
    assert "retrieval is skipped: " in said


def test_list_tells_recipes_and_their_changes_apart(run: Path):
    recipe, status, step, changed = describe_run(run)
    assert (recipe, status, step) == ("byol", "done", "8")
    assert "--views.size 32" in changed
    assert "--epochs 2" in changed
    assert "--seed" not in changed
