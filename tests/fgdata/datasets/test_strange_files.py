"""Unusual and hostile dataset folders and files: links, FIFOs, hidden copies, bombs, deep JSON, odd JPEGs."""

import errno
import os
import re
import struct
import unicodedata
import zlib

import cv2
import pytest
from dataset_files import image, write

from fgdata import datasets, images
from fgdata.building.build import build
from fgdata.datasets import parsing, scan, unpack
from fgdata.errors import BadImage, InputError
from fgdata.images.jpeg import FRAMES


def files_of(dataset: datasets.Dataset) -> list[str]:
    return [record.file for record in dataset.records]


def test_every_image_suffix_is_read_and_other_files_are_named(tmp_path):
    names = [f"a/{n}{s}" for n, s in enumerate(".jfif .jpe .JPEG .jpg .PNG .webp .bmp .tif .TIFF .gif .avif".split())]
    dataset = datasets.read("folder", write(tmp_path, {name: b"x" for name in [*names, "a/none", "a/x.jpg_large"]}))
    assert sorted(files_of(dataset)) == sorted(names)
    assert "2 non-image files" in dataset.note
    assert "a/none, a/x.jpg_large" in dataset.note


def test_copies_and_hidden_files_are_never_data(tmp_path):
    copies = ["a/.ipynb_checkpoints/1.jpg", "a/@eaDir/1.jpg/t.jpg", "a/.Trash-1000/1.jpg", "a/._1.jpg"]
    copies += ["@eaDir/x.jpg/t.jpg", "__MACOSX/a/._1.jpg", "a/__MACOSX/2.jpg"]
    dataset = datasets.read("folder", write(tmp_path, {name: b"x" for name in ["a/1.jpg", *copies]}))
    assert (dataset.classes, files_of(dataset)) == (("a",), ["a/1.jpg"])
    assert "@eaDir" in dataset.note


@pytest.mark.parametrize("half", ["", "train/"])
def test_what_lies_beside_the_class_folders_is_counted_too(tmp_path, half):
    hidden = [".DS_Store", f"{half}.cache/1.jpg", f"{half}._a", f"{half}a/.1.jpg"]
    files = [f"{half}a/1.jpg", f"{half}lost.jpg", f"{half}notes.txt", *hidden]
    dataset = datasets.read("folder", write(tmp_path, {name: b"x" for name in files}))
    assert (dataset.classes, files_of(dataset)) == (("a",), [f"{half}a/1.jpg"])
    names = sorted((".DS_Store", f"{half}._a", f"{half}.cache", f"{half}a/.1.jpg"))
    assert dataset.note.splitlines() == [
        f"left out 1 non-image file (.txt 1): {half}notes.txt; suffixes of images: " + " ".join(sorted(scan.SUFFIXES)),
        f"left out 1 image in no class folder: {half}lost.jpg",
        "left out 4 hidden or system files and folders: " + ", ".join(names),
    ]


def test_flat_names_what_it_leaves_out(tmp_path):
    names = ["2.jpg", "1.jpg", "more/3.jpg", "even more/4.jpg", "b.txt", ".x"]
    dataset = datasets.read("flat", write(tmp_path, {name: b"x" for name in names}))
    assert files_of(dataset) == ["1.jpg", "2.jpg"]
    assert dataset.note.splitlines()[1:] == [
        "left out 2 folders beside the images: even more/, more/",
        "left out 1 hidden or system file or folder: .x",
    ]


def test_two_unicode_forms_of_a_name_are_one_class(tmp_path):
    one, two = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    dataset = datasets.read("folder", write(tmp_path, {f"train/{one}/1.jpg": b"x", f"train/{two}/2.jpg": b"x"}))
    assert len(dataset.classes) == 1
    assert {record.label for record in dataset.records} == {0}
    assert len(dataset.records) == 2
    write(tmp_path, {f"test/{two}/3.jpg": b"x"})
    assert len(datasets.read("folder", tmp_path).records) == 3


