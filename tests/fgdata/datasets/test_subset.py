"""Parts of a dataset: its first classes, and fewer training images of each."""

from pathlib import Path

import pytest
from dataset_files import image, write

from fgdata import cli
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Classes auk, bee-eater and crow with 7, 3 and 2 training images and one test image each."""
    counts = {"auk": 7, "bee-eater": 3, "crow": 2}
    files = {f"train/{name}/{i}.jpg": image() for name, count in counts.items() for i in range(count)}
    return write(tmp_path / "birds", files | {f"test/{name}/9.jpg": image() for name in counts})


def files_of(birds: Path, **options: int) -> list[str]:
    return [record.file for record in read("folder", birds, **options).records]


def test_the_first_classes_keep_all_their_images_labels_and_order(birds: Path):
    whole, part = read("folder", birds), read("folder", birds, classes=2)
    assert part.classes == ("auk", "bee-eater")
    assert part.records == tuple(record for record in whole.records if record.class_name != "crow")
    assert part.settings == {**whole.settings, "subset_classes": 2}
    assert "a part: 12 of 15 images, 2 of 3 classes" in part.note


def test_training_images_of_a_class_are_evenly_spaced_and_the_test_split_stays_whole(birds: Path):
    found = files_of(birds, images_per_class=3)
    assert [file for file in found if "train/auk" in file] == [f"train/auk/{i}.jpg" for i in (0, 2, 4)]
    assert sum("train" in file for file in found) == 3 + 3 + 2
    assert sum("test" in file for file in found) == 3
    assert files_of(birds, images_per_class=7) == files_of(birds)


def test_too_many_classes_and_no_images_are_refused(birds: Path):
    with pytest.raises(InputError, match="--classes is 4, but folder has 3 classes; allowed: 1 to 3"):
        read("folder", birds, classes=4)
    with pytest.raises(InputError, match="--images-per-class is 0; allowed: 1 or more"):
        read("folder", birds, images_per_class=0)


def test_the_command_builds_a_part_and_the_manifest_says_so(birds: Path, tmp_path: Path, capsys):
    words = ["build-shards", "--dataset", "folder", "--root", str(birds), "--saliency", "whole", "--jobs", "1"]
    words += ["--classes", "2", "--images-per-class", "2", "--out", str(tmp_path / "set")]
    assert cli.main(words) == 0
    assert "a part: 6 of 15 images" in capsys.readouterr().out
    shards = ShardSet.open(tmp_path / "set")
    assert dict(shards.splits) == {"train": 4, "test": 2}
    assert list(shards.classes) == ["auk", "bee-eater"]
    settings = shards.manifest["dataset"]["settings"]
    assert (settings["subset_classes"], settings["subset_images_per_class"]) == (2, 2)
