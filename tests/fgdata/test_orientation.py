"""EXIF orientation: Pillow's `exif_transpose` is the oracle; a stored set is read back through three other readers."""

import io
import json
import struct

import cv2
import numpy as np
import pytest
from dataset_files import write
from PIL import Image, ImageOps

from fgdata import datasets, images
from fgdata.building.build import build
from fgdata.errors import InputError
from fgdata.images import jpeg, orientation
from fgdata.shards.reader import ShardSet, box, meta

ALL = range(1, 9)
WIDTH, HEIGHT = 90, 60
MARK = (12, 6, 24, 18)
"""(l, t, w, h) of the white rectangle in the stored picture."""


def stored_picture() -> np.ndarray:
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    left, top, width, height = MARK
    rgb[top : top + height, left : left + width] = 255
    return rgb


def encode(tag: int | None, form: str = "JPEG", rgb: np.ndarray | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    if tag is not None:
        exif = Image.Exif()
        exif[0x010F], exif[0x0112], exif[0x0131] = "a camera", tag, "a program"
        options["exif"] = exif
    Image.fromarray(stored_picture() if rgb is None else rgb).save(buffer, form, **options)
    return buffer.getvalue()


def open_upright(data: bytes) -> np.ndarray:
    """What a reader that applies EXIF sees."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(ImageOps.exif_transpose(image.convert("RGB") if image.format == "TIFF" else image))


def bounds(rgb: np.ndarray) -> tuple[int, int, int, int]:
    """The bounding box of what is white."""
    return cv2.boundingRect((rgb[..., 0] > 127).astype(np.uint8))


def xmp(tag: int, form: str = '"') -> bytes:
    inner = f'tiff:Orientation="{tag}"' if form == '"' else f"tiff:Orientation>{tag}<"
    body = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta " + inner.encode() + b"/>"
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def insert(data: bytes, segment: bytes) -> bytes:
    return data[:2] + segment + data[2:]


def exif_segment(order: str, kind: int, value: int, count: int = 1) -> bytes:
    """An APP1 segment whose only entry is an orientation of any type."""
    code = {1: "B3x", 3: "H2x", 4: "I", 9: "i"}[kind]
    mark = b"II" if order == "<" else b"MM"
    body = mark + struct.pack(f"{order}HIHHHI", 42, 8, 1, 0x0112, kind, count) + struct.pack(order + code, value)
    body = b"Exif\0\0" + body + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


VARIANTS = {
    **{f"tag {tag}": encode(tag) for tag in ALL},
    "no EXIF": encode(None),
    "progressive": encode(6, progressive=True),
    "in XMP": insert(encode(None), xmp(6)),
    "in an XMP element": insert(encode(None), xmp(8, ">")),
    "in EXIF and XMP": insert(encode(3), xmp(6)),
    "little-endian": insert(encode(None), exif_segment("<", 3, 5)),
    "a byte": insert(encode(None), exif_segment(">", 1, 7)),
    "a long": insert(encode(None), exif_segment(">", 4, 6)),
    "a signed long": insert(encode(None), exif_segment("<", 9, 8)),
    "not an orientation": insert(encode(None), exif_segment(">", 3, 9)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_orientation_of_a_jpeg_is_what_pillow_applies(name):
    data = VARIANTS[name]
    turned = orientation.turn_upright(images.decode(data, "x"), jpeg.read_orientation(data))
    theirs = open_upright(data)
    assert turned.shape == theirs.shape
    assert np.abs(turned.astype(int) - theirs).mean() < 1


@pytest.mark.parametrize("name", VARIANTS)
def test_a_cleared_jpeg_is_not_turned_and_only_the_tag_differs(name):
    data = VARIANTS[name]
    cleared = jpeg.clear_orientation(data)
    assert jpeg.read_orientation(cleared) == 1
    np.testing.assert_array_equal(open_upright(cleared), np.array(Image.open(io.BytesIO(data)).convert("RGB")))
    assert len(cleared) == len(data)
    differing = sum(a != b for a, b in zip(cleared, data))
    # A tag of another type becomes a short: its type changes too.
    assert differing <= {"a long": 2, "a signed long": 2, "a byte": 3, "in EXIF and XMP": 2}.get(name, 1)
    if name in ("tag 1", "no EXIF"):
        assert cleared == data


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_other_formats_are_turned_as_pillow_turns_them(form):
    for tag in (1, 3, 6):
        data = encode(tag, form)
        turned = orientation.turn_upright(images.decode(data, "x"), orientation.read_orientation(data))
        assert np.abs(turned.astype(int) - open_upright(data)).mean() < 3  # WebP and AVIF are lossy


@pytest.mark.parametrize("tag", ALL)
def test_a_box_of_the_upright_picture_is_found_in_the_stored_one(tag):
    upright = bounds(orientation.turn_upright(stored_picture(), tag))
    assert orientation.box_to_stored(upright, tag, WIDTH, HEIGHT) == MARK


@pytest.mark.parametrize("name", ["II", "MM", "cut", "far", "many"])
def test_damaged_exif_is_ignored(name):
    segment = {
        "II": b"Exif\0\0II",
        "MM": b"Exif\0\0MM\0*\0\0\0\x08",
        "cut": b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0",
        "far": b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(20),
        "many": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40),
    }[name]
    data = insert(encode(None), b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment)
    assert jpeg.read_orientation(data) == 1
    assert jpeg.clear_orientation(data) == data
    assert images.decode(data, "x").shape == (HEIGHT, WIDTH, 3)


# -- sets -------------------------------------------------------------------------------------------------------------


def coco_json(entries: list[dict], boxes: list[list[float]]) -> str:
    marks = [
        {"id": n, "image_id": e["id"], "category_id": 1, "bbox": b} for n, (e, b) in enumerate(zip(entries, boxes))
    ]
    return json.dumps({"images": entries, "annotations": marks, "categories": [{"id": 1, "name": "leaf"}]})


def write_coco(root, files: dict[str, bytes], sizes: list[dict], boxes: list[list[float]]):
    entries = [{"id": n, "file_name": name, **size} for n, (name, size) in enumerate(zip(files, sizes))]
    lists = {"annotations/instances_train2017.json": coco_json(entries, boxes)}
    return write(root, {**lists, **{f"train2017/{name}": data for name, data in files.items()}})


def read_back(folder) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """{reader: [(RGB as that reader shows it, its box in pixels)]}, in the order of the set."""
    import datasets as hugging_face
    import webdataset

    tar = str(folder / "train-000000.tar")
    shards = ShardSet.open(folder).split("train")
    ours = [shards.read(i) for i in range(len(shards))]
    boxes = [box(sample, "gt") for sample in ours]
    loaded = hugging_face.load_dataset("webdataset", data_files=tar, split="train", streaming=True)
    pictures = {
        "fgdata": [images.decode(sample["jpg"], "x") for sample in ours],
        "webdataset": [sample["jpg"] for sample in webdataset.WebDataset(tar, shardshuffle=False).decode("rgb8")],
        "Hugging Face": [np.array(sample["jpg"].convert("RGB")) for sample in loaded],
        "exif_transpose": [open_upright(sample["jpg"]) for sample in ours],
    }
    return {
        reader: [(rgb, b * np.tile(rgb.shape[1::-1], 2)) for rgb, b in zip(rgbs, boxes, strict=True)]
        for reader, rgbs in pictures.items()
    }


@pytest.mark.filterwarnings("ignore")  # of the other readers
def test_boxes_drawn_on_the_upright_picture_fit_in_every_reader(tmp_path):
    files, sizes, boxes = {}, [], []
    for tag in (1, 5, 6, 7, 8):
        upright = orientation.turn_upright(stored_picture(), tag)
        files[f"upright{tag}.jpg"] = encode(tag, quality=95)
        sizes.append({"width": upright.shape[1], "height": upright.shape[0]})
        boxes.append(list(bounds(upright)))
    files["stored6.jpg"] = encode(6, quality=95)
    sizes.append({"width": WIDTH, "height": HEIGHT})
    boxes.append(list(MARK))
    root = write_coco(tmp_path / "coco", files, sizes, boxes)
    build(datasets.read("coco", root), tmp_path / "set", saliency=("gt",), workers=1)
    for reader, samples in read_back(tmp_path / "set").items():
        assert len(samples) == 6
        for rgb, pixels in samples:
            assert rgb.shape == (HEIGHT, WIDTH, 3), reader
            np.testing.assert_allclose(bounds(rgb), pixels, atol=0.01, err_msg=reader)


@pytest.mark.parametrize(
    ("tag", "size"),
    [
        (None, {"width": HEIGHT, "height": WIDTH}),
        (6, {}),
        (6, {"width": 0, "height": 0}),
        (6, {"width": 100, "height": 50}),
        (3, {"width": WIDTH, "height": HEIGHT}),
        (2, {"width": WIDTH, "height": HEIGHT}),
    ],
)
def test_boxes_of_an_unknown_grid_are_refused_by_name(tmp_path, tag, size):
    root = write_coco(tmp_path, {"a.jpg": encode(tag)}, [size], [list(MARK)])
    dataset = datasets.read("coco", root)
    with pytest.raises(InputError, match=r"train2017/a.jpg: stored as 90 x 60 .*orientation \d.*--on-bad-image skip"):
        build(dataset, tmp_path / "set", saliency=("gt",), workers=1)


@pytest.mark.parametrize("size", [(800, 600), (WIDTH, HEIGHT + 1), (WIDTH - 1, HEIGHT), (2 * WIDTH, 2 * HEIGHT)])
def test_a_coco_picture_of_another_size_than_the_json_states_is_a_bad_image(tmp_path, size):
    sizes = [{"width": size[0], "height": size[1]}, {"width": WIDTH, "height": HEIGHT}, {}]
    files = {name: encode(None) for name in ("a.jpg", "b.jpg", "c.jpg")}
    dataset = datasets.read("coco", write_coco(tmp_path, files, sizes, [list(MARK)] * 3))
    says = rf"train2017/a\.jpg: the file has 90 x 60 pixels, but its annotation states {size[0]} x {size[1]}"
    with pytest.raises(InputError, match=says):
        build(dataset, tmp_path / "set", saliency=("gt",), workers=1)
    done = build(dataset, tmp_path / "set", saliency=("gt",), workers=1, on_bad_image="skip")
    assert [skipped["file"] for skipped in done.manifest["skipped"]] == ["train2017/a.jpg"]
    assert done.manifest["splits"]["train"]["samples"] == 2


def test_boxes_of_a_square_turned_picture_are_refused(tmp_path):
    square = np.zeros((40, 40, 3), np.uint8)
    root = write_coco(tmp_path, {"a.jpg": encode(6, rgb=square)}, [{"width": 40, "height": 40}], [[1, 2, 3, 4]])
    dataset = datasets.read("coco", root)
    with pytest.raises(InputError, match="40 x 40 .*orientation 6"):
        dataset.load(dataset.records[0])


def test_a_table_with_boxes_on_a_turned_picture(tmp_path):
    """It cannot state the grid of the boxes. A picture without a box is turned upright, whatever others have."""
    files = {"a.jpg": encode(6), "b.jpg": encode(6), "c.jpg": encode(1)}
    rows = f"path,x,y,w,h\na.jpg,{','.join(map(str, MARK))}\nb.jpg,,,,\nc.jpg,{','.join(map(str, MARK))}\n"
    dataset = datasets.read("table", write(tmp_path, {**files, "labels.csv": rows}))
    with pytest.raises(InputError, match=r"a\.jpg: stored as 90 x 60 .*orientation 6\. .*auto-orient.*skip"):
        build(dataset, tmp_path / "set", saliency=("whole",), workers=1)
    build(dataset, tmp_path / "set", saliency=("whole",), workers=1, on_bad_image="skip")
    split = ShardSet.open(tmp_path / "set").split("train")
    stored = {meta(split.read(i))["file"]: meta(split.read(i)) for i in range(len(split))}
    assert {file: (info["width"], info["height"]) for file, info in stored.items()} == {
        "b.jpg": (HEIGHT, WIDTH),
        "c.jpg": (WIDTH, HEIGHT),
    }


def test_annotated_sets_keep_the_stored_grid(tmp_path):
    files = {
        "images.txt": "1 a/1.jpg\n2 a/2.png\n",
        "image_class_labels.txt": "1 1\n2 1\n",
        "train_test_split.txt": "1 1\n2 1\n",
        "bounding_boxes.txt": "".join(f"{i} {' '.join(map(str, MARK))}\n" for i in (1, 2)),
        "classes.txt": "1 a\n",
        "images/a/1.jpg": encode(6),
        "images/a/2.png": encode(6, "PNG"),
    }
    build(datasets.read("cub", write(tmp_path / "cub", files)), tmp_path / "set", saliency=("gt",), workers=1)
    shards = ShardSet.open(tmp_path / "set").split("train")
    for sample in (shards.read(0), shards.read(1)):
        assert open_upright(sample["jpg"]).shape == (HEIGHT, WIDTH, 3)
        np.testing.assert_allclose(bounds(open_upright(sample["jpg"])), MARK, atol=0.01)
        np.testing.assert_allclose(box(sample, "gt") * [WIDTH, HEIGHT, WIDTH, HEIGHT], MARK, atol=0.01)
        assert ("source" in meta(sample)) == meta(sample)["file"].endswith(".png")
        if "source" not in meta(sample):
            assert sample["jpg"] == jpeg.clear_orientation(files["images/a/1.jpg"])


@pytest.mark.parametrize("layout", ["folder", "flat"])
def test_pictures_of_folders_are_stored_upright(tmp_path, layout):
    prefix = "leaf/" if layout == "folder" else ""
    forms = {"6.jpg": (6, "JPEG"), "8.png": (8, "PNG"), "3.webp": (3, "WEBP"), "1.jpg": (1, "JPEG")}
    files = {f"{prefix}{name}": encode(tag, form) for name, (tag, form) in forms.items()}
    dataset = datasets.read(layout, write(tmp_path / "in", files))
    build(dataset, tmp_path / "set", saliency=("spectral-residual",), workers=1, quality=95)
    shards = ShardSet.open(tmp_path / "set").split("train")
    for sample in (shards.read(i) for i in range(4)):
        file, tag = meta(sample)["file"], forms[meta(sample)["file"].removeprefix(prefix)][0]
        upright = orientation.turn_upright(stored_picture(), tag)
        assert (meta(sample)["height"], meta(sample)["width"]) == upright.shape[:2], file
        for rgb in (images.decode(sample["jpg"], file), open_upright(sample["jpg"])):
            assert np.abs(rgb.astype(int) - upright).mean() < 4, file
        if tag == 1:
            assert sample["jpg"] == files[file]
            assert "source" not in meta(sample)
        else:
            stored = {"format": forms[file.removeprefix(prefix)][1].lower(), "width": WIDTH, "height": HEIGHT}
            assert meta(sample)["source"] == stored
