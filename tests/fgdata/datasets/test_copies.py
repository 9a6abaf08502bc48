"""Datasets as other sites copy them, and what a download finds in its folder."""

import json

import numpy as np
import pytest
from dataset_files import boxes, image, write

from fgdata import datasets
from fgdata.datasets import Archive, fetch
from fgdata.errors import InputError
from fgdata.files.lock import lock

SIGNS = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n60,40,5,6,25,26,0,{}/a.png\n"


def test_gtsrb_in_lower_case(tmp_path):
    files = {"train.csv": SIGNS.format("Train"), "test.csv": SIGNS.format("Test")}
    write(tmp_path, {**files, "train/a.png": image(kind=".png"), "test/a.png": image(kind=".png")})
    assert boxes(datasets.read("gtsrb", tmp_path)) == {f"{half}/a.png": ((5, 6, 20, 20),) for half in ("train", "test")}


def test_cars_from_kaggle_without_a_devkit_names_what_is_missing(tmp_path):
    write(tmp_path, {"cars_annos.mat": b"", "cars_train/cars_train/1.jpg": b"", "cars_test/cars_test/1.jpg": b""})
    with pytest.raises(InputError, match=r"car_devkit.tgz.*devkit"):
        datasets.read("cars", tmp_path)


def test_isic_masks_of_zero_and_one(tmp_path):
    import cv2

    mask = np.zeros((40, 60), np.uint8)
    mask[4:14, 3:23] = 1
    files: dict[str, str | bytes] = {}
    for half in ("ISIC-2017_Training", "ISIC-2017_Test_v2"):
        files[f"{half}_Part3_GroundTruth.csv"] = "image_id,melanoma,seborrheic_keratosis\nA,1.0,0.0\n"
        files[f"{half}_Data/A.jpg"] = image()
        files[f"{half}_Part1_GroundTruth/A_segmentation.png"] = cv2.imencode(".png", mask)[1].tobytes()
    assert set(boxes(datasets.read("isic2017", write(tmp_path, files))).values()) == {((3, 4, 20, 10),)}


@pytest.mark.parametrize(("bbox", "state"), [([], "is empty"), (None, "is missing"), ("1234", "is not a box")])
def test_coco_without_a_box_says_what_is_expected(tmp_path, bbox, state):
    lists = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": bbox}],
        "categories": [{"id": 1, "name": "x"}],
    }
    write(tmp_path, {"annotations/instances_train2017.json": json.dumps(lists), "train2017/a.jpg": image()})
    with pytest.raises(InputError, match=rf"annotation 1.*{state}; expected \[left, top, width, height\]"):
        datasets.read("coco", tmp_path)


def test_coco_json_of_another_tool_is_named(tmp_path):
    with pytest.raises(InputError, match=r"It has train/_annotations.coco.json.*--annotations .*coco.json"):
        datasets.read("coco", write(tmp_path, {"train/_annotations.coco.json": "{}"}))


def exported(files: dict[str, list], categories: tuple[str, ...] = ("cat", "dog")) -> str:
    """{file: [(category, box), ...]} -> a json file as other tools write it."""
    boxes = [(image, *box) for image, listed in enumerate(files.values()) for box in listed]
    content = {
        "images": [{"id": number, "file_name": file, "width": 60, "height": 40} for number, file in enumerate(files)],
        "annotations": [{"id": n, "image_id": i, "category_id": c, "bbox": box} for n, (i, c, box) in enumerate(boxes)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, 1)],
    }
    return json.dumps(content)


