"""Datasets: only the field marks of drawn birds depend on the class; the cub reader names every fault."""

import pickle
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths import REAL_DATA

from fgdata import datasets
from fgdata.datasets.drawn.dataset import Drawing, draw
from fgdata.datasets.drawn.plumage import LEAST_DIFFERENCE, MARKS, MOST_CLASSES, species
from fgdata.errors import InputError

SMALL = {"classes": 4, "images_per_class": 6, "size": 64}


# -- read ---------------------------------------------------------------------------------------------------------


def test_unknown_dataset_lists_the_available_ones():
    with pytest.raises(InputError, match=r"'cup'.*drawn, cub"):
        datasets.read("cup")


def test_unknown_option_lists_the_available_ones():
    with pytest.raises(InputError, match=r"no --colour.*--classes, --images-per-class, --size, --seed\."):
        datasets.read("drawn", colour=1)
    with pytest.raises(InputError, match=r"cub has no --size; it takes --classes, --images-per-class\."):
        datasets.read("cub", size=1)


def test_a_missing_root_names_the_path_the_layout_and_the_command(monkeypatch, tmp_path):
    monkeypatch.delenv("FGDATA_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert datasets.default_root("cub") == Path("data/cub")
    with pytest.raises(InputError) as fault:
        datasets.read("cub")
    for words in (
        str(tmp_path / "data/cub"),
        "FGDATA_ROOT is not set",
        "images.txt",
        "fgdata build-shards --dataset cub",
    ):
        assert words in str(fault.value)
    monkeypatch.setenv("FGDATA_ROOT", str(tmp_path / "elsewhere"))
    assert datasets.default_root("cub") == tmp_path / "elsewhere/cub"
    with pytest.raises(InputError, match=f"FGDATA_ROOT is {re.escape(str(tmp_path / 'elsewhere'))}"):
        datasets.read("cub")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"given by --root.*is a file"):
        datasets.read("cub", tmp_path / "file")


def test_importing_datasets_imports_no_heavy_package():
    code = "import sys, fgdata.datasets; sys.exit(bool({'cv2', 'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- drawn: classes -----------------------------------------------------------------------------------------------


def test_any_two_species_differ_in_enough_parts_and_in_name():
    table = species(MOST_CLASSES)
    for a, b in combinations(table[:200], 2):
        assert sum(x != y for x, y in zip(a.marks, b.marks)) >= LEAST_DIFFERENCE
    assert len({kind.name for kind in table}) == MOST_CLASSES
    assert species(20) == table[:20]


def test_the_default_classes_use_every_shape_of_every_part():
    for part, (shapes, _) in MARKS.items():
        assert {getattr(kind, part)[0] for kind in species(20)} == set(shapes)


# -- drawn: pictures ----------------------------------------------------------------------------------------------


def same(a: Drawing, b: Drawing) -> bool:
    return np.array_equal(a.rgb, b.rgb) and np.array_equal(a.mask, b.mask) and a.box == b.box


def test_a_picture_depends_only_on_seed_class_and_number():
    first = draw(3, 17, size=96, seed=5)
    for number in (4, 99):
        draw(1, number, size=64, seed=0)
    assert same(first, draw(3, 17, size=96, seed=5))
    for other in (draw(3, 17, size=96, seed=6), draw(3, 18, size=96, seed=5)):
        assert other.rgb.shape != first.rgb.shape or np.abs(other.rgb.astype(int) - first.rgb).mean() > 5


def test_the_box_bounds_the_mask_and_the_mask_is_a_bird():
    for number in range(60):
        picture = draw(number % 20, number, size=96, seed=1)
        assert picture.rgb.shape == (*picture.mask.shape, 3)
        assert max(picture.mask.shape) == 96
        rows, columns = picture.mask.any(1).nonzero()[0], picture.mask.any(0).nonzero()[0]
        bounds = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
        assert picture.box == bounds
        assert 0.03 < picture.mask.mean() < 0.6
        pieces = cv2.connectedComponentsWithStats(picture.mask.astype(np.uint8), connectivity=8)[2][
            1:, cv2.CC_STAT_AREA
        ]
        assert pieces.max() > 0.6 * pieces.sum()  # a leaf in front may cut off a part, but never most of it


