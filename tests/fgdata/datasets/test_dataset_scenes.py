"""Readers of signs, lesions and COCO: each layout is written here as published, read back, and damaged in every way."""

import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_files import boxes, image, labels, write

from fgdata import datasets, images
from fgdata.building.build import build
from fgdata.errors import InputError

# -- gtsrb ------------------------------------------------------------------------------------------------------------

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"


@pytest.fixture
def signs(tmp_path) -> Path:
    """The official layout, as its three archives unpack."""
    train = "GTSRB/Final_Training/Images"
    files = {
        f"{train}/00000/GT-00000.csv": f"{HEADER}00000_00000.ppm;29;30;5;6;24;25;0\n",
        f"{train}/00014/GT-00014.csv": f"{HEADER}00000_00000.ppm;29;30;0;0;28;29;14\n",
        "GT-final_test.csv": f"{HEADER}00000.ppm;53;54;6;5;48;49;14\n",
        "GTSRB/Final_Test/Images/GT-final_test.test.csv": f"{HEADER}".replace(";ClassId", ""),
    }
    images = [f"{train}/00000/00000_00000.ppm", f"{train}/00014/00000_00000.ppm", "GTSRB/Final_Test/Images/00000.ppm"]
    return write(tmp_path, {**files, **{name: image(30, 29, ".ppm") for name in images[:2]}, images[2]: image(54, 53)})


def test_gtsrb_as_its_archives_unpack(signs):
    known = datasets.read("gtsrb", signs)
    assert known.classes == ("00000", "00014")
    assert labels(known) == {
        "GTSRB/Final_Training/Images/00000/00000_00000.ppm": (0, "train"),
        "GTSRB/Final_Training/Images/00014/00000_00000.ppm": (1, "train"),
        "GTSRB/Final_Test/Images/00000.ppm": (1, "test"),
    }
    assert list(boxes(known).values()) == [((5, 6, 19, 19),), ((0, 0, 28, 29),), ((6, 5, 42, 44),)]
    assert len({record.id for record in known.records}) == 3


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("00000_00000.ppm;29;30;5;6;24;25", "line 2: '00000_00000.ppm;29;30;5;6;24;25': 7 fields; the header has 8"),
        ("00000_00000.ppm;29;30;5;6;24;x;0", "line 2: .*could not convert string to float: 'x'"),
        ("00000_00000.ppm;29;30;5;6;2;25;0", "line 2: .*-3 wide"),
        ("00000_00000.ppm;29;30;5;6;24;25;43", "line 2: .*ClassId is 43.*0 to 42"),
        ("00000_00000.ppm;29;30;5;6;24;25;0.5", "line 2: .*ClassId is '0.5'; it must be a whole number"),
        ("00000_00000.ppm;29;x;5;6;24;25;0", "line 2: .*Height is 'x'; it must be a whole number"),
        ("../00000.ppm;29;30;5;6;24;25;0", "line 2: .*must lie inside"),
        ("9.ppm;29;30;5;6;24;25;0", "1 of 2 files listed .*00000/9.ppm"),
        ("", "GT-00000.csv has no rows"),
    ],
)
def test_gtsrb_names_the_file_and_the_line(signs, row, says):
    (signs / "GTSRB/Final_Training/Images/00000/GT-00000.csv").write_text(f"{HEADER}{row}\n")
    with pytest.raises(InputError, match=says):
        datasets.read("gtsrb", signs)


@pytest.mark.parametrize("stated", ["290;300", "30;29", "29;31", "28;30"])
def test_gtsrb_refuses_a_picture_of_another_size_than_its_csv_states(signs, stated):
    """Boxes belong to the stated size: those of shrunk or rotated images would be wrong."""
    folder = signs / "GTSRB/Final_Training/Images/00000"
    (folder / "GT-00000.csv").write_text(f"{HEADER}00000_00000.ppm;{stated};5;6;24;25;0\n")
    known = datasets.read("gtsrb", signs)
    width, height = stated.split(";")
    with pytest.raises(InputError, match=f"00000_00000.ppm: the file has 29 x 30 .*states {width} x {height}"):
        boxes(known)


def test_gtsrb_with_the_test_list_that_has_no_classes(signs):
    (signs / "GT-final_test.csv").write_text(HEADER.replace(";ClassId", "") + "00000.ppm;53;54;6;5;48;49\n")
    with pytest.raises(InputError, match=r"GT-final_test.csv, line 1: no column ClassId; found Filename, Width"):
        datasets.read("gtsrb", signs)
    (signs / "GT-final_test.csv").unlink()
    with pytest.raises(InputError, match="lacks GT-final_test.csv"):
        datasets.read("gtsrb", signs)


