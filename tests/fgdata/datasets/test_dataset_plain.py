"""Readers of datasets without boxes: iNaturalist, CIFAR-100 and ImageNet, in layouts written here."""

import io
import json
import pickle
import pickletools
import struct
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_files import write

from fgdata import datasets
from fgdata.building.build import build
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, label, meta

# -- inat2018 ---------------------------------------------------------------------------------------------------------


def half(ids: tuple[int, ...], categories: tuple[int, ...]) -> dict:
    return {
        "images": [{"id": i, "file_name": f"train_val2018/Aves/{c}/{i:03d}.jpg"} for i, c in zip(ids, categories)],
        "annotations": [{"id": 100 + i, "image_id": i, "category_id": c} for i, c in zip(ids, categories)],
        "categories": [{"id": i, "name": str(i), "supercategory": "Aves"} for i in (7, 2)],
    }


@pytest.fixture
def inat(tmp_path) -> Path:
    halves = {"train2018.json": half((1, 2), (7, 2)), "val2018.json": half((3,), (7,))}
    files = {entry["file_name"]: b"jpeg" for content in halves.values() for entry in content["images"]}
    return write(tmp_path, {**files, **{name: json.dumps(content) for name, content in halves.items()}})


def test_inat2018(inat):
    dataset = datasets.read("inat2018", inat)
    assert dataset.classes == ("2", "7")
    assert [(r.id, r.label, r.split, r.boxes) for r in dataset.records] == [
        ("1", 1, "train", ()),
        ("2", 0, "train", ()),
        ("3", 1, "test", ()),
    ]
    assert dataset.load(dataset.records[2]) == (b"jpeg", ())
    assert dataset.note.startswith("a subset: 2 of 8,142 classes, 2 of 437,513 train")
    (inat / "categories.json").write_text(json.dumps([{"id": i, "name": f"Avis {i}"} for i in (2, 5, 7)]))
    assert datasets.read("inat2018", inat).classes == ("Avis 2", "Avis 7")
    for content, expected in (
        ('[{"id": 2, "name": "x"}]', "lacks the categories 7"),
        ("{}", "not a JSON list"),
        ("[\n", "line 2, col"),
    ):
        (inat / "categories.json").write_text(content)
        with pytest.raises(InputError, match=f"categories.json.*{expected}"):
            datasets.read("inat2018", inat)


@pytest.mark.parametrize(
    ("where", "change", "expected"),
    [
        (("annotations", 1), {"category_id": 3}, "annotation 2: image_id 2, category_id 3"),
        (("annotations", 1), {"image_id": 1}, "annotation 2: image_id 1, category_id 2"),
        (("annotations", 1), {"image_id": 9}, "image 2, id 2, .*one annotation"),
        (("images", 1), {"id": 1}, "image 2, id 1, file_name"),
        (("images", 1), {"id": [1]}, r"image 2, id \[1\]"),
        (("images", 1), {"file_name": 5}, "image 2, id 2, file_name 5"),
        (("images", 1), {"file_name": "/etc/passwd"}, "image 2: .*must lie inside"),
        (("images", 1), {"file_name": "train_val2018/x.jpg"}, "1 of 3 files listed .*x.jpg"),
        (("categories", 1), {"id": 8}, "different categories"),
        (("categories", 1), {"id": 7}, "category 2: .*unique"),
    ],
)
def test_inat2018_names_the_file_and_the_entry(inat, where, change, expected):
    content = half((1, 2), (7, 2))
    content[where[0]][where[1]] |= change
    (inat / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected):
        datasets.read("inat2018", inat)


def test_inat2018_with_a_file_of_two_spellings(inat):
    content = half((1, 2), (7, 2))
    content["images"][1]["file_name"] = "train_val2018/./Aves//7/001.jpg"
    (inat / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="assigns train_val2018/Aves/7/001.jpg to both image 0 and image 1"):
        datasets.read("inat2018", inat)


def test_inat2018_without_a_list_or_an_image(inat):
    content = half((1, 2), (7, 2))
    content["images"].pop()
    (inat / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="train2018.json has annotations of 1 images .*: 2"):
        datasets.read("inat2018", inat)
    (inat / "val2018.json").unlink()
    with pytest.raises(InputError, match=r"lacks val2018.json"):
        datasets.read("inat2018", inat)


# -- cifar100 ---------------------------------------------------------------------------------------------------------