def test_loops_of_links_end_and_only_regular_files_are_images(tmp_path):
    write(tmp_path, {"a/1.jpg": b"x", "b/folder.jpg/2.jpg": b"x"})
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    (tmp_path / "a/parent").symlink_to(tmp_path)
    (tmp_path / "a/zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "a/fifo.jpg")
    os.mkfifo(tmp_path / "a/pipe")
    dataset = datasets.read("folder", tmp_path)
    assert files_of(dataset) == ["a/1.jpg", "b/folder.jpg/2.jpg"]
    assert dataset.note.splitlines() == [
        "left out 3 that are not regular files: a/fifo.jpg (a FIFO), a/pipe (a FIFO), a/zero.jpg (a device)",
        "left out 2 duplicate or circular folder links: a/parent, a/self",
    ]
    flat = datasets.read("flat", tmp_path / "a")
    assert files_of(flat) == ["1.jpg"]
    assert "fifo.jpg (a FIFO), pipe (a FIFO), zero.jpg (a device)" in flat.note


LAYOUTS = {
    "folder": (["a/{}"], {}),
    "flat": (["{}"], {}),
    "imagenet": (["train/n01440764/{}", "val/n01440764/{}"], {}),
    "table": (["{}"], {"labels.csv": "path\n1.jpg\nlost.jpg\n"}),
}


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nowhere", "it is a link to nowhere (nowhere does not exist)"),
        ("lost.jpg", "Too many levels of symbolic links (a symbolic link leads back to itself"),
    ],
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_link_that_leads_nowhere_is_an_image_that_is_missing(tmp_path, name, target, why):
    """The build stops at it, or skips it and lists it, whether a list or the folder itself names the image."""
    paths, lists = LAYOUTS[name]
    root = write(tmp_path / "root", {**lists, **{path.format("1.jpg"): image() for path in paths}})
    for path in paths:
        (root / path.format("lost.jpg")).symlink_to(target)
    dataset, lost = datasets.read(name, root), paths[0].format("lost.jpg")
    words = re.escape(f"{root / lost} cannot be read: {why}")
    with pytest.raises(BadImage, match=f"{words}.*Restore the file, or build .*--on-bad-image skip"):
        build(dataset, tmp_path / "set", saliency=("whole",), workers=1)
    done = build(dataset, tmp_path / "set", saliency=("whole",), workers=1, on_bad_image="skip")
    assert sorted(one["file"] for one in done.manifest["skipped"]) == sorted(p.format("lost.jpg") for p in paths)
    assert why in done.manifest["skipped"][0]["why"]


