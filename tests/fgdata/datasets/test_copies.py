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
    with pytest.raises(InputError, match=r"train/_annotations.coco.json.*annotations/instances_train2017.json"):
        datasets.read("coco", write(tmp_path, {"train/_annotations.coco.json": "{}"}))


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