def old_pickle(value) -> bytes:
    """The opcodes that Python 2's pickle wrote with protocol 2, as in CIFAR-100's files; bytes stand for its str."""
    if isinstance(value, dict):
        return b"}(" + b"".join(old_pickle(k) + old_pickle(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(old_pickle, value)) + b"e"
    if isinstance(value, bytes):
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, np.ndarray):
        kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"(" + b"".join(old_pickle(n) for n in value.shape) + b"t"
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        return start + b"(K\x01" + shape + kind + b"\x89" + old_pickle(value.tobytes()) + b"tb"
    raise TypeError(value)


def cifar_file(count: int, seed: int) -> dict:
    return {
        b"filenames": [b"bos_taurus_s_%06d.png" % i for i in range(count)],
        b"batch_label": b"training batch 1 of 1",
        b"fine_labels": [(7 * i + seed) % 3 for i in range(count)],
        b"coarse_labels": [0] * count,
        b"data": np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8),
    }


META = {b"fine_label_names": [b"apple", b"bear", b"cattle"], b"coarse_label_names": [b"things"]}


@pytest.fixture
def cifar(tmp_path) -> Path:
    values = {"meta": META, "train": cifar_file(5, 0), "test": cifar_file(2, 1)}
    files = {f"cifar-100-python/{name}": b"\x80\x02" + old_pickle(value) + b"." for name, value in values.items()}
    return write(tmp_path, files)


def test_old_pickle_writes_a_valid_pickle(cifar):
    pickletools.dis((cifar / "cifar-100-python/train").read_bytes(), out=io.StringIO())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's own name of its module in old files
def test_cifar100_pixels_equal_numpy_unpickled(cifar):
    dataset = datasets.read("cifar100", cifar)
    assert dataset.classes == ("apple", "bear", "cattle")
    assert Counter(record.split for record in dataset.records) == {"train": 5, "test": 2}
    assert dataset.records[3] == datasets.Record("train/3", "train/bos_taurus_s_000003.png", 0, "apple", "train")
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset.load)) < 1000, "workers get offsets, not pixels"
    for split in ("train", "test"):
        outside = pickle.loads((cifar / "cifar-100-python" / split).read_bytes(), encoding="bytes")
        mine = [record for record in dataset.records if record.split == split]
        assert [record.label for record in mine] == outside[b"fine_labels"]
        for record, row in zip(mine, outside[b"data"]):
            data, boxes = copy.load(record)
            rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            np.testing.assert_array_equal(rgb, row.reshape(3, 32, 32).transpose(1, 2, 0))
            assert boxes == ()


def test_cifar100_becomes_a_shard_set(cifar, tmp_path_factory):
    dataset = datasets.read("cifar100", cifar / "cifar-100-python")
    out = tmp_path_factory.mktemp("s") / "s"
    build(dataset, out, saliency=("spectral-residual",), workers=1)
    split = ShardSet.open(out).split("train")
    stored = {meta(split.read(i))["id"]: label(split.read(i)) for i in range(len(split))}
    assert stored == {record.id: record.label for record in dataset.records if record.split == "train"}


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran code')",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pickle.dumps({b"data": Evil()}), "refers to builtins.exec, which CIFAR-100 does not"),
        (pickle.dumps(Evil(), protocol=2), "refers to __builtin__.exec"),
        (b"cos\nsystem\n(U\x02lstR.", "refers to os.system"),
        (b"(U\x02lsios\nsystem\n.", "refers to os.system"),
        (b"cnumpy\nsave\n.", "refers to numpy.save"),
        (b"cnumpy\ndtype\n}U\x01xK\x01sb.", "is not one of CIFAR-100's files"),
        (b"", "is not one of CIFAR-100's files"),
        (b"\x80\x02}", "is not one of CIFAR-100's files"),
        (b"PK\x03\x04 a zip", "is not one of CIFAR-100's files"),
        (b"\x80\x02" + old_pickle([1, 2]) + b".", "lacks data, fine_labels, filenames"),
        (b"\x80\x02" + old_pickle({b"data": b"x"}) + b".", "is not one of CIFAR-100's files: it lacks"),
    ],
)
def test_cifar100_runs_no_code_from_a_file(cifar, content, expected):
    (cifar / "cifar-100-python/train").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        datasets.read("cifar100", cifar)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({b"data": np.zeros((4, 3072), np.uint8)}, "data is not 5 x 3,072 bytes"),
        ({b"data": np.zeros((5, 3071), np.uint8)}, "data is not 5 x 3,072 bytes"),
        ({b"data": b"x"}, "data is not 5 x 3,072 bytes"),
        ({b"fine_labels": [0, 1, 2, 3, 0]}, "label from 0 to 2"),
        ({b"fine_labels": 7}, "label from 0 to 2"),
        ({b"fine_labels": [0, 1]}, "label from 0 to 2"),
        ({b"filenames": [b"a.png"]}, "data is not 1 x 3,072 bytes"),
        ({b"filenames": [1, 2, 3, 4, 5]}, "its names are not a list of byte strings"),
    ],
)
def test_cifar100_names_the_inconsistent_field(cifar, change, expected):
    value = cifar_file(5, 0) | change
    (cifar / "cifar-100-python/train").write_bytes(b"\x80\x02" + old_pickle(value) + b".")
    with pytest.raises(InputError, match=expected):
        datasets.read("cifar100", cifar)


