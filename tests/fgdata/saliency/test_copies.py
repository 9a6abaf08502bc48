"""Copies of a detector's files on a machine that lacks them."""

import os
from pathlib import Path

import pytest

from fgdata.errors import InputError
from fgdata.saliency import copies, learned, own_files


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two files of a model in `there`; the cache is in `cache`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there/net.onnx").write_bytes(b"network")
    Path("there/net.data").write_bytes(b"weights")
    return copies.read("there/net.onnx", ["net.onnx", "net.data"])


def test_a_missing_file_is_replaced_by_its_copy_and_a_damaged_copy_by_another(two, monkeypatch):
    files, contents = two
    monkeypatch.setenv(copies.VARIABLE, copies.as_variable([files])[copies.VARIABLE])
    copies.receive(files, lambda name: pytest.fail("the file is there"))
    os.rename("there", "elsewhere")
    loaded = []
    for _ in range(2):
        copies.receive(files, lambda name: loaded.append(name) or contents[name])
    assert loaded == ["net.data", "net.onnx"], "once, and the model last"
    copy = copies.find("there/net.onnx")
    assert copy.is_relative_to(copies.folder())
    assert [path.read_bytes() for path in (copy, copy.with_name("net.data"))] == [b"network", b"weights"]
    copy.write_bytes(b"damaged")
    copies.receive(files, contents.__getitem__)
    assert copy.read_bytes() == b"network"
    assert copies.find("there/other.onnx") == Path("there/other.onnx")
    os.rename("elsewhere", "there")
    assert copies.find("there/net.onnx") == Path("there/net.onnx")


def test_other_contents_and_a_cache_that_cannot_be_written_are_refused(two):
    files, contents = two
    os.rename("there", "elsewhere")
    with pytest.raises(InputError, match=r"there/net.onnx .*damaged: net.data has sha256 "):
        copies.receive(files, lambda name: b"other")
    assert not list(Path("cache").rglob("*.onnx"))
    Path("cache").write_text("a file")
    with pytest.raises(InputError, match=r"cache/fgdata/copies/\w+ cannot be created: .*XDG_CACHE_HOME FOLDER"):
        copies.receive(files, contents.__getitem__)


def test_a_copy_of_another_file_is_elsewhere(two):
    files, _ = two
    Path("there/net.data").write_bytes(b"other weights")
    assert copies.read("there/net.onnx", ["net.onnx", "net.data"])[0].copy != files.copy


def test_the_files_of_detectors(tmp_path, monkeypatch):
    monkeypatch.setenv(learned.VARIABLE, str(tmp_path))
    monkeypatch.setattr(learned, "find", lambda name: tmp_path / f"{name}.onnx")
    assert own_files("u2netp,size=64") == (str(tmp_path / "u2netp.onnx"), ["u2netp.onnx"])
    assert own_files("rbd") == own_files("gt") == ("", [])
