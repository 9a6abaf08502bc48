"""`table`, and test splits drawn from a dataset without one."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgdata import datasets
from fgdata.cli import main
from fgdata.datasets import Dataset, Record, parsing
from fgdata.datasets.split import split_off
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, meta


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (200, 30, 10)).save(tmp_path / name)
    return tmp_path


def table(images: Path, text: str, name: str = "labels.csv", **options) -> Dataset:
    (images / name).write_text(text)
    return datasets.read("table", table=str(images / name), **options)


def test_every_column_is_read(images: Path):
    found = table(
        images,
        "split,path,label,x,y,w,h,photographer\n"
        "train,a.png,wren,1,2,10,20,Ann\n"
        "train,a.png,wren,5,5,4,4,Ann\n"
        "VAL,sub/c.png,robin,,,,,Ben\n",
    )
    assert found.classes == ("robin", "wren")
    assert found.records == (
        Record("a.png", "a.png", 1, "wren", "train", ((1, 2, 10, 20), (5, 5, 4, 4))),
        Record("sub/c.png", "sub/c.png", 0, "robin", "test", (), upright=True),
    )
    assert found.note == "labels.csv has the columns split, path, label, x, y, w, h; ignored: photographer"
    assert found.load(found.records[0])[1] == ((1, 2, 10, 20), (5, 5, 4, 4))


def test_a_file_of_two_spellings_is_one_image(images: Path):
    found = table(images, "path,x,y,w,h\nsub/c.png,1,2,3,4\n./sub//c.png,5,6,7,8\n")
    assert [(record.file, record.boxes) for record in found.records] == [("sub/c.png", ((1, 2, 3, 4), (5, 6, 7, 8)))]
    with pytest.raises(InputError, match="lists a.png as x, train and as x, test"):
        table(images, "path,label,split\na.png,x,train\n./a.png,x,test\n")


def test_validation_images_beside_test_images_are_left_out(images: Path):
    """As in `folder`: of the names of a test split, the first is used."""
    found = table(images, "path,label,split\na.png,x,train\nb.png,y,val\nsub/c.png,x,Test\n")
    assert [(record.file, record.split) for record in found.records] == [("a.png", "train"), ("sub/c.png", "test")]
    assert found.classes == ("x",)
    assert found.note.splitlines()[1:] == ["1 image of the split val left out: test is the test split"]
    with pytest.raises(InputError, match="a.png as unlabelled, test and as unlabelled, val"):
        table(images, "path,split\na.png,test\na.png,val\n")


def test_a_quoted_header_has_the_same_columns(images: Path):
    """As pandas and R write it."""
    rows = "a.png,wren,1,2,10,20\n"
    plain = table(images, f"path,label,x,y,w,h\n{rows}")
    quoted = table(images, f'"path","label","x","y","w","h"\n{rows}')
    assert quoted == plain
    assert not quoted.records[0].upright


def test_a_label_may_hold_a_line_break_that_csv_has_not(images: Path):
    found = table(images, 'path,label\na.png,"New\u2028York"\nb.png,wren\n')
    assert [record.class_name for record in found.records] == ["New\u2028York", "wren"]


def test_only_the_path_is_needed(images: Path):
    found = table(images, "path\nb.png\nsub/c.png\n", "list.csv")
    assert found.records[0] == Record("b.png", "b.png", 0, "unlabelled", "train", (), upright=True)
    assert found.note == "list.csv has the columns path; without label, x, y, w, h, split"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.png\n", "no column path"),
        ("path,label, label\na.png,x,y\n", "line 1: .*column label appears twice"),
        ("path,x,y\na.png,1,2\n", "only the columns x, y of a box; it needs all of x, y, w and h"),
        ("path,x,y,w,h\na.png,1,2,3,\n", "line 2.*all four empty"),
        ("path,x,y,w,h\na.png,1,2,3,0\n", "line 2.*above 0 pixels"),
        ("path,split\na.png,dev\n", "line 2.*split is 'dev'; allowed: train, test"),
        ("path,label\na.png,\n", "line 2.*label is empty"),
        ("path,label\na.png,x\na.png,y\n", "a.png as x, train and as y, train"),
        ("path\n../a.png\n", "line 2.*must lie inside"),
        ("path\n./\n", "line 2.*must lie inside"),
        ("path\ngone.png\n", "1 of 1 files.*gone.png"),
        ("path\n", "no rows"),
    ],
)
def test_a_fault_of_the_list_is_named(text: str, message: str, images: Path):
    with pytest.raises(InputError, match=message):
        table(images, text)


def test_a_list_that_is_missing_is_named(images: Path):
    with pytest.raises(InputError, match=r"no CSV file at .*labels\.csv. Name it: --table FILE"):
        datasets.read("table", images)


def test_a_set_is_built_from_a_list(images: Path, monkeypatch, capsys):
    monkeypatch.chdir(images)
    Path("labels.csv").write_text(
        "path,label,x,y,w,h\na.png,wren,4,3,20,15\nb.png,wren,4,3,20,15\nsub/c.png,wren,0,0,9,9\n"
    )
    words = (
        "build-shards --dataset table --table labels.csv --saliency gt --out set --jobs 1 --test-fraction 0.4".split()
    )
    assert main(words) == 0
    assert "without split" in capsys.readouterr().out
    shards = ShardSet.open(Path("set"))
    assert dict(shards.splits) == {"train": 2, "test": 1}
    assert shards.manifest["dataset"]["settings"] == {"test_fraction": 0.4, "split_seed": 0}
    info = meta(shards.split("train").read(0))
    assert info["boxes"] == [[pytest.approx(v, abs=1e-6) for v in (0.1, 0.1, 0.5, 0.5)]]


def dataset(counts: dict[str, int], split: str = "train") -> Dataset:
    names = tuple(counts)
    rows = [(label, f"{name}/{i:03}") for label, name in enumerate(names) for i in range(counts[name])]
    records = tuple(Record(key, key, label, names[label], split) for label, key in rows)
    return Dataset("folder", names, records, parsing.Files("folder", Path()))


def test_a_drawn_split_has_the_same_share_of_every_class():
    whole = dataset({"a": 100, "b": 10, "c": 3, "d": 2, "e": 1})
    drawn = split_off(whole, 0.2, 0)
    test = Counter(r.class_name for r in drawn.records if r.split == "test")
    assert test == {"a": 20, "b": 2, "c": 1, "d": 1}
    assert [r.id for r in drawn.records] == [r.id for r in whole.records]
    assert "classes of a single image, which have no test image: 1" in drawn.note
    assert Counter(r.class_name for r in split_off(whole, 0.99, 0).records if r.split == "train") == {
        **{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}
    }


def test_a_drawn_split_depends_on_the_seed_and_not_on_the_order():
    whole = dataset({"a": 50, "b": 50})
    backwards = Dataset("folder", whole.classes, whole.records[::-1], whole.load)

    def test_ids(given: Dataset, seed: int) -> set[str]:
        return {r.id for r in split_off(given, 0.3, seed).records if r.split == "test"}

    assert test_ids(whole, 0) == test_ids(backwards, 0) != test_ids(whole, 1)


@pytest.mark.parametrize(
    ("given", "fraction", "seed", "message"),
    [
        (dataset({"a": 4}), 1.0, 0, "above 0 and below 1"),
        (dataset({"a": 4}), float("nan"), 0, "above 0 and below 1"),
        (dataset({"a": 4}), 0.5, -1, "--split-seed -1"),
        (dataset({"a": 4}), None, 3, "no effect without --test-fraction"),
        (dataset({"a": 4}, "test"), 0.5, 0, "already has a test split"),
        (dataset({"a": 1, "b": 1}), 0.5, 0, "no class of folder has two images"),
    ],
)
def test_a_split_that_cannot_be_drawn_is_refused(given, fraction, seed, message):
    with pytest.raises(InputError, match=message):
        split_off(given, fraction, seed)


def test_folder_takes_the_same_flags(images: Path):
    for label in ("wren", "robin"):
        (images / "birds" / label).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 30)).save(images / "birds" / label / f"{i}.png")
    drawn = datasets.read("folder", images / "birds", test_fraction=0.25)
    assert Counter((r.class_name, r.split) for r in drawn.records)["wren", "test"] == 1


def test_two_unicode_forms_of_a_label_are_one_class(images: Path):
    found = table(images, "path,label\na.png,caf\u00e9\nb.png,cafe\u0301\n")
    assert found.classes == ("caf\u00e9",)
    assert [record.label for record in found.records] == [0, 0]


class CountedText(str):
    """A text that counts how often two of its kind are compared."""

    comparisons = 0

    def __lt__(self, other: str) -> bool:
        CountedText.comparisons += 1
        return super().__lt__(other)


def test_a_class_is_sorted_once(monkeypatch: pytest.MonkeyPatch):
    """And the choice is the one that the manifest's seed stands for: places of a permutation in the sorted ids."""
    ids = [f"{number:03}" for number in np.random.default_rng(1).permutation(500)]
    records = tuple(Record(CountedText(name), name, 7, "a", "train") for name in ids)
    whole = Dataset("folder", ("a",), records, parsing.Files("folder", Path()))
    monkeypatch.setattr(CountedText, "comparisons", 0)
    drawn = split_off(whole, 0.5, 3)
    assert CountedText.comparisons < 2 * 500 * math.log2(500)
    places = np.random.default_rng([3, 7]).permutation(500)[:250]
    assert {r.id for r in drawn.records if r.split == "test"} == {sorted(ids)[i] for i in places}
