"""Readers of pets, dogs and flowers: each layout is written as published, read back, and damaged."""

import numpy as np
import pytest
from dataset_files import boxes, image, labels, write
from scipy.io import savemat

from fgdata import datasets
from fgdata.datasets import Dataset, matlab
from fgdata.errors import InputError


@pytest.fixture(autouse=True)
def _no_child(monkeypatch):
    """Reads .mat files in this process: its child, which test_dataset_boxes.py tests, needs half a second to start."""
    monkeypatch.setattr(matlab, "_load", lambda data, wanted: matlab._load_here(data, list(wanted)))


def xml(*corners: tuple[int, int, int, int], size: tuple[int, int] = (60, 40)) -> str:
    objects = "".join(
        f"<object><name>cat</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "</object>"
        for x1, y1, x2, y2 in corners
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"


# -- pets -------------------------------------------------------------------------------------------------------------

PETS = {
    "annotations/list.txt": "#Image CLASS-ID SPECIES BREED ID\n",
    "annotations/trainval.txt": "american_bulldog_10 2 2 1\nAbyssinian_1 1 1 1\nAbyssinian_5 1 1 1\n",
    "annotations/test.txt": "american_bulldog_2 2 2 1\n",
    "annotations/xmls/Abyssinian_1.xml": xml((3, 5, 22, 24)),
    "annotations/xmls/american_bulldog_10.xml": xml((1, 1, 60, 40), size=(0, 0)),
    **{f"images/{name}.jpg": image() for name in ("american_bulldog_10", "american_bulldog_2", "Abyssinian_1")},
    "images/Abyssinian_5.jpg": image(kind=".png"),
    "images/Abyssinian_1.mat": b"",
}


@pytest.mark.parametrize("folder", ["", "oxford-iiit-pet"])
def test_pets(tmp_path, folder):
    write(tmp_path / folder, PETS)
    known = datasets.read("pets", tmp_path)
    assert known.classes == ("Abyssinian", "american_bulldog")
    assert labels(known) == {
        "images/american_bulldog_10.jpg": (1, "train"),
        "images/Abyssinian_1.jpg": (0, "train"),
        "images/Abyssinian_5.jpg": (0, "train"),
        "images/american_bulldog_2.jpg": (1, "test"),
    }
    assert boxes(known) == {
        "images/american_bulldog_10.jpg": ((0, 0, 60, 40),),
        "images/Abyssinian_1.jpg": ((2, 4, 20, 20),),
        "images/Abyssinian_5.jpg": (),
        "images/american_bulldog_2.jpg": (),
    }
    assert known.note.splitlines() == [
        "a subset: 2 of 37 classes, 3 of 3,680 train, 1 of 3,669 test",
        "boxes are those of the head, for 2 of 4 images",
    ]


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("annotations/test.txt", "american_bulldog_2 38 2 1\n", "test.txt, line 1: .*'38'; allowed: 1 to 37"),
        ("annotations/test.txt", "american_bulldog_2 1 2 1\n", "both Abyssinian and american_bulldog as class 1"),
        ("annotations/test.txt", "Abyssinian_1 1 1 1\n", "Abyssinian_1 listed in both"),
        ("annotations/test.txt", "Abyssinian_7 1 1 1\n", "images/Abyssinian_7.jpg"),
    ],
)
def test_pets_names_what_is_wrong_in_a_list(tmp_path, file, content, says):
    write(tmp_path, {**PETS, file: content})
    with pytest.raises(InputError, match=says):
        datasets.read("pets", tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("<annotation>", "not an annotation in PASCAL VOC's form: no element found"),
        (xml(), "it has no object"),
        (xml((9, 9, 3, 12)), "the box is -5 wide and 4 high"),
        (xml((1, 1, 5, 5)).replace("xmax", "right"), "an object has no bndbox/xmax"),
        (xml((1, 1, 5, 5), size=(30, 20)), "60 x 40 pixels, but its annotation states 30 x 20"),
        ("<?xml version='1.0' encoding='none'?><annotation/>", "it has no object"),
        ('<!DOCTYPE a [<!ENTITY a "a">]>' + xml((1, 1, 5, 5)), "it has a document type"),
    ],
)
def test_a_wrong_xml_file_is_a_bad_image(tmp_path, content, says):
    known = datasets.read("pets", write(tmp_path, {**PETS, "annotations/xmls/Abyssinian_1.xml": content}))
    with pytest.raises(InputError, match=f"Abyssinian_1.*{says}.*--on-bad-image skip"):
        known.load(known.records[1])


