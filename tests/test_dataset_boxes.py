"""Readers of datasets with boxes: each layout written here as it is published, read back, and spoilt in every way."""

import json
import pickle
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from fgdata import datasets
from fgdata.build import build
from fgdata.errors import InputError


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def image(height: int = 40, width: int = 60, kind: str = ".jpg") -> bytes:
    return cv2.imencode(kind, np.random.default_rng(height).integers(0, 255, (height, width, 3), np.uint8))[1].tobytes()


def boxes(known: datasets.Dataset) -> dict:
    """{file: boxes}, through a pickle as worker processes see it."""
    again = pickle.loads(pickle.dumps(known))
    return {record.file: again.load(record)[1] for record in known.records}


def labels(known: datasets.Dataset) -> dict:
    assert all(known.classes[record.label] == record.class_name for record in known.records)
    return {record.file: (record.label, record.split) for record in known.records}


# -- cars -------------------------------------------------------------------------------------------------------------


def annotations(rows: list[dict]) -> np.ndarray:
    made = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for number, row in enumerate(rows):
        made[0, number] = tuple(np.array([[v]]) if isinstance(v, int) else v for v in row.values())
    return made


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


def test_cars_in_one_folder(cars):
    known = datasets.read("cars", cars)
    assert known.classes == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    assert labels(known) == {"car_ims/000001.jpg": (1, "train"), "car_ims/000002.jpg": (0, "test")}
    # Corners count from 1 and are inside: 39 to 569 is 531 pixels from the 39th on, whose left edge is at 38.
    assert boxes(known) == {"car_ims/000001.jpg": ((38, 115, 531, 260),), "car_ims/000002.jpg": ((0, 0, 2, 2),)}
    assert known.note == "a subset: 2 of 196 classes, 1 of 8,144 train, 1 of 8,041 test"


@pytest.mark.parametrize("place", ["", "devkit"])
def test_cars_in_two_halves(halves, place):
    name = "cars_test_annos_withlabels.mat"
    (halves / name).rename(halves / place / name)
    known = datasets.read("cars", halves)
    assert labels(known)["cars_test/00001.jpg"] == (1, "test")
    assert Counter(record.split for record in known.records) == {"train": 2, "test": 2}
    assert boxes(known)["cars_train/00001.jpg"] == ((38, 115, 531, 260),)
    assert len({record.id for record in known.records}) == 4


def test_cars_with_one_car_only(cars):
    savemat(
        str(cars / "cars_annos.mat"),
        {"annotations": annotations([car(relative_im_path="car_ims/000001.jpg", test=0)]), **NAMES},
    )
    assert len(datasets.read("cars", cars).records) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"class_": 3}, r"annotation 1: class 3; classes are 1 to 2"),
        ({"x2": 3}, r"annotation 1: the box is -35 wide"),
        ({"relative_im_path": "../x.jpg"}, r"annotation 1: .* must lie inside"),
        ({"relative_im_path": "car_ims/9.jpg"}, r"1 of 1 files listed .*car_ims/9.jpg"),
        ({"test": "x"}, r"annotation 1: invalid literal"),
    ],
)
def test_cars_names_the_annotation(cars, change, says):
    row = car(**{"relative_im_path": "car_ims/000001.jpg", "test": 0, **change})
    savemat(str(cars / "cars_annos.mat"), {"annotations": annotations([row]), **NAMES})
    with pytest.raises(InputError, match=says):
        datasets.read("cars", cars)


def test_cars_refuses_mat_files_of_another_kind(cars, halves):
    path = halves / "devkit/cars_train_annos.mat"
    (halves / "cars_annos.mat").unlink()
    savemat(str(path), {"x": 1})
    with pytest.raises(
        InputError, match=r"cars_train_annos.mat is a .mat file of another kind: no annotations; it has x"
    ):
        datasets.read("cars", halves)
    savemat(str(path), {"annotations": np.zeros(3)})
    with pytest.raises(InputError, match=r"its annotations lack fname, bbox_x1.*no fields"):
        datasets.read("cars", halves)
    for junk in (b"", b"no mat file at all" * 20, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"x" * 500):
        path.write_bytes(junk)
        with pytest.raises(InputError, match="is no MATLAB file that SciPy reads"):
            datasets.read("cars", halves)