def test_gtsrb_as_kaggle_has_it(real_data, tmp_path):
    known = datasets.read("gtsrb", real_data / "gtsrb-sample")
    assert known.classes == tuple(f"{number:05d}" for number in range(43))
    assert Counter(record.split for record in known.records) == {"train": 1290, "test": 430}
    # GTSRB's readme: around each sign a border of a tenth of it, at least 5 pixels. A few rows have less.
    borders = []
    for record in known.records:
        data, [(left, top, width, height)] = known.load(record)
        found = images.header(data, record.file)
        borders.append([left, top, found.width - left - width, found.height - top - height])
    least = np.min(borders, 1)
    assert least.min() >= 0
    assert np.mean(least >= 5) > 0.99
    small = datasets.Dataset("gtsrb", known.classes, known.records[::300], known.load)
    assert build(small, tmp_path / "set", saliency=("gt",), workers=1).written == 6


# -- isic2017 ---------------------------------------------------------------------------------------------------------


def mask(left: int, top: int, width: int, height: int, shape: tuple[int, int] = (40, 60)) -> bytes:
    pixels = np.zeros(shape, np.uint8)
    pixels[top : top + height, left : left + width] = 255
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture
def lesions(tmp_path) -> Path:
    files: dict[str, str | bytes] = {}
    for half, ids in (("Training", ("0", "1", "2")), ("Test_v2", ("7",))):
        rows = [f"ISIC_{i},{float(i == '1')},{float(i == '2')}\n" for i in ids]
        files[f"ISIC-2017_{half}_Part3_GroundTruth.csv"] = "image_id,melanoma,seborrheic_keratosis\n" + "".join(rows)
        for i in ids:
            files[f"ISIC-2017_{half}_Data/ISIC_{i}.jpg"] = image()
            files[f"ISIC-2017_{half}_Data/ISIC_{i}_superpixels.png"] = b"not looked at"
            files[f"ISIC-2017_{half}_Part1_GroundTruth/ISIC_{i}_segmentation.png"] = mask(3 + int(i), 4, 20, 10)
    return write(tmp_path, files)


def test_isic2017_boxes_are_around_the_masks(lesions, tmp_path_factory):
    known = datasets.read("isic2017", lesions)
    assert known.classes == ("melanoma", "seborrheic_keratosis", "nevus")
    assert [(r.id, r.label, r.split) for r in known.records] == [
        ("ISIC_0", 2, "train"),
        ("ISIC_1", 0, "train"),
        ("ISIC_2", 1, "train"),
        ("ISIC_7", 2, "test"),
    ]
    assert list(boxes(known).values()) == [((3 + i, 4, 20, 10),) for i in (0, 1, 2, 7)]
    assert build(known, tmp_path_factory.mktemp("s") / "s", saliency=("gt",), workers=1).written == 4


def test_isic2017_refuses_an_empty_mask_before_any_work(lesions, tmp_path_factory):
    path = lesions / "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_7_segmentation.png"
    known = datasets.read("isic2017", lesions)
    for content, says in (
        (mask(0, 0, 0, 0), "is empty"),
        (mask(0, 0, 5, 5, (41, 60)), "is 60 x 41 pixels; its image is 60 x 40"),
        (b"", "cannot be read as an image"),
    ):
        path.write_bytes(content)
        out = tmp_path_factory.mktemp("s") / "s"
        with pytest.raises(InputError, match=f"ISIC_7_segmentation.png {says}"):
            build(known, out, saliency=("gt",), workers=1)
        assert not list(out.glob("*"))
    path.unlink()
    with pytest.raises(InputError, match=r"1 of 1 files listed in ISIC-2017_Test_v2_Part3.*ISIC_7_segmentation.png"):
        datasets.read("isic2017", lesions)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("ISIC_0,1.0,1.0", "line 2: 'ISIC_0,1.0,1.0': .*at most one"),
        ("ISIC_0,1.0", "line 2: 'ISIC_0,1.0': 2 fields; the header has 3"),
        ("ISIC_0,0.5,0", "line 2: .*at most one"),
        ("ISIC_0,yes,0", "line 2: .*could not convert"),
        ("ISIC_9,0,0", r"not in .*: ISIC-2017_Training_Data/ISIC_9.jpg"),
    ],
)
def test_isic2017_names_the_file_and_the_line(lesions, row, says):
    path = lesions / "ISIC-2017_Training_Part3_GroundTruth.csv"
    path.write_text(f"image_id,melanoma,seborrheic_keratosis\n{row}\n")
    with pytest.raises(InputError, match=says):
        datasets.read("isic2017", lesions)
    path.write_text(f"image_id,melanoma\n{row}\n")
    with pytest.raises(InputError, match=r"line 1: no column seborrheic_keratosis; found image_id, melanoma"):
        datasets.read("isic2017", lesions)


