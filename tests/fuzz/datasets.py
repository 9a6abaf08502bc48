"""Datasets in the layouts of their publishers: lists, annotations, masks and images of every reader."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from random import Random

import cv2
import numpy as np
from scipy.io import savemat

from . import corrupt
from .commands import fgdata, preload

PRELOAD = ("fgdata.building.build", "scipy.io", "cv2")


def image(suffix: str = ".jpg", side: int = 24) -> bytes:
    pixels = np.random.default_rng(side).integers(0, 255, (side, side + 8, 3), np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def records(rows: list[dict]) -> np.ndarray:
    """Rows as the struct array that MATLAB writes."""
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for number, row in enumerate(rows):
        array[0, number] = tuple(np.array([[v]]) if isinstance(v, int) else v for v in row.values())
    return array


def _cub(root: Path) -> None:
    lists = {
        "images.txt": "1 001.Auk/a.jpg\n2 001.Auk/b.jpg\n3 002.Owl/c.jpg\n",
        "image_class_labels.txt": "1 1\n2 1\n3 2\n",
        "train_test_split.txt": "1 1\n2 0\n3 1\n",
        "bounding_boxes.txt": "1 1.0 2.0 10.0 9.0\n2 0 0 5 5\n3 3 3 8 8\n",
        "classes.txt": "1 001.Auk\n2 002.Owl\n",
    }
    write(root, {**lists, **{f"images/{n}": image() for n in ("001.Auk/a.jpg", "001.Auk/b.jpg", "002.Owl/c.jpg")}})


def _nabirds(root: Path) -> None:
    a, b = "0000139e-21dc-4d0c-bfe1-4cae3c85c829", "0000d9fc-4e02-4c06-a0af-a55cfb16b12b"
    lists = {
        "images.txt": f"{a} 0817/a.jpg\n{b} 0860/b.jpg\n",
        "image_class_labels.txt": f"{a} 817\n{b} 99\n",
        "train_test_split.txt": f"{a} 0\n{b} 1\n",
        "bounding_boxes.txt": f"{a} 3 5 12 8\n{b} 2 8 16 9\n",
        "classes.txt": "0 Birds\n1 Ducks, Geese, and Swans\n99 Hoary Redpoll\n817 Oak Titmouse\n",
    }
    write(root, {**lists, "images/0817/a.jpg": image(), "images/0860/b.jpg": image()})


def _aircraft(root: Path) -> None:
    lists = {
        "images_box.txt": "1025794 3 4 9 13\n0034309 1 1 6 4\n",
        "variants.txt": "707-320\nF/A-18\n",
        "images_variant_trainval.txt": "1025794 F/A-18\n",
        "images_variant_test.txt": "0034309 707-320\n",
    }
    write(root, {**lists, "images/1025794.jpg": image(), "images/0034309.jpg": image()})


def _cars(root: Path) -> None:
    box = {"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 15, "bbox_y2": 12}
    rows = [{**box, "class": n, "relative_im_path": f"car_ims/{n}.jpg", "test": n - 1} for n in (1, 2)]
    write(root, {"car_ims/1.jpg": image(), "car_ims/2.jpg": image()})
    names = np.array([["AM General Hummer", "Acura RL"]], object)
    savemat(str(root / "cars_annos.mat"), {"annotations": records(rows), "class_names": names})


def _xml() -> str:
    corners = "<xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>20</ymax>"
    size = "<size><width>32</width><height>24</height></size>"
    return f"<annotation>{size}<object><name>x</name><bndbox>{corners}</bndbox></object></annotation>"


def _cars_by_class(root: Path) -> None:
    lists = {
        "names.csv": "AM General Hummer\nAcura RL\n",
        "anno_train.csv": "1.jpg,2,2,20,20,2\n2.jpg,1,1,2,2,1\n",
        "anno_test.csv": "1.jpg,3,4,5,6,1\n",
    }
    names = ("train/Acura RL/1.jpg", "train/AM General Hummer/2.jpg", "test/AM General Hummer/1.jpg")
    write(root, {**lists, **{f"car_data/{name}": image() for name in names}})


def _cars_halves(root: Path) -> None:
    """As torchvision leaves them."""
    root = root / "stanford_cars"
    box = {"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 15, "bbox_y2": 12}
    write(root, {f"cars_{split}/1.jpg": image() for split in ("train", "test")})
    (root / "devkit").mkdir()
    names = np.array([["AM General Hummer", "Acura RL"]], object)
    savemat(str(root / "devkit" / "cars_meta.mat"), {"class_names": names})
    for name in ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"):
        savemat(str(root / name), {"annotations": records([{**box, "class": 1, "fname": "1.jpg"}])})


def _table(root: Path) -> None:
    rows = "path,label,x,y,w,h,split\na/1.jpg,auk,2,3,10,9,train\na/1.jpg,auk,1,1,4,4,train\nb/2.jpg,owl,,,,,test\n"
    write(root, {"labels.csv": rows, "a/1.jpg": image(), "b/2.jpg": image()})


def _pets(root: Path) -> None:
    lists = {"trainval.txt": "Abyssinian_1 1 1 1\npug_2 37 2 25\n", "test.txt": "pug_1 37 2 25\n"}
    write(root / "annotations", {**lists, "xmls/Abyssinian_1.xml": _xml(), "xmls/pug_2.xml": _xml()})
    write(root / "images", {f"{name}.jpg": image() for name in ("Abyssinian_1", "pug_1", "pug_2")})


def _dogs(root: Path) -> None:
    names = {"train": "n02085620-Chihuahua/n02085620_7", "test": "n02110958-pug/n02110958_1"}
    for split, name in names.items():
        write(root, {f"Images/{name}.jpg": image(), f"Annotation/{name}": _xml()})
        savemat(str(root / f"{split}_list.mat"), {"file_list": np.array([[f"{name}.jpg"]], object)})


def _flowers(root: Path) -> None:
    write(root, {f"jpg/image_{number:05d}.jpg": image() for number in (1, 2, 3)})
    savemat(str(root / "imagelabels.mat"), {"labels": np.array([[77, 1, 77]])})
    savemat(str(root / "setid.mat"), {"trnid": [[1]], "valid": [[3]], "tstid": [[2]]})


def _inat2018(root: Path) -> None:
    def half(ids: tuple[int, ...]) -> str:
        return json.dumps(
            {
                "images": [{"id": i, "file_name": f"train_val2018/Aves/{i}.jpg"} for i in ids],
                "annotations": [{"id": 100 + i, "image_id": i, "category_id": 7 - i % 2} for i in ids],
                "categories": [{"id": i, "name": str(i), "supercategory": "Aves"} for i in (6, 7)],
            }
        )

    images = {f"train_val2018/Aves/{i}.jpg": image() for i in (1, 2, 3, 4)}
    write(root, {"train2018.json": half((1, 2)), "val2018.json": half((3, 4)), **images})


def _coco(root: Path) -> None:
    text = json.dumps(
        {
            "images": [{"id": n, "file_name": f"{n}.jpg", "height": 24, "width": 32} for n in (9, 25)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "bbox": [1.5, 2, 10, 10], "iscrowd": 0} for n in (9, 25)
            ],
            "categories": [{"supercategory": "x", "id": 1, "name": "person"}],
        }
    )
    halves = ("train2017", "val2017")
    lists = {f"annotations/instances_{half}.json": text for half in halves}
    write(root, {**lists, **{f"{half}/{n}.jpg": image() for half in halves for n in (9, 25)}})


def _coco_given(root: Path) -> None:
    """Any other lists, with --annotations."""
    _coco(root)
    for half, name in (("train2017", "mine.json"), ("val2017", "held.json")):
        (root / "annotations" / f"instances_{half}.json").rename(root / half / name)


def _gtsrb_official(root: Path) -> None:
    """As torchvision leaves it."""
    root = root / "gtsrb"
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    row = "1.png;32;24;5;5;20;18;{}\n"
    lists = {
        "GTSRB/Training/00000/GT-00000.csv": header + row.format(0),
        "GTSRB/Training/00014/GT-00014.csv": header + row.format(14),
        "GT-final_test.csv": header + row.format(14),
    }
    folders = ("Training/00000", "Training/00014", "Final_Test/Images")
    write(root, {**lists, **{f"GTSRB/{folder}/1.png": image(".png") for folder in folders}})


def _gtsrb(root: Path) -> None:
    header = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n"
    row = "32,24,5,5,20,18,{},{}\n"
    lists = {
        "Train.csv": header + row.format(0, "Train/0/a.png") + row.format(1, "Train/1/b.png"),
        "Test.csv": header + row.format(1, "Test/c.png"),
    }
    write(root, {**lists, **{n: image(".png") for n in ("Train/0/a.png", "Train/1/b.png", "Test/c.png")}})


def _isic2017(root: Path) -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 6:20] = 255
    for half, number in (("ISIC-2017_Training", 0), ("ISIC-2017_Test_v2", 7)):
        table = f"image_id,melanoma,seborrheic_keratosis\nISIC_{number},1.0,0.0\n"
        files = {
            f"{half}_Data/ISIC_{number}.jpg": image(),
            f"{half}_Part1_GroundTruth/ISIC_{number}_segmentation.png": cv2.imencode(".png", mask)[1].tobytes(),
            f"{half}_Part3_GroundTruth.csv": table,
        }
        write(root, files)


def _cifar100(root: Path) -> None:
    def half(count: int) -> dict:
        return {
            b"filenames": [b"%d.png" % i for i in range(count)],
            b"fine_labels": [i % 2 for i in range(count)],
            b"data": np.zeros((count, 3072), np.uint8),
        }

    content = {"meta": {b"fine_label_names": [b"apple", b"bear"]}, "train": half(3), "test": half(2)}
    write(root, {name: pickle.dumps(value, 3) for name, value in content.items()})


def _folder(root: Path) -> None:
    names = ("train/a/1.jpg", "train/a/2.png", "train/b/3.jpeg", "test/b/4.jpg")
    write(root, {name: image(Path(name).suffix) for name in names})


def _flat(root: Path) -> None:
    write(root, {name: image(Path(name).suffix) for name in ("1.jpg", "2.png", "3.bmp")})


def _imagenet(root: Path) -> None:
    ids = ("n01440764", "n01443537")
    names = [f"{half}/{w}/{w}_1.JPEG" for half in ("train", "val") for w in ids]
    write(root, {"imagenet100.txt": "n01443537 tench\nn01440764\n", **{name: image() for name in names}})


LAYOUTS = {
    **{"cub": _cub, "nabirds": _nabirds, "aircraft": _aircraft, "cars": _cars, "inat2018": _inat2018, "coco": _coco},
    **{"gtsrb": _gtsrb, "isic2017": _isic2017, "cifar100": _cifar100, "folder": _folder, "flat": _flat},
    **{"imagenet": _imagenet, "imagenet100": _imagenet, "pets": _pets, "dogs": _dogs, "flowers": _flowers},
    **{"table": _table, "cars-by-class": _cars_by_class, "cars-halves": _cars_halves, "coco-given": _coco_given},
    **{"gtsrb-official": _gtsrb_official},
}
"""By the name of the dataset; after a hyphen, which of its layouts."""
FLAGS = {"coco-given": ("--annotations", "coco-given/train2017/mine.json", "coco-given/val2017/held.json")}


def prepare(folder: Path) -> None:
    preload(*PRELOAD)
    for name, layout in LAYOUTS.items():
        (folder / name).mkdir()
        layout(folder / name)


def build(name: str) -> int:
    flags = ["--saliency", "spectral-residual", "--on-bad-image", "skip", "--out", "out"]
    dataset = name.partition("-")[0]
    return fgdata("build-shards", "--dataset", dataset, "--root", name, *flags, *FLAGS.get(name, ()))


COMMANDS = {name: lambda name=name: build(name) for name in LAYOUTS}
FAILING = ()


def corrupt_input(rng: Random, here: Path, command: str) -> str:
    root = here / command
    files = corrupt.regular_files(root)
    lists = [path for path in files if path.suffix not in (".jpg", ".png", ".jpeg", ".bmp", ".JPEG")]
    if rng.random() < 0.15 or not files:
        folders = sorted(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())
        return corrupt.add_odd_name(rng, rng.choice([root, *folders]), image())
    return corrupt.corrupt_file(rng, rng.choice(lists if lists and rng.random() < 0.75 else files))
