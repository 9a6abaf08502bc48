"""The datasets folder and flat, in layouts written here."""

import pytest
from dataset_files import write

from fgdata import datasets
from fgdata.errors import InputError


def test_folder_of_classes(tmp_path):
    write(
        tmp_path,
        {
            "b/2.png": b"x",
            "b/1.JPG": b"y",
            "a/deep/3.jpeg": b"z",
            "a/notes.txt": b"",
            "readme.md": b"",
            ".git/x.jpg": b"",
        },
    )
    dataset = datasets.read("folder", tmp_path)
    assert dataset.classes == ("a", "b")
    assert [(r.file, r.label, r.split) for r in dataset.records] == [
        ("a/deep/3.jpeg", 0, "train"),
        ("b/1.JPG", 1, "train"),
        ("b/2.png", 1, "train"),
    ]
    assert dataset.load(dataset.records[1]) == (b"y", ())
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match=r"class folder .*c contains no images"):
        datasets.read("folder", tmp_path)


def test_folder_with_train_and_test(tmp_path):
    write(tmp_path, {"train/b/2.png": b"", "train/a/1.jpg": b"", "val/b/1.jpg": b""})
    dataset = datasets.read("folder", tmp_path)
    assert [(r.file, r.label, r.split) for r in dataset.records] == [
        ("train/a/1.jpg", 0, "train"),
        ("train/b/2.png", 1, "train"),
        ("val/b/1.jpg", 1, "test"),
    ]
    write(tmp_path, {"test/a/9.jpg": b""})
    dataset = datasets.read("folder", tmp_path)
    assert [r.file for r in dataset.records if r.split == "test"] == ["test/a/9.jpg"]
    assert dataset.note == "val/ is left out: test/ is the test split"
    write(tmp_path, {"validation/a/9.jpg": b"", "extra/a/9.jpg": b"", ".cache/a/9.jpg": b""})
    assert datasets.read("folder", tmp_path).note.splitlines() == [
        "val/ is left out: test/ is the test split",
        "validation/ is left out: test/ is the test split",
        "extra/ beside train/ is left out: a test split is called test, testing, val, valid, validation",
        "left out 1 hidden or system file or folder: .cache",
    ]
    write(tmp_path, {"test/z/9.jpg": b""})
    with pytest.raises(InputError, match=r"test has classes that train/ lacks: z"):
        datasets.read("folder", tmp_path)


@pytest.mark.parametrize("half", ["test", "val", "valid", "validation", "Testing"])
def test_folder_with_a_test_split_of_any_name(tmp_path, half):
    write(tmp_path, {f"{half}/a/2.jpg": b""})
    with pytest.raises(InputError, match=rf"has {half}/ .*no train/.*--root .*/{half}"):
        datasets.read("folder", tmp_path)
    write(tmp_path, {"train/a/1.jpg": b""})
    dataset = datasets.read("folder", tmp_path)
    assert [(r.file, r.split) for r in dataset.records] == [("train/a/1.jpg", "train"), (f"{half}/a/2.jpg", "test")]
    assert dataset.note == ""
    (tmp_path / "train" / "a").rename(tmp_path / "b")
    (tmp_path / "train").rmdir()
    assert datasets.read("folder", tmp_path).classes == tuple(sorted(("b", half))), "beside a class it is a class"


@pytest.mark.parametrize("train", ["train", "Training"])
def test_folder_with_the_splits_inside_the_classes(tmp_path, train):
    write(tmp_path, {f"b/{train}/2.png": b"", f"a/{train}/deep/1.jpg": b"", "b/val/1.jpg": b"", "note.txt": b""})
    dataset = datasets.read("folder", tmp_path)
    assert dataset.classes == ("a", "b")
    assert [(r.file, r.label, r.split) for r in dataset.records] == [
        (f"a/{train}/deep/1.jpg", 0, "train"),
        (f"b/{train}/2.png", 1, "train"),
        ("b/val/1.jpg", 1, "test"),
    ]
    assert "split_folders" not in dataset.settings
    write(tmp_path, {"a/9.jpg": b"", "a/masks/1.png": b"", "a/.DS_Store": b""})
    known = datasets.read("folder", tmp_path)
    assert known.records == dataset.records
    assert known.note.splitlines()[0] == "left out beside the split folders: a/9.jpg, a/masks"

    whole = datasets.read("folder", tmp_path, split_folders="none")
    assert [r.file for r in whole.records if r.label == 1] == [f"b/{train}/2.png", "b/val/1.jpg"]
    assert {r.split for r in whole.records} == {"train"}
    assert whole.settings == {"split_folders": "none"}

    write(tmp_path, {"c/1.jpg": b""})
    with pytest.raises(InputError, match=rf"a, b has a folder {train}/, but c has none.*inside.*--split-folders none"):
        datasets.read("folder", tmp_path)
    with pytest.raises(InputError, match="class folder .*c contains no images"):
        datasets.read("folder", tmp_path, split_folders="inside")


