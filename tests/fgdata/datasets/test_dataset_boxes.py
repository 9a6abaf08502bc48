"""Readers of cars, aircraft and nabirds: each layout is written as published, read back, and damaged."""

import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dataset_files import boxes, image, labels, write
from scipy.io import savemat

from fgdata import datasets
from fgdata.datasets import matlab
from fgdata.errors import InputError

# -- cars -------------------------------------------------------------------------------------------------------------


def annotations(rows: list[dict]) -> np.ndarray:
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for number, row in enumerate(rows):
        array[0, number] = tuple(np.array([[v]]) if isinstance(v, int) else v for v in row.values())
    return array


def car(x1=39, y1=116, x2=569, y2=375, class_=2, **more) -> dict:
    return {"bbox_x1": x1, "bbox_y1": y1, "bbox_x2": x2, "bbox_y2": y2, "class": class_, **more}


NAMES = {"class_names": np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], object)}


@pytest.fixture
def cars(tmp_path) -> Path:
    """The layout in one folder."""
    rows = [
        car(relative_im_path="car_ims/000001.jpg", test=0),
        car(1, 1, 2, 2, 1, relative_im_path="car_ims/000002.jpg", test=1),
    ]
    write(tmp_path, {row["relative_im_path"]: image() for row in rows})
    savemat(str(tmp_path / "cars_annos.mat"), {"annotations": annotations(rows), **NAMES})
    return tmp_path


@pytest.fixture
def halves(tmp_path) -> Path:
    """The layout in two halves."""
    write(
        tmp_path, {f"{half}/{name}.jpg": image() for half in ("cars_train", "cars_test") for name in ("00001", "00002")}
    )
    (tmp_path / "devkit").mkdir()
    two = [car(fname="00001.jpg"), car(1, 1, 2, 2, 1, fname="00002.jpg")]
    savemat(str(tmp_path / "devkit/cars_meta.mat"), NAMES)
    savemat(str(tmp_path / "devkit/cars_train_annos.mat"), {"annotations": annotations(two)})
    savemat(str(tmp_path / "cars_test_annos_withlabels.mat"), {"annotations": annotations(two)})
    return tmp_path


def test_an_image_that_cars_lists_twice_is_refused(cars, tmp_path):
    """With two classes, or in train and test."""
    rows = [car(relative_im_path="car_ims/000001.jpg", test=half) for half in (0, 1)]
    savemat(str(cars / "cars_annos.mat"), {"annotations": annotations(rows), **NAMES})
    with pytest.raises(InputError, match=r"assigns car_ims/000001.jpg to both image 0 and image 1"):
        datasets.read("cars", cars)


def test_cars_in_one_folder(cars):
    dataset = datasets.read("cars", cars)
    assert dataset.classes == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    assert labels(dataset) == {"car_ims/000001.jpg": (1, "train"), "car_ims/000002.jpg": (0, "test")}
    # Corners count from 1 and are inside: 39 to 569 is 531 pixels from the 39th on, whose left edge is at 38.
    assert boxes(dataset) == {"car_ims/000001.jpg": ((38, 115, 531, 260),), "car_ims/000002.jpg": ((0, 0, 2, 2),)}
    assert dataset.note == "a subset: 2 of 196 classes, 1 of 8,144 train, 1 of 8,041 test"


@pytest.mark.parametrize("place", ["", "devkit"])
def test_cars_in_two_halves(halves, place):
    name = "cars_test_annos_withlabels.mat"
    (halves / name).rename(halves / place / name)
    dataset = datasets.read("cars", halves)
    assert labels(dataset)["cars_test/00001.jpg"] == (1, "test")
    assert Counter(record.split for record in dataset.records) == {"train": 2, "test": 2}
    assert boxes(dataset)["cars_train/00001.jpg"] == ((38, 115, 531, 260),)
    assert len({record.id for record in dataset.records}) == 4


@pytest.mark.parametrize("devkit", ["devkit", "car_devkit/devkit"])
def test_cars_as_kaggles_copies_unpack(halves, devkit):
    """Each folder contains one of its own name, which contains the images."""
    for folder in ("cars_train", "cars_test"):
        (halves / folder).rename(halves / "inner")
        (halves / folder).mkdir()
        (halves / "inner").rename(halves / folder / folder)
    (halves / devkit).parent.mkdir(exist_ok=True)
    (halves / "devkit").rename(halves / devkit)
    dataset = datasets.read("cars", halves)
    assert labels(dataset) == {
        f"cars_{half}/cars_{half}/0000{number}.jpg": (2 - number, half)
        for half in ("train", "test")
        for number in (1, 2)
    }
    assert boxes(dataset)["cars_test/cars_test/00001.jpg"] == ((38, 115, 531, 260),)