@pytest.mark.parametrize(
    "places",
    [
        {"train/_annotations.coco.json": "train/", "valid/_annotations.coco.json": "valid/"},  # Roboflow
        {"annotations/instances_default.json": "images/"},  # CVAT
        {"labels.json": ""},
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_coco_json_of_other_tools(tmp_path, places, named):
    """{json file: the folder that its paths are relative to}. The largest of three boxes is a cat."""
    three = [(2, [1, 2, 10, 10]), (1, [0, 0, 60, 40]), (2, [5, 5, 3, 3])]
    expected = {}
    for (path, folder), split in zip(places.items(), ("train", "test")):
        write(tmp_path, {path: exported({f"{split}/a.jpg": three, "b.jpg": []})})
        write(tmp_path / folder, {f"{split}/a.jpg": image(), "b.jpg": image()})
        expected[f"{folder}{split}/a.jpg"] = split
    root = tmp_path if named or "images/" in places.values() else None
    known = datasets.read("coco", root, annotations=[str(tmp_path / path) for path in places])
    assert {record.file: record.split for record in known.records} == expected
    assert {(record.id == record.file, record.label, record.class_name) for record in known.records} == {
        (True, 0, "cat")
    }
    assert set(boxes(known).values()) == {((1, 2, 10, 10), (0, 0, 60, 40), (5, 5, 3, 3))}
    assert known.note == f"{len(places)} images without a box are left out"


def test_coco_json_of_other_tools_is_read_where_most_of_its_images_are(tmp_path):
    """Beside the json lies a file that has the name of its first image."""
    files = {f"images/{name}.jpg": image() for name in "abc"}
    listing = exported({f"{name}.jpg": [(1, [0, 0, 5, 5])] for name in "abc"})
    write(tmp_path, {"a.jpg": b"a thumbnail", **files, "one.json": listing})
    known = datasets.read("coco", annotations=[tmp_path / "one.json"])
    assert [record.file for record in known.records] == sorted(files)


def test_coco_json_of_other_tools_names_what_is_wrong(tmp_path):
    box = [(1, [0, 0, 5, 5])]
    write(tmp_path, {"a.jpg": image(), "b.jpg": image(), "one.json": exported({"a.jpg": box, "b.jpg": box})})
    one = tmp_path / "one.json"
    known = datasets.read("coco", annotations=[one], test_fraction=0.5)
    assert sorted(record.split for record in known.records) == ["test", "train"]
    other = tmp_path / "other.json"
    for content, says in (
        (exported({"a.jpg": box}), "assigns a.jpg to both image train/0 and image test/0"),
        (exported({"b.jpg": box}, ("dog", "cat")), "different categories"),
        (exported({"..\\b.jpg": box}), "other.json, image 1: .*with forward slashes"),
        (exported({"c.jpg": box}), "1 of 3 files listed in one.json and other.json are not in .*: c.jpg"),
        ("[]", "other.json holds a JSON list"),
    ):
        other.write_text(content)
        with pytest.raises(InputError, match=says):
            datasets.read("coco", annotations=[one, other])
    with pytest.raises(InputError, match="--annotations names 3 files; allowed: one for train"):
        datasets.read("coco", annotations=[one] * 3)
    with pytest.raises(InputError, match="absent.json cannot be read"):
        datasets.read("coco", annotations=[tmp_path / "absent.json"])


def test_a_download_ignores_hidden_files_and_refuses_a_second_process(tmp_path, monkeypatch):
    write(tmp_path, {".DS_Store": b"x"})
    fetched = []
    monkeypatch.setattr(fetch, "_install", lambda archive, root: fetched.append(archive))
    archives = (Archive("http://127.0.0.1/a.zip", "0" * 32),)
    fetch.download("cub", tmp_path, archives)
    assert fetched == list(archives)
    with lock(tmp_path / ".download"), pytest.raises(InputError, match=r"Another process .*--root FOLDER"):
        fetch.download("cub", tmp_path, archives)
    assert len(fetched) == 1


def test_gtsrb_as_torchvision_leaves_it(tmp_path):
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    files: dict[str, str | bytes] = {
        "GT-final_test.csv": f"{header}b.ppm;60;40;5;6;25;26;1\n",
        "GTSRB/Training/00001/GT-00001.csv": f"{header}a.ppm;60;40;5;6;25;26;1\n",
        **{f"GTSRB/{name}": image(kind=".ppm") for name in ("Training/00001/a.ppm", "Final_Test/Images/b.ppm")},
    }
    write(tmp_path / "gtsrb", files)
    for root in (tmp_path, tmp_path / "gtsrb"):
        known = datasets.read("gtsrb", root)
        assert boxes(known) == {
            "GTSRB/Training/00001/a.ppm": ((5, 6, 20, 20),),
            "GTSRB/Final_Test/Images/b.ppm": ((5, 6, 20, 20),),
        }


@pytest.mark.parametrize("top", ["car_data", "car_data/car_data"])
def test_cars_by_class_as_kaggle_has_them(tmp_path, top):
    files: dict[str, str | bytes] = {
        "names.csv": "AM General Hummer SUV 2000\nRam C/V Cargo Van Minivan 2012\n",
        "anno_train.csv": "00001.jpg,39,11,59,37,2\n00002.jpg,1,1,2,2,1\n",
        "anno_test.csv": "00001.jpg,3,4,5,6,1\n",
        f"{top}/train/Ram C-V Cargo Van Minivan 2012/00001.jpg": image(),
        f"{top}/train/AM General Hummer SUV 2000/00002.jpg": image(),
        f"{top}/test/AM General Hummer SUV 2000/00001.jpg": image(),
    }
    known = datasets.read("cars", write(tmp_path, files))
    assert [(r.id, r.class_name, r.label, r.split) for r in known.records] == [
        ("train/00001", "Ram C/V Cargo Van Minivan 2012", 1, "train"),
        ("train/00002", "AM General Hummer SUV 2000", 0, "train"),
        ("test/00001", "AM General Hummer SUV 2000", 0, "test"),
    ]
    assert list(boxes(known).values()) == [((38, 10, 21, 27),), ((0, 0, 2, 2),), ((2, 3, 3, 3),)]
    assert known.note == "a subset: 2 of 196 classes, 2 of 8,144 train, 1 of 8,041 test"
    for line, says in (
        ("00001.jpg,3,4,5,6\n", "anno_test.csv, line 1.*5 fields; expected file, bbox_x1"),
        ("00001.jpg,3,4,5,6,3\n", "class is 3; names.csv has 2 lines"),
        ("00009.jpg,3,4,5,6,1\n", f"{top}/test/00009.jpg"),
    ):
        (tmp_path / "anno_test.csv").write_text(line)
        with pytest.raises(InputError, match=says):
            datasets.read("cars", tmp_path)
