"""Unusual and hostile dataset folders and files: links, FIFOs, hidden copies, bombs, deep JSON, odd JPEGs."""

import os
import struct
import unicodedata
import zlib

import cv2
import pytest
from dataset_files import image, write

from fgdata import datasets, images
from fgdata.datasets import parsing, unpack
from fgdata.errors import InputError


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
    (tmp_path / "a/broken.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "a/fifo.jpg")
    dataset = datasets.read("folder", tmp_path)
    assert files_of(dataset) == ["a/1.jpg", "b/folder.jpg/2.jpg"]
    assert "a/parent, a/self" in dataset.note
    assert "a/broken.jpg, a/fifo.jpg, a/zero.jpg" in dataset.note
    assert files_of(datasets.read("flat", tmp_path / "a")) == ["1.jpg"]


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "list.txt"
    {"fifo": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
    with pytest.raises(InputError, match="list.txt"):
        parsing.read_text("cub", path)


@pytest.mark.parametrize("text", ["[" * 100_000, f'{{"a": {"1" * 4301}}}', "[1,", "\0"])
def test_strange_json_is_one_error(tmp_path, text):
    with pytest.raises(InputError, match="x.json"):
        parsing.read_json("coco", write(tmp_path, {"x.json": text}) / "x.json")


@pytest.mark.parametrize("text", ["a" * 200_000, "a,b\n" + "c" * 200_000 + ",1", "a\0,b\n1,2", f"a\n{'1' * 4301}\n"])
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