def test_outside_the_birds_two_classes_have_the_same_pixels():
    for number in range(40):
        a, b = draw(number % 20, number, size=96, seed=2), draw((number + 7) % 20, number, size=96, seed=2)
        assert a.rgb.shape == b.rgb.shape
        # A pixel that the bird covers by less than half is outside the mask and yet tinted by it: allow two pixels.
        near = cv2.dilate((a.mask | b.mask).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert np.array_equal(a.rgb[~near], b.rgb[~near])
        assert not np.array_equal(a.rgb[near], b.rgb[near])


def colour_histogram(picture: Drawing, where: np.ndarray) -> np.ndarray:
    """(64,) share of the pixels in each of 4 x 4 x 4 colours."""
    bins = (picture.rgb[where] // 64).astype(int) @ [16, 4, 1]
    return np.sqrt(np.bincount(bins, minlength=64) / max(1, len(bins)))


def nearest_neighbour_hits(features: np.ndarray, labels: np.ndarray) -> float:
    """Leave-one-out 1-NN accuracy of (N, D)."""
    distance = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return float((labels[distance.argmin(1)] == labels).mean())


@pytest.mark.slow
def test_the_class_is_visible_in_the_bird_but_not_in_the_background():
    classes, each = 10, 30
    inside, outside, labels = [], [], []
    for i in range(classes * each):
        picture = draw(i % classes, 10_000 + i, size=64, seed=3)
        surely_out = cv2.dilate(picture.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
        inside.append(colour_histogram(picture, picture.mask))
        outside.append(colour_histogram(picture, surely_out))
        labels.append(i % classes)
    labels = np.array(labels)
    chance = 1 / classes
    # Three standard errors of a coin thrown n times; 0.45 is far above them.
    assert nearest_neighbour_hits(np.array(outside), labels) < chance + 3 * (chance * (1 - chance) / len(labels)) ** 0.5
    assert nearest_neighbour_hits(np.array(inside), labels) > 0.45


# -- drawn: the dataset -------------------------------------------------------------------------------------------


def test_drawn_records_and_bytes():
    dataset = datasets.read("drawn", **SMALL, seed=4)
    assert dataset.settings == {**SMALL, "seed": 4, "painter": 1}
    assert [len(dataset.classes), len(dataset.records)] == [4, 24]
    assert Counter((r.label, r.split) for r in dataset.records) == {
        (k, s): n for k in range(4) for s, n in (("train", 4), ("test", 2))
    }
    assert len({r.id for r in dataset.records}) == len({r.file for r in dataset.records}) == 24
    record = dataset.records[9]
    assert record.class_name == dataset.classes[record.label]
    assert record.boxes is None
    data, boxes = dataset.load(record)
    assert (data, boxes) == pickle.loads(pickle.dumps(dataset)).load(record)
    rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert max(rgb.shape) == 64
    assert len(boxes) == 1


def test_more_images_and_classes_do_not_change_the_others():
    small, large = datasets.read("drawn", **SMALL), datasets.read("drawn", classes=9, images_per_class=7, size=64)
    by_id = {r.id: r for r in large.records}
    for record in small.records[::5]:
        assert by_id[record.id] == record
        assert small.load(record) == large.load(record)


@pytest.mark.parametrize(
    ("option", "value"),
    [("classes", 1), ("classes", MOST_CLASSES + 1), ("images_per_class", 2), ("size", 8), ("seed", -1)],
)
def test_drawn_refuses_an_option_out_of_range(option, value):
    with pytest.raises(InputError, match=rf"--{option.replace('_', '-')} is {value}; .*a whole number from"):
        datasets.read("drawn", **{option: value})


def test_drawn_takes_no_root(tmp_path):
    with pytest.raises(InputError, match="reads no files"):
        datasets.read("drawn", tmp_path)


# -- cub ----------------------------------------------------------------------------------------------------------

CUB = {
    "images.txt": "1 001.Auk/Auk_1.jpg\n2 001.Auk/Auk 2.jpg\n5 007.Owl/Owl_1.jpg\n",
    "image_class_labels.txt": "1 1\n2 1\n5 7\n",
    "train_test_split.txt": "1 0\n2 1\n5 1\n",
    "bounding_boxes.txt": "1 60.0 27.0 325.0 304.0\n2 1.5 2.0 3.0 4.0\n5 -2 0 10 20\n",
    "classes.txt": "1 001.Auk\n7 007.Owl\n",
}


@pytest.fixture
def cub(tmp_path) -> Path:
    for name, text in CUB.items():
        (tmp_path / name).write_text(text)
    for line in CUB["images.txt"].splitlines():
        path = tmp_path / "images" / line.partition(" ")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes of " + path.name.encode())
    return tmp_path


def test_cub_reads_the_layout_and_a_subset_of_its_classes(cub):
    dataset = datasets.read("cub", cub)
    assert dataset.classes == ("001.Auk", "007.Owl")
    assert dataset.settings == {}
    assert dataset.records == (
        datasets.Record("1", "001.Auk/Auk_1.jpg", 0, "001.Auk", "test", ((60.0, 27.0, 325.0, 304.0),)),
        datasets.Record("2", "001.Auk/Auk 2.jpg", 0, "001.Auk", "train", ((1.5, 2.0, 3.0, 4.0),)),
        datasets.Record("5", "007.Owl/Owl_1.jpg", 1, "007.Owl", "train", ((-2.0, 0.0, 10.0, 20.0),)),
    )
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.load(dataset.records[1]) == (b"bytes of Auk 2.jpg", dataset.records[1].boxes)


def test_cub_is_found_inside_its_parent_folder(cub, tmp_path_factory):
    parent = tmp_path_factory.mktemp("unpacked")
    cub.rename(parent / "CUB_200_2011")
    dataset = datasets.read("cub", parent)
    assert dataset.load(dataset.records[0])[0] == b"bytes of Auk_1.jpg"


@pytest.mark.parametrize(
    ("name", "line", "text", "expected"),
    [
        ("images.txt", 2, "2", "expected `ID PATH`"),
        ("images.txt", 1, "one 001.Auk/Auk_1.jpg", "expected `ID PATH`, starting with a whole number"),
        ("images.txt", 3, "1 007.Owl/Owl_1.jpg", "id 1 appears twice"),
        ("images.txt", 1, "1 ../secret.jpg", "must lie inside images/"),
        ("images.txt", 1, "1 /etc/secret.jpg", "must lie inside images/"),
        ("image_class_labels.txt", 3, "5 8", "class '8' is not in classes.txt, which lists 2: 1, 7"),
        ("image_class_labels.txt", 3, "5 owl", "class 'owl' is not in classes.txt"),
        ("train_test_split.txt", 2, "2 yes", "found 'yes'; expected 1 (train) or 0 (test)"),
        ("bounding_boxes.txt", 2, "2 1 2 3", "found 3 numbers after the id"),
        ("bounding_boxes.txt", 2, "2 1 2 x 4", "could not convert string to float: 'x'"),
        ("bounding_boxes.txt", 2, "2 1 nan 3 4", "finite"),
        ("bounding_boxes.txt", 2, "2 1 2 0.0 4", "0 wide and 4 high; both must be above 0"),
        ("bounding_boxes.txt", 2, "2 1 2 3 -4", "3 wide and -4 high"),
        ("classes.txt", 2, "1 007.Owl", "class 1 appears twice"),
    ],
)
def test_cub_names_the_file_the_line_and_the_fault(cub, name, line, text, expected):
    lines = CUB[name].splitlines()
    lines[line - 1] = text
    (cub / name).write_text("\n".join(lines))
    with pytest.raises(
        InputError, match=f"{re.escape(str(cub / name))}, line {line}: {re.escape(repr(text))}: .*{re.escape(expected)}"
    ):
        datasets.read("cub", cub)


@pytest.mark.parametrize("name", list(CUB))
def test_cub_names_a_list_that_is_missing_or_empty(cub, name):
    (cub / name).write_text("\n")
    with pytest.raises(InputError, match=f"{re.escape(name)} is empty; expected"):
        datasets.read("cub", cub)
    (cub / name).unlink()
    with pytest.raises(InputError, match=f"lacks {re.escape(name)} .*--root"):
        datasets.read("cub", cub)


@pytest.mark.parametrize("name", ["image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"])
def test_cub_names_ids_of_one_list_that_another_lacks(cub, name):
    text = (cub / name).read_text()
    (cub / name).write_text(text.split("\n", 1)[1])
    with pytest.raises(InputError, match=rf"1 image ids are in images.txt but not in {re.escape(name)}: 1 "):
        datasets.read("cub", cub)
    extra = {"image_class_labels.txt": "1", "train_test_split.txt": "0", "bounding_boxes.txt": "1 1 1 1"}[name]
    (cub / name).write_text(text + "".join(f"{i} {extra}\n" for i in range(11, 18)))
    with pytest.raises(
        InputError, match=rf"7 image ids are in {re.escape(name)} but not in images.txt: 11, 12, 13, 14, 15 and 2 more"
    ):
        datasets.read("cub", cub)


def test_cub_names_files_that_are_absent_or_listed_twice(cub):
    (cub / "images/001.Auk/Auk 2.jpg").unlink()
    (cub / "images/007.Owl/Owl_1.jpg").unlink()
    (cub / "images/007.Owl").rmdir()
    with pytest.raises(InputError, match=r"2 of 3 files listed .*001.Auk/Auk 2.jpg, 007.Owl/Owl_1.jpg"):
        datasets.read("cub", cub)
    (cub / "images.txt").write_text(CUB["images.txt"].replace("Auk 2", "Auk_1"))
    with pytest.raises(InputError, match=r"001.Auk/Auk_1.jpg to both image 1 and image 2"):
        datasets.read("cub", cub)


def test_cub_without_images_or_with_a_list_that_is_not_text(cub):
    (cub / "images").rename(cub / "pictures")
    with pytest.raises(InputError, match="no folder images/"):
        datasets.read("cub", cub)
    (cub / "images.txt").write_bytes(b"\xff\xfe1")
    (cub / "pictures").rename(cub / "images")
    with pytest.raises(InputError, match=r"images.txt cannot be read as text"):
        datasets.read("cub", cub)


def test_cub_names_a_file_removed_after_reading_the_lists(cub):
    dataset = datasets.read("cub", cub)
    (cub / "images/001.Auk/Auk_1.jpg").unlink()
    with pytest.raises(InputError, match=r"image 1.*Auk_1.jpg.*No such file"):
        dataset.load(dataset.records[0])


@pytest.mark.skipif(not (REAL_DATA / "cub50").is_dir(), reason=f"no real images at {REAL_DATA}; set FGDATA_REAL_DATA")
def test_cub_reads_fifty_real_classes():
    dataset = datasets.read("cub", REAL_DATA / "cub50")
    assert Counter(r.split for r in dataset.records) == {"train": 1500, "test": 1389}
    assert len(dataset.classes) == 50
    first = dataset.records[0]
    assert (first.id, first.label, first.class_name) == ("1", 0, "001.Black_footed_Albatross")
    data, boxes = dataset.load(first)
    assert data.startswith(b"\xff\xd8")
    assert boxes == first.boxes