def test_a_listed_file_that_is_not_regular_can_be_skipped(tmp_path):
    root = write(tmp_path, {"labels.csv": "path\n1.jpg\n", "1.jpg": image()})
    (root / "1.jpg").unlink()
    os.mkfifo(root / "1.jpg")
    dataset = datasets.read("table", root)
    with pytest.raises(BadImage, match=r"1.jpg is a FIFO; only a regular file can be read. Restore the file, or build"):
        dataset.load(dataset.records[0])


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "list.txt"
    {"fifo": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
    with pytest.raises(InputError, match="list.txt"):
        parsing.read_text("cub", path)


def test_an_image_file_of_more_than_its_limit_is_not_read(tmp_path):
    path = tmp_path / "bird.jpg"
    path.write_bytes(b"")
    os.truncate(path, parsing.MOST_BYTES + 1)
    with pytest.raises(InputError, match=r"bird.jpg cannot be read: it has 2,147,483,649 bytes; at most 2,147,483,648"):
        parsing.read_bytes("cub", path)


def test_a_file_of_zeros_is_refused_before_it_is_read_whole(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("1 a.jpg\n")
    os.truncate(path, 1 << 40)  # takes no space, and no machine has the memory
    with pytest.raises(InputError, match=r"list.txt cannot be read: its byte 9 is zero"):
        parsing.read_text("cub", path)


@pytest.mark.parametrize("text", ["[" * 100_000, f'{{"a": {"1" * 4301}}}', "[1,", "\0"])
def test_strange_json_is_one_error(tmp_path, text):
    with pytest.raises(InputError, match="x.json"):
        parsing.read_json("coco", write(tmp_path, {"x.json": text}) / "x.json")


@pytest.mark.parametrize("text", ["a" * 200_000, "a,b\n" + "c" * 200_000 + ",1", f"a\n{'1' * 4301}\n"])
def test_strange_csv_is_one_error(tmp_path, text):
    with pytest.raises(InputError, match="x.csv, line"):
        parsing.read_csv("gtsrb", write(tmp_path, {"x.csv": text}) / "x.csv", ["a"], lambda row: int(row["a"]))


def png(width: int, height: int, length: int = 8) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    idat = struct.pack(">I", length) + b"IDAT" + bytes(8) + struct.pack(">I", zlib.crc32(b"IDAT" + bytes(8)))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + idat + end


@pytest.mark.parametrize(
    "data",
    [
        png(30_000, 30_000),
        png(8, 8, 0x7FFFFFF0),
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 30_000, 30_000, 1, 24, *6 * [0]),
    ],
    ids=["PNG bomb", "lying IDAT", "BMP bomb"],
)
def test_bombs_are_refused_before_any_decoder(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("a decoder ran"))
    with pytest.raises(InputError, match="x.png cannot be read as an image"):
        images.decode(data, "x.png")


@pytest.mark.parametrize("marker", sorted(FRAMES))
def test_a_jpeg_of_any_process_is_limited_before_any_decoder(marker, monkeypatch):
    """Baseline, arithmetic-coded, lossless and hierarchical: the frame header states the size in all of them."""
    for decoder in ("cv2.imdecode", "PIL.Image.open", "simplejpeg.decode_jpeg"):
        monkeypatch.setattr(decoder, lambda *_, **__: pytest.fail("a decoder ran"))
    jpeg = image()
    at = jpeg.index(b"\xff\xc0")
    size = struct.pack(">HH", 50_000, 60_000)
    data = jpeg[: at + 1] + bytes([marker]) + jpeg[at + 2 : at + 5] + size + jpeg[at + 9 :]
    with pytest.raises(InputError, match="x.jpg cannot be read .*60,000 x 50,000 pixels; at most 178,956,970"):
        images.decode(data, "x.jpg")


def test_a_twelve_bit_jpeg_is_not_plain_and_named():
    jpeg = image()
    at = jpeg.index(b"\xff\xc0")
    data = jpeg[:at] + b"\xff\xc1" + jpeg[at + 2 : at + 4] + b"\x0c" + jpeg[at + 5 :]
    assert images.header(jpeg, "x").plain
    assert not images.header(data, "x").plain
    with pytest.raises(InputError, match="x.jpg .*12-bit extended JPEG.*build-shards --on-bad-image skip"):
        images.decode(data, "x.jpg")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    import zipfile

    monkeypatch.setattr(unpack, "LEAST_LIMIT", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", bytes(1_000_000))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="a.zip: its content is larger"):
        unpack.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_files_in_a_folder_that_the_disk_cannot_list_are_not_missing(tmp_path, monkeypatch):
    write(tmp_path, {"a/1.jpg": b"x"})
    with pytest.raises(InputError, match="2 of 3 files .*b/1.jpg"):
        parsing.check_files_exist("cub", "x.txt", tmp_path, {"1": "a/1.jpg", "2": "b/1.jpg", "3": "a/1.jpg/x.jpg"})

    def fail(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(parsing.os, "scandir", fail)
    with pytest.raises(OSError, match="Stale file handle.*a"):
        parsing.check_files_exist("cub", "x.txt", tmp_path, {"1": "a/1.jpg"})