def test_cars_says_that_the_devkit_test_list_has_no_labels(halves):
    row = car(fname="00001.jpg")
    row.pop("class")
    savemat(str(halves / "cars_test_annos_withlabels.mat"), {"annotations": annotations([row])})
    with pytest.raises(InputError, match=r"lack class; .*has no labels; cars_test_annos_withlabels.mat has them"):
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
    known = datasets.read("aircraft", aircraft)
    assert known.classes == ("707-320", "F/A-18")
    assert labels(known) == {"1025794.jpg": (1, "train"), "0034309.jpg": (0, "test")}
    assert boxes(known) == {"1025794.jpg": ((2, 143, 996, 288),), "0034309.jpg": ((0, 0, 60, 40),)}
    assert known.settings == {"level": "variant"}
    assert known.note == "a subset: 2 of 100 classes, 1 of 6,667 train, 1 of 3,333 test"
    assert datasets.read("aircraft", aircraft / "fgvc-aircraft-2013b/data", level="family").classes == (
        "Boeing 707",
        "F/A-18",
    )
    assert datasets.read("aircraft", aircraft, level="manufacturer").classes == ("Boeing", "McDonnell Douglas")
    with pytest.raises(InputError, match=r"--level wing; it is one of variant, family, manufacturer"):
        datasets.read("aircraft", aircraft, level="wing")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("images_box.txt", "1025794 3 144 998\n0034309 1 1 2 2\n", "line 1: '1025794 3 144 998': found 3 numbers"),
        ("images_box.txt", "1025794 3 144 998 431\n0034309 9 1 2 2\n", "line 2: .* -6 wide"),
        ("images_box.txt", "1025794 3 144 998 431\n", "not in images_box.txt: 0034309"),
        ("images_box.txt", AIRCRAFT["images_box.txt"] + "7 1 1 2 2\n", "are in images_box.txt and not in .*: 7 "),
        ("images_variant_test.txt", "0034309 Concorde\n", "line 1: .*'Concorde' is not in variants.txt, which has 2"),
        ("images_variant_test.txt", "1025794 707-320\n", "1025794 in both"),
        ("images_variant_test.txt", "x 707-320\n", "line 1: .*the first a whole number"),
        ("images_variant_test.txt", "\n", "images_variant_test.txt lists nothing"),
    ],
)
def test_aircraft_names_the_file_and_the_line(aircraft, name, content, says):
    (aircraft / "fgvc-aircraft-2013b/data" / name).write_text(content)
    with pytest.raises(InputError, match=says):
        datasets.read("aircraft", aircraft)


def test_aircraft_names_what_is_missing(aircraft):
    (aircraft / "fgvc-aircraft-2013b/data/images/0034309.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 2 files listed in images_box.txt .*0034309.jpg"):
        datasets.read("aircraft", aircraft)
    (aircraft / "fgvc-aircraft-2013b/data/variants.txt").unlink()
    with pytest.raises(InputError, match=r"lacks variants.txt"):
        datasets.read("aircraft", aircraft)


# -- nabirds ----------------------------------------------------------------------------------------------------------


def test_nabirds_has_uuids_and_only_the_classes_that_occur(tmp_path):
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
    known = datasets.read("nabirds", tmp_path)
    assert known.classes == ("Hoary Redpoll", "Oak Titmouse")
    assert [(r.id, r.label, r.split) for r in known.records] == [(a, 1, "test"), (b, 0, "train")]
    assert set(boxes(known).values()) == {((83, 59, 128, 228),), ((328, 88, 163, 298),)}
    (tmp_path / "nabirds/bounding_boxes.txt").write_text(f"{a} 83 59 128 228\n{b} 328 88 163\n")
    with pytest.raises(InputError, match=r"nabirds: .*bounding_boxes.txt, line 2: .*found 3 numbers"):
        datasets.read("nabirds", tmp_path)


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
    return write(tmp_path, {**files, **{name: image(30, 29, ".ppm") for name in images}})