# -- coco -------------------------------------------------------------------------------------------------------------


def instances() -> dict:
    polygon = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]
    kinds = [{"supercategory": "x", "id": 1, "name": "person"}, {"supercategory": "y", "id": 90, "name": "toothbrush"}]
    marks = [
        (9, 1, [1.5, 2, 10, 10], 0),
        (9, 90, [0, 0, 30, 20.5], 0),
        (9, 1, [0, 0, 60, 40], 1),
        (9, 1, [3, 3, 0, 9], 0),
    ]
    return {
        "info": {},
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "height": 40, "width": 60} for n in (9, 25)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "iscrowd": w, "segmentation": polygon}
            for n, (i, c, b, w) in enumerate(marks)
        ],
        "categories": kinds,
    }


@pytest.fixture
def coco(tmp_path) -> Path:
    text = json.dumps(instances())
    names = [f"{half}2017/{n:012d}.jpg" for half in ("train", "val") for n in (9, 25)]
    lists = {f"annotations/instances_{half}2017.json": text for half in ("train", "val")}
    return write(tmp_path, {**lists, **{name: image() for name in names}})


def test_coco_keeps_all_boxes_and_takes_the_class_of_the_largest(coco):
    known = datasets.read("coco", coco)
    assert known.classes == ("person", "toothbrush")
    assert labels(known) == {"train2017/000000000009.jpg": (1, "train"), "val2017/000000000009.jpg": (1, "test")}
    assert set(boxes(known).values()) == {((1.5, 2, 10, 10), (0, 0, 30, 20.5))}
    assert (
        known.note == "a subset: 2 of 118,287 train images, 2 of 5,000 test images; 2 images without a box are left out"
    )
    (coco / "images").mkdir()
    (coco / "train2017").rename(coco / "images/train2017")
    (coco / "annotations/instances_val2017.json").unlink()
    assert set(boxes(datasets.read("coco", coco))) == {"images/train2017/000000000009.jpg"}


@pytest.mark.parametrize(
    ("where", "change", "says"),
    [
        (("annotations", 1), {"image_id": 7}, "annotation 2, .*image_id 7"),
        (("annotations", 1), {"category_id": 2}, "annotation 2, .*category_id 2"),
        (("annotations", 1), {"bbox": [1, 2, 3]}, r"annotation 2, bbox \[1, 2, 3\]"),
        (("annotations", 1), {"bbox": [1, 2, -3, 4]}, "annotation 2, bbox .*-3 wide"),
        (("annotations", 1), {"bbox": [1, 2, None, 4]}, "annotation 2, bbox"),
        (("annotations", 1), {"image_id": [7]}, r"annotation 2, .*image_id \[7\]"),
        (("categories", 1), {"id": 1}, "category 2: .*unique"),
        (("images", 1), {"id": 9}, "image 2: id 9"),
        (("images", 1), {"file_name": "../a.jpg"}, "image 2: .*must lie inside"),
        (("images", 1), {"file_name": None}, "image 2: .*must lie inside"),
        (("images", 1), {"file_name": "a.jpg"}, r"1 of 4 files .*train2017/a.jpg"),
        (("categories", 1), {"id": 91}, "category_id 90"),
    ],
)
def test_coco_names_the_file_and_the_entry(coco, where, change, says):
    made = instances()
    made[where[0]][where[1]] |= change
    (coco / "annotations/instances_train2017.json").write_text(json.dumps(made))
    with pytest.raises(InputError, match=says):
        datasets.read("coco", coco)


def test_coco_names_json_that_is_none_or_another(coco):
    path = coco / "annotations/instances_train2017.json"
    for content, says in (
        ('{"images": [\n1, }', "line 2, column 4"),
        ("[]", "JSON list; .*object with images"),
        ('{"info": 1, "images": 3}', "has no list of objects under the key 'images'; it has info, images"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{says}"):
            datasets.read("coco", coco)
    for name in ("train", "val"):
        (coco / f"annotations/instances_{name}2017.json").unlink()
    with pytest.raises(InputError, match="neither instances_train2017.json nor"):
        datasets.read("coco", coco)