def test_folder_with_other_test_folders_in_each_class(tmp_path):
    """The validation images of one class are not test images beside the real ones of another."""
    write(
        tmp_path, dict.fromkeys(("a/train/1.jpg", "a/val/2.jpg", "b/train/3.jpg", "b/Test/4.jpg", "b/val/5.jpg"), b"")
    )
    dataset = datasets.read("folder", tmp_path)
    assert [r.file for r in dataset.records if r.split == "test"] == ["b/Test/4.jpg"]
    assert dataset.note == "left out beside the split folders: a/val, b/val"


@pytest.mark.parametrize("layout", ["{}", "train/{}", "{}/train"])
@pytest.mark.parametrize("mark", ["manifest.json", ".building/plan.json", ".pulling/x.tar"])
@pytest.mark.parametrize("out", ["shards/folder", "shards"])
def test_folder_that_holds_shard_sets(tmp_path, layout, mark, out):
    """A build in the root writes to shards/folder. It resumes, as the dataset is the same."""
    write(tmp_path, {f"{layout.format(word)}/1.jpg": b"" for word in ("a", "b")})
    before = datasets.read("folder", tmp_path)
    write(tmp_path, {f"{out}/{mark}": b"", f"{out}/train-000000.tar": b"", f"{out}/.lock": b""})
    after = datasets.read("folder", tmp_path)
    assert (after.classes, after.records) == (before.classes, before.records)
    assert "shards/" in after.note


def test_folder_with_classes_that_resemble_shard_sets(tmp_path):
    write(tmp_path, {"a/manifest.json": b"", "a/1.jpg": b"", "b/manifest.json": b"", "b/deep/1.jpg": b""})
    write(tmp_path, {"c/one/manifest.json": b"", "c/two/1.jpg": b""})
    assert datasets.read("folder", tmp_path).classes == ("a", "b", "c")


@pytest.mark.parametrize("others", [(), ("docs/1.txt",), ("masks/train/a/1.png",)])
def test_folder_above_the_split_folders(tmp_path, others):
    """A root one level too high is not a set of the one class `images`, with val/ as its test split."""
    images = ("images/train/a/1.jpg", "images/train/b/2.jpg", "images/val/a/3.jpg")
    write(tmp_path, dict.fromkeys((*images, *others), b""))
    with pytest.raises(InputError, match=r"train holds the folders a, b and no image.*Use --root .*images.*inside"):
        datasets.read("folder", tmp_path)
    assert datasets.read("folder", tmp_path / "images").classes == ("a", "b")


def test_folder_with_one_class_whose_images_are_in_subfolders(tmp_path):
    write(tmp_path, {"birds/a/1.jpg": b"", "birds/b/2.jpg": b""})
    expected = "all images are of one class, birds, in its folders a, b. If these are the classes, "
    assert datasets.read("folder", tmp_path).note == f"{expected}use --root {tmp_path}/birds"
    assert datasets.read("folder", tmp_path / "birds").note == ""
    (tmp_path / "train").mkdir()
    (tmp_path / "birds").rename(tmp_path / "train/birds")
    assert datasets.read("folder", tmp_path).note == f"{expected}move them to {tmp_path}/train"
    write(tmp_path, {"train/birds/3.jpg": b""})
    assert datasets.read("folder", tmp_path).note == "", "an image lies directly in the class"


def test_folder_with_a_class_called_train(tmp_path):
    write(tmp_path, {"train/1.jpg": b"", "ship/2.jpg": b""})
    with pytest.raises(InputError, match="train has no class folders.*--split-folders none.*--dataset flat"):
        datasets.read("folder", tmp_path)
    assert datasets.read("folder", tmp_path, split_folders="none").classes == ("ship", "train")
    with pytest.raises(InputError, match="--split-folders above, but .*ship has no train/"):
        datasets.read("folder", tmp_path / "ship", split_folders="above")


@pytest.mark.parametrize("name", ["folder", "flat"])
def test_an_empty_folder_is_called_that(name, tmp_path):
    with pytest.raises(InputError, match=f"{name}: .* is empty.*--root FOLDER$"):
        datasets.read(name, tmp_path)


def test_folder_and_flat_suggest_each_other(tmp_path):
    write(tmp_path, {"x.jpg": b"1"})
    with pytest.raises(InputError, match="has no class folders.*--dataset flat"):
        datasets.read("folder", tmp_path)
    [record] = datasets.read("flat", tmp_path).records
    assert (record.file, record.class_name) == ("x.jpg", "unlabelled")
    (tmp_path / "x.jpg").rename(tmp_path / "x.txt")
    with pytest.raises(InputError, match="contains no images.*--dataset folder"):
        datasets.read("flat", tmp_path)


def test_real_folders(real_data):
    dataset = datasets.read("folder", real_data / "tiny-imagenet-10k")
    assert (len(dataset.classes), len(dataset.records)) == (200, 10_000)
    assert dataset.classes[0] == "n01443537"
    flat = datasets.read("flat", real_data / "imagenet-sample")
    assert (len(flat.classes), len(flat.records)) == (1, 1000)
    assert flat.load(flat.records[0])[0].startswith(b"\xff\xd8")


def test_a_real_subset_is_noted(real_data):
    dataset = datasets.read("cub", real_data / "cub50")
    assert dataset.note == "a subset: 50 of 200 classes, 1,500 of 5,994 train, 1,389 of 5,794 test"