def test_gtsrb_as_its_archives_unpack(signs):
    known = datasets.read("gtsrb", signs)
    assert known.classes == ("00000", "00014")
    assert labels(known) == {
        "GTSRB/Final_Training/Images/00000/00000_00000.ppm": (0, "train"),
        "GTSRB/Final_Training/Images/00014/00000_00000.ppm": (1, "train"),
        "GTSRB/Final_Test/Images/00000.ppm": (1, "test"),
    }
    assert list(boxes(known).values()) == [((5, 6, 20, 20),), ((0, 0, 29, 30),), ((6, 5, 43, 45),)]
    assert len({record.id for record in known.records}) == 3


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("00000_00000.ppm;29;30;5;6;24;25", "line 2: '00000_00000.ppm;29;30;5;6;24;25': 7 fields; the header has 8"),
        ("00000_00000.ppm;29;30;5;6;24;x;0", "line 2: .*could not convert string to float: 'x'"),
        ("00000_00000.ppm;29;30;5;6;2;25;0", "line 2: .*-2 wide"),
        ("00000_00000.ppm;29;30;5;6;24;25;43", "line 2: .*ClassId 43; signs are 0 to 42"),
        ("../00000.ppm;29;30;5;6;24;25;0", "line 2: .*must lie inside"),
        ("9.ppm;29;30;5;6;24;25;0", "1 of 2 files listed .*00000/9.ppm"),
        ("", "GT-00000.csv lists nothing behind its header"),
    ],
)
def test_gtsrb_names_the_file_and_the_line(signs, row, says):
    (signs / "GTSRB/Final_Training/Images/00000/GT-00000.csv").write_text(f"{HEADER}{row}\n")
    with pytest.raises(InputError, match=says):
        datasets.read("gtsrb", signs)


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
    for record in known.records[::97]:
        [(left, top, width, height)] = known.load(record)[1]
        rgb = cv2.imdecode(np.frombuffer(known.load(record)[0], np.uint8), cv2.IMREAD_COLOR)
        assert min(left, top) >= 0
        assert left + width <= rgb.shape[1]
        assert top + height <= rgb.shape[0]
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
        (mask(0, 0, 0, 0), "is empty: it marks no pixel"),
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
        ("ISIC_0,1.0,1.0", "line 2: 'ISIC_0,1.0,1.0': .*at most one of them is 1"),
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
        (("annotations", 1), {"image_id": 7}, "annotation 2, .*image_id 7 is not listed"),
        (("annotations", 1), {"category_id": 2}, "annotation 2, .*category_id 2 is none of the 2"),
        (("annotations", 1), {"bbox": [1, 2, 3]}, r"annotation 2, bbox \[1, 2, 3\]"),
        (("annotations", 1), {"bbox": [1, 2, -3, 4]}, "annotation 2, bbox .*-3 wide"),
        (("annotations", 1), {"bbox": [1, 2, None, 4]}, "annotation 2, bbox"),
        (("annotations", 1), {"image_id": [7]}, r"annotation 2, .*image_id \[7\]"),
        (("categories", 1), {"id": 1}, "category 2: .*an id of its own"),
        (("images", 1), {"id": 9}, "image 2: id 9: a whole number, once"),
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
        ("[]", "holds a JSON list; an object with images"),
        ('{"info": 1, "images": 3}', "has no list of objects 'images'; it has info, images"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{says}"):
            datasets.read("coco", coco)
    for name in ("train", "val"):
        (coco / f"annotations/instances_{name}2017.json").unlink()
    with pytest.raises(InputError, match="neither instances_train2017.json nor"):
        datasets.read("coco", coco)