def test_cifar100_with_more_than_was_published(cifar, monkeypatch):
    from fgdata.datasets import cifar100

    monkeypatch.setattr(cifar100, "PUBLISHED", {"classes": 100, "train": 4, "test": 10})
    with pytest.raises(InputError, match=r"found 5 train, more than the published dataset has \(3 of 100 classes"):
        datasets.read("cifar100", cifar)
    monkeypatch.setattr(cifar100, "PUBLISHED", {"classes": 3, "train": 5, "test": 2})
    assert datasets.read("cifar100", cifar).note == ""


# -- imagenet, imagenet100 --------------------------------------------------------------------------------------------


@pytest.fixture
def imagenet(tmp_path) -> Path:
    ids = ("n01440764", "n01443537", "n02869837")
    files: dict[str, str | bytes] = {f"train/{w}/{w}_{n}.JPEG": b"x" for w in ids for n in (10, 9)}
    return write(tmp_path, files | {f"val/{w}/ILSVRC2012_val_0000000{k}.JPEG": b"x" for k, w in enumerate(ids)})


def test_imagenet(imagenet):
    dataset = datasets.read("imagenet", imagenet)
    assert dataset.classes == ("n01440764", "n01443537", "n02869837")
    assert [(r.file, r.label, r.split) for r in dataset.records][5:7] == [
        ("train/n02869837/n02869837_9.JPEG", 2, "train"),
        ("val/n01440764/ILSVRC2012_val_00000000.JPEG", 0, "test"),
    ]
    assert dataset.note == "a subset: 3 of 1,000 classes, 6 of 1,281,167 train, 3 of 50,000 test"


def test_imagenet_with_validation_images_not_in_class_folders(imagenet):
    (imagenet / "val/ILSVRC2012_val_00000001.JPEG").touch()
    with pytest.raises(InputError, match=r"val are not in class folders"):
        datasets.read("imagenet", imagenet)


def test_imagenet_without_train(tmp_path):
    with pytest.raises(InputError, match=r"lacks train .*contains nothing.*--root FOLDER"):
        datasets.read("imagenet", tmp_path)


def test_imagenet100_keeps_the_order_of_its_list(imagenet, tmp_path):
    with pytest.raises(InputError, match=r"no class list at .*imagenet100.txt.*--class-list FILE"):
        datasets.read("imagenet100", imagenet)
    (imagenet / "imagenet100.txt").write_text("\n \n")
    with pytest.raises(InputError, match=r"imagenet100.txt lists no classes. Write .*--class-list FILE"):
        datasets.read("imagenet100", imagenet)
    (imagenet / "imagenet100.txt").write_text("n02869837 bonnet, poke bonnet\nn01440764\n")
    dataset = datasets.read("imagenet100", imagenet)
    assert dataset.classes == ("n02869837", "n01440764")
    assert Counter((r.label, r.split) for r in dataset.records) == {
        (k, s): n for k in (0, 1) for s, n in (("train", 2), ("test", 1))
    }
    assert dataset.note == "a subset: 2 of 100 classes, 2 of 5,000 test"
    other = tmp_path / "mine.txt"
    for content, expected in (
        ("n01443537\n\ntench\n", "line 3: 'tench' .*n01440764"),
        ("n01443537\nn01443537\n", "line 2: 'n01443537' appears twice"),
        ("n01443537\nn99999999\n", "1 classes of .* have no folder in .*n99999999"),
    ):
        other.write_text(content)
        with pytest.raises(InputError, match=expected):
            datasets.read("imagenet100", imagenet, class_list=other)