@pytest.mark.parametrize("order", ["<", ">"])
def test_cars_limits_what_the_variables_of_a_mat_file_expand_to(cars, monkeypatch, order):
    path = cars / "cars_annos.mat"
    content = {"annotations": annotations([car(relative_im_path="car_ims/000001.jpg", test=0)]), **NAMES}
    savemat(str(path), content, do_compression=True)
    data, size, position = path.read_bytes(), 0, 128
    while position < len(data):
        kind, length = struct.unpack_from("<II", data, position)
        assert kind == 15
        size += len(zlib.decompress(data[position + 8 : position + 8 + length]))
        position += 8 + length
    monkeypatch.setattr(matlab, "MOST_BYTES", size)
    assert len(datasets.read("cars", cars).records) == 1
    monkeypatch.setattr(matlab, "MOST_BYTES", size - 1)
    if order == ">":  # the lengths of a big-endian file
        swapped = bytearray(data[:126] + b"MI" + data[128:])
        position = 128
        while position < len(data):
            kind, length = struct.unpack_from("<II", data, position)
            struct.pack_into(">II", swapped, position, kind, length)
            position += 8 + length
        path.write_bytes(swapped)
    with pytest.raises(InputError, match=f"cars_annos.mat .*more than {size - 1:,} bytes"):
        datasets.read("cars", cars)


@pytest.mark.parametrize("place", [372, 632])
def test_a_damaged_mat_file_that_crashes_scipy_is_an_input_error(cars, place):
    path = cars / "cars_annos.mat"
    content = {"annotations": annotations([car(relative_im_path="car_ims/000001.jpg", test=0)]), **NAMES}
    savemat(str(path), content)
    data = path.read_bytes()
    path.write_bytes(data[:place] + bytes(9) + data[place + 9 :])  # SciPy 1.17 reads this and ends by signal 11
    with pytest.raises(InputError, match=r"cars_annos.mat is not a MATLAB file that SciPy can read: .*Restore"):
        datasets.read("cars", cars)


def test_a_crash_of_scipy_names_the_signal(cars, monkeypatch):
    monkeypatch.setattr(matlab, "_CHILD", "import os; os.abort()")
    with pytest.raises(InputError, match=r"cars_annos.mat .*crashes SciPy \(signal 6\)"):
        datasets.read("cars", cars)


def test_cars_with_one_car_only(cars):
    savemat(
        str(cars / "cars_annos.mat"),
        {"annotations": annotations([car(relative_im_path="car_ims/000001.jpg", test=0)]), **NAMES},
    )
    assert len(datasets.read("cars", cars).records) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"class_": 3}, r"annotation 1: class is 3.*1 to 2"),
        ({"x2": 3}, r"annotation 1: the box is -35 wide"),
        ({"relative_im_path": "../x.jpg"}, r"annotation 1: .* must lie inside"),
        ({"relative_im_path": "car_ims/9.jpg"}, r"1 of 1 files listed .*car_ims/9.jpg"),
        ({"test": "x"}, r"annotation 1: invalid literal"),
    ],
)
def test_cars_names_the_annotation(cars, change, expected):
    row = car(**{"relative_im_path": "car_ims/000001.jpg", "test": 0, **change})
    savemat(str(cars / "cars_annos.mat"), {"annotations": annotations([row]), **NAMES})
    with pytest.raises(InputError, match=expected):
        datasets.read("cars", cars)


def test_cars_refuses_mat_files_of_another_kind(cars, halves):
    path = halves / "devkit/cars_train_annos.mat"
    (halves / "cars_annos.mat").unlink()
    savemat(str(path), {"x": 1})
    with pytest.raises(InputError, match=r"cars_train_annos.mat .*no annotations; it has x"):
        datasets.read("cars", halves)
    savemat(str(path), {"annotations": np.zeros(3)})
    with pytest.raises(InputError, match=r"its annotations lack fname, bbox_x1.*no fields"):
        datasets.read("cars", halves)
    for junk in (b"", b"no mat file at all" * 20, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"x" * 500):
        path.write_bytes(junk)
        with pytest.raises(InputError, match="cars_train_annos.mat is not a MATLAB file"):
            datasets.read("cars", halves)