# -- dogs -------------------------------------------------------------------------------------------------------------

PUG, SPANIEL = "n02110958-pug/n02110958_1", "n02085782-Japanese_spaniel/n02085782_2"


def dogs(root, train: tuple[str, ...] = (f"{PUG}.jpg",), test: tuple[str, ...] = (f"{SPANIEL}.jpg",)) -> Dataset:
    files = {f"Images/{name}.jpg": image() for name in (PUG, SPANIEL)}
    files |= {f"Annotation/{PUG}": xml((2, 3, 5, 9), (11, 11, 50, 40)), f"Annotation/{SPANIEL}": xml((1, 1, 1, 1))}
    write(root, files)
    for name, half in (("train_list", train), ("test_list", test)):
        cells = np.array([[file] for file in half], object)
        savemat(str(root / f"{name}.mat"), {"file_list": cells, "labels": np.arange(1, len(half) + 1)})
    return datasets.read("dogs", root)


def test_dogs(tmp_path):
    known = dogs(tmp_path)
    assert known.classes == ("Japanese_spaniel", "pug")
    assert labels(known) == {f"Images/{PUG}.jpg": (1, "train"), f"Images/{SPANIEL}.jpg": (0, "test")}
    assert boxes(known) == {
        f"Images/{PUG}.jpg": ((1, 2, 4, 7), (10, 10, 40, 30)),
        f"Images/{SPANIEL}.jpg": ((0, 0, 1, 1),),
    }
    assert known.note == "a subset: 2 of 120 classes, 1 of 12,000 train, 1 of 8,580 test"
    (tmp_path / "lists").mkdir()
    for name in ("train_list.mat", "test_list.mat"):
        (tmp_path / name).rename(tmp_path / "lists" / name)
    assert datasets.read("dogs", tmp_path) == known


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ((f"{PUG}.jpg",), "list an image twice"),
        (("n02110958-pug/absent.jpg",), "n02110958-pug/absent.jpg"),
        (("../n02110958-pug/a.jpg",), "image 1: .*expected WORDNET-ID-BREED/IMAGE.jpg"),
    ],
)
def test_dogs_names_what_is_wrong(tmp_path, test, says):
    with pytest.raises(InputError, match=says):
        dogs(tmp_path, test=test)


def test_dogs_without_an_annotation(tmp_path):
    dogs(tmp_path)
    (tmp_path / "Annotation" / PUG).unlink()
    with pytest.raises(InputError, match=f"not in .*Annotation: {PUG}"):
        datasets.read("dogs", tmp_path)


# -- flowers ----------------------------------------------------------------------------------------------------------


def flowers(root, labels: list, **ids: list) -> Dataset:
    write(root, {f"jpg/image_{number:05d}.jpg": image() for number in range(1, 6)})
    savemat(str(root / "imagelabels.mat"), {"labels": np.array([labels])})
    savemat(str(root / "setid.mat"), {name: np.array([numbers]) for name, numbers in ids.items()})
    return datasets.read("flowers", root)


def test_flowers(tmp_path):
    known = flowers(tmp_path / "flowers-102", [77, 5, 77, 5, 102], trnid=[3, 2], valid=[1], tstid=[4])
    assert known.classes == ("005", "077")
    assert labels(known) == {
        "jpg/image_00003.jpg": (1, "train"),
        "jpg/image_00002.jpg": (0, "train"),
        "jpg/image_00001.jpg": (1, "train"),
        "jpg/image_00004.jpg": (0, "test"),
    }
    assert known.note == "a subset: 2 of 102 classes, 3 of 2,040 train, 1 of 6,149 test"
    assert datasets.read("flowers", tmp_path) == known


@pytest.mark.parametrize(
    ("labels", "tests", "says"),
    [
        ([1, 2, 3, 4], [5], "different image numbers from 1 to 4"),
        ([1, 2, 3, 4], [3], "different image numbers"),
        ([1.5, 2, 3, 4], [4], "imagelabels.mat lacks whole numbers in labels"),
        ([1, 2, 3, 4, 5, 6], [6], "jpg/image_00006.jpg"),
    ],
)
def test_flowers_names_what_is_wrong(tmp_path, labels, tests, says):
    with pytest.raises(InputError, match=says):
        flowers(tmp_path, labels, trnid=[1], valid=[3], tstid=tests)