def test_cars_explains_that_the_devkit_test_list_has_no_labels(halves):
    row = car(fname="00001.jpg")
    row.pop("class")
    savemat(str(halves / "cars_test_annos_withlabels.mat"), {"annotations": annotations([row])})
    with pytest.raises(InputError, match=r"lack class; .*cars_test_annos_withlabels.mat"):
        datasets.read("cars", halves)
    (halves / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(InputError, match=r"lacks cars_test_annos_withlabels.mat"):
        datasets.read("cars", halves)


# -- aircraft ---------------------------------------------------------------------------------------------------------

AIRCRAFT = {
    "images_box.txt": "1025794 3 144 998 431\n0034309 1 1 60 40\n",
    "variants.txt": "707-320\nF/A-18\n",
    "families.txt": "Boeing 707\nF/A-18\n",
    "manufacturers.txt": "Boeing\nMcDonnell Douglas\n",
    "images_variant_trainval.txt": "1025794 F/A-18\n",
    "images_variant_test.txt": "0034309 707-320\n",
    "images_family_trainval.txt": "1025794 F/A-18\n",
    "images_family_test.txt": "0034309 Boeing 707\n",
    "images_manufacturer_trainval.txt": "1025794 McDonnell Douglas\n",
    "images_manufacturer_test.txt": "0034309 Boeing\n",
}


@pytest.fixture
def aircraft(tmp_path) -> Path:
    folder = tmp_path / "fgvc-aircraft-2013b/data"
    write(folder, {**AIRCRAFT, "images/1025794.jpg": image(), "images/0034309.jpg": image()})
    return tmp_path


def test_aircraft_at_each_level(aircraft):
    dataset = datasets.read("aircraft", aircraft)
    assert dataset.classes == ("707-320", "F/A-18")
    assert labels(dataset) == {"1025794.jpg": (1, "train"), "0034309.jpg": (0, "test")}
    assert boxes(dataset) == {"1025794.jpg": ((2, 143, 996, 288),), "0034309.jpg": ((0, 0, 60, 40),)}
    assert dataset.settings == {"level": "variant"}
    assert dataset.note == "a subset: 2 of 100 classes, 1 of 6,667 train, 1 of 3,333 test"
    assert datasets.read("aircraft", aircraft / "fgvc-aircraft-2013b/data", level="family").classes == (
        "Boeing 707",
        "F/A-18",
    )
    assert datasets.read("aircraft", aircraft, level="manufacturer").classes == ("Boeing", "McDonnell Douglas")
    with pytest.raises(InputError, match=r"--level wing.*variant, family, manufacturer"):
        datasets.read("aircraft", aircraft, level="wing")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("images_box.txt", "1025794 3 144 998\n0034309 1 1 2 2\n", "line 1: '1025794 3 144 998': found 3 numbers"),
        ("images_box.txt", "1025794 3 144 998 431\n0034309 9 1 2 2\n", "line 2: .* -6 wide"),
        ("images_box.txt", "1025794 3 144 998 431\n", "not in images_box.txt: 0034309"),
        ("images_box.txt", AIRCRAFT["images_box.txt"] + "7 1 1 2 2\n", "are in images_box.txt but not in .*: 7 "),
        ("images_variant_test.txt", "0034309 Concorde\n", "line 1: .*'Concorde' is not in variants.txt, which lists 2"),
        ("images_variant_test.txt", "1025794 707-320\n", "1025794 listed in both"),
        ("images_variant_test.txt", "x 707-320\n", "line 1: .*starting with a whole number"),
        ("images_variant_test.txt", "\n", "images_variant_test.txt.*`ID VARIANT`"),
    ],
)
def test_aircraft_names_the_file_and_the_line(aircraft, name, content, expected):
    (aircraft / "fgvc-aircraft-2013b/data" / name).write_text(content)
    with pytest.raises(InputError, match=expected):
        datasets.read("aircraft", aircraft)


def test_aircraft_names_what_is_missing(aircraft):
    (aircraft / "fgvc-aircraft-2013b/data/images/0034309.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 2 files listed in images_box.txt .*0034309.jpg"):
        datasets.read("aircraft", aircraft)
    (aircraft / "fgvc-aircraft-2013b/data/variants.txt").unlink()
    with pytest.raises(InputError, match=r"lacks variants.txt"):
        datasets.read("aircraft", aircraft)


# -- nabirds ----------------------------------------------------------------------------------------------------------


def test_nabirds_has_uuids_and_only_classes_with_images(tmp_path):
    a, b = "0000139e-21dc-4d0c-bfe1-4cae3c85c829", "0000d9fc-4e02-4c06-a0af-a55cfb16b12b"
    files = {
        "images.txt": f"{a} 0817/0000139e21dc4d0cbfe14cae3c85c829.jpg\n{b} 0860/0000d9fc4e024c06a0afa55cfb16b12b.jpg\n",
        "image_class_labels.txt": f"{a} 817\n{b} 99\n",
        "train_test_split.txt": f"{a} 0\n{b} 1\n",
        "bounding_boxes.txt": f"{a} 83 59 128 228\n{b} 328 88 163 298\n",
        "classes.txt": "0 Birds\n1 Ducks, Geese, and Swans\n99 Hoary Redpoll\n817 Oak Titmouse\n",
        "hierarchy.txt": "1 0\n",
        "images/0817/0000139e21dc4d0cbfe14cae3c85c829.jpg": image(),
        "images/0860/0000d9fc4e024c06a0afa55cfb16b12b.jpg": image(),
    }
    write(tmp_path / "nabirds", files)
    dataset = datasets.read("nabirds", tmp_path)
    assert dataset.classes == ("Hoary Redpoll", "Oak Titmouse")
    assert [(r.id, r.label, r.split) for r in dataset.records] == [(a, 1, "test"), (b, 0, "train")]
    assert set(boxes(dataset).values()) == {((83, 59, 128, 228),), ((328, 88, 163, 298),)}
    (tmp_path / "nabirds/bounding_boxes.txt").write_text(f"{a} 83 59 128 228\n{b} 328 88 163\n")
    with pytest.raises(InputError, match=r"nabirds: .*bounding_boxes.txt, line 2: .*found 3 numbers"):
        datasets.read("nabirds", tmp_path)
