"""--download from a server on 127.0.0.1: complete, interrupted, resumed, wrong, missing and malicious files."""

import gzip
import io
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
from http_server import Server, serving

from fgdata import datasets
from fgdata.cli import main
from fgdata.datasets import DATASETS, fetch
from fgdata.datasets.unpack import MOST_HEADER, unpack
from fgdata.errors import InputError
from fgdata.files import download, space

NOISE = np.random.default_rng(0).bytes(300_000)  # does not compress, so that archives have some length


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with serving() as server:
        yield server


def tar(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type, entry.linkname = len(data), kind, link
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("data", [tar({"in/x": NOISE}), zipped({"in/x": NOISE[1:], "in/y": b"1"})], ids=["tar", "zip"])
def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_written(data, server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage._replace(free=len(NOISE) - 1))
    advice = r"\.\d GB are free\. Free some space, or name another folder: --root FOLDER"
    with pytest.raises(InputError, match=rf"archive needs 0\.\d GB more in \S+, and 0{advice}"):
        fetch.download("cub", tmp_path / "data", (server.offer("archive", data),))
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(InputError, match=rf"The content of \S+ needs 0\.\d GB more in \S+, and 0{advice}"):
        unpack(tmp_path / "archive", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name in ("x", "y", "archive.part")]


def test_a_tar_and_a_zip_are_downloaded_once_and_unpacked_together(server, tmp_path, capsys):
    root = tmp_path / "data/cub"
    archives = (server.offer("a.tgz", tar({"in/x": NOISE})), server.offer("b.zip", zipped({"in/y": b"2"})))
    fetch.download("cub", root, archives)
    assert (root / "in/x").read_bytes() == NOISE
    assert (root / "in/y").read_bytes() == b"2"
    assert sorted(path.name for path in (root / ".download").iterdir()) == ["a.tgz.done", "b.zip.done"]
    fetch.download("cub", root, archives)
    assert server.ranges == [None, None]
    assert "a.tgz was already downloaded" in capsys.readouterr().err


def test_bytes_are_synced_before_files_are_renamed_or_removed(server, tmp_path, monkeypatch):
    """An archive before its rename; the unpacked files before the archive is marked as done and removed."""
    archive, work, written = server.offer("a.tgz", tar({"x": NOISE})), tmp_path / "r/.download", []

    def look(handle: int | None = None) -> None:
        names = sorted(path.name for path in work.iterdir() if path.name != download.OWNERS)
        written.extend([(names, (tmp_path / "r/x").exists())] if names else [])  # none: it is the owner file

    monkeypatch.setattr(download.os, "fsync", look)
    monkeypatch.setattr(fetch.os, "sync", look, raising=False)
    fetch.download("cub", tmp_path / "r", (archive,))
    assert written == [(["a.tgz.part"], False), (["a.tgz"], True)]


def test_a_dropped_connection_is_resumed(server, tmp_path):
    data = tar({"x": NOISE})
    archive = server.offer("a.tgz", data)
    server.cut_after = [100_000, 50_000]
    fetch.download("cub", tmp_path / "r", (archive,))
    assert (tmp_path / "r/x").read_bytes() == NOISE
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_temporary_server_errors_are_retried(server, tmp_path):
    archive = server.offer("a.tgz", tar({"x": NOISE}))
    server.refuse = [503, 429]
    fetch.download("cub", tmp_path / "r", (archive,))
    assert (tmp_path / "r/x").is_file()


def test_a_failed_download_is_resumed_by_the_same_command(server, tmp_path):
    archive = server.offer("a.tgz", tar({"x": NOISE}))
    server.cut_after = [100_000, *[0] * download.TRIES]
    with pytest.raises(
        InputError, match=r"100,000 bytes were downloaded.*Rerun the command to resume \(.*a.tgz.part\)"
    ):
        fetch.download("cub", tmp_path / "r", (archive,))
    assert (tmp_path / "r/.download/a.tgz.part").stat().st_size == 100_000
    server.ranges.clear()
    fetch.download("cub", tmp_path / "r", (archive,))
    assert server.ranges == ["bytes=100000-"]
    assert (tmp_path / "r/x").read_bytes() == NOISE


def test_a_server_without_ranges_starts_over(server, tmp_path):
    archive = server.offer("a.tgz", tar({"x": NOISE}))
    server.knows_ranges, server.cut_after = False, [1000]
    fetch.download("cub", tmp_path / "r", (archive,))
    assert (tmp_path / "r/x").read_bytes() == NOISE


def test_a_server_without_ranges_whose_connections_drop(server, tmp_path):
    """Each attempt starts over: only more bytes than any before are progress."""
    archive = server.offer("a.tgz", tar({"x": NOISE}))
    server.knows_ranges, server.cut_after = False, [1000, 3000, *[2000, 3000] * download.TRIES]
    with pytest.raises(InputError, match="a.tgz: the connection ended"):
        fetch.download("cub", tmp_path / "r", (archive,))
    assert len(server.ranges) == 2 + download.TRIES


def test_a_complete_part_is_checked_and_unpacked(server, tmp_path):
    data = tar({"x": NOISE})
    archive = server.offer("a.tgz", data)
    (tmp_path / "r/.download").mkdir(parents=True)
    (tmp_path / "r/.download/a.tgz.part").write_bytes(data)
    fetch.download("cub", tmp_path / "r", (archive,))
    assert (tmp_path / "r/x").is_file()


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    archive = server.offer("a.tgz", tar({"x": NOISE}))
    server.files["a.tgz"] = server.files["a.tgz"][:-1] + b"?"
    with pytest.raises(InputError, match=rf"not the published file: MD5 .*expected {archive.md5}"):
        fetch.download("cub", tmp_path / "r", (archive,))
    assert not (tmp_path / "r").exists()


def test_a_missing_file_is_not_retried(server, tmp_path):
    archive = server.offer("a.tgz", b"")
    del server.files["a.tgz"]
    with pytest.raises(InputError, match=r"a.tgz: the server answered 404 Not Found.*--root FOLDER"):
        fetch.download("cub", tmp_path / "r", (archive,))
    assert len(server.ranges) == 1, "a 404 is not retried"
    assert not (tmp_path / "r").exists()


def test_no_server_at_all(server, tmp_path):
    archive = server.offer("a.tgz", b"")
    server.http.server_close()
    with pytest.raises(InputError, match=r"refused; 0 bytes"):
        fetch.download("cub", tmp_path / "r", (archive,))


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.tgz", tar({"../out": b"x"}), "outside the destination"),
        ("a.tgz", tar({"l": b""}, tarfile.SYMTYPE, "/etc/passwd"), "absolute path"),
        ("a.tgz", tar({"l": b""}, tarfile.CHRTYPE), "special file"),
        ("a.zip", zipped({"../out": b"x"}), "outside"),
        ("a.zip", zipped({"/out": b"x"}), "outside"),
        ("a.tgz", b"neither a tar nor a zip", "cannot be unpacked"),
    ],
    ids=["above", "link", "device", "zip above", "zip from the root", "no archive"],  # gzip's bytes hold the time
)
def test_members_outside_the_root_are_refused(server, tmp_path, name, data, expected):
    with pytest.raises(InputError, match=expected):
        fetch.download("cub", tmp_path / "r", (server.offer(name, data),))
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert [path.name for path in (tmp_path / "r").iterdir()] == [".download"]


def extended(kind: bytes, size: int) -> bytes:
    """A tar of one file after an extension of its header with `size` bytes."""
    header = tarfile.TarInfo("extension")
    header.type, header.size = kind, size
    record = b" comment=" + b"x" * size
    record = b"%d" % size + record[: size - len(b"%d" % size) - 1] + b"\n"  # pax: "LENGTH KEY=VALUE\n"
    content = record if kind in (tarfile.XHDTYPE, tarfile.XGLTYPE) else b"n" * 40 + bytes(size - 40)
    member = tarfile.TarInfo("a.txt")
    member.size = 1
    blocks = [header.tobuf(), content, bytes(-size % 512), member.tobuf(), b"1" + bytes(511), bytes(1024)]
    return gzip.compress(b"".join(blocks), mtime=0)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_long_extension_of_a_header_is_refused_before_it_is_read(server, tmp_path, kind):
    fetch.download("cub", tmp_path / "r", (server.offer("a.tgz", extended(kind, MOST_HEADER)),))
    assert any(path.is_file() and path.read_bytes() == b"1" for path in (tmp_path / "r").iterdir())
    with pytest.raises(InputError, match=r"headers in the archive has 1,048,577 bytes; at most 1,048,576"):
        fetch.download("cub", tmp_path / "s", (server.offer("b.tgz", extended(kind, MOST_HEADER + 1)),))
    assert [path.name for path in (tmp_path / "s").iterdir()] == [".download"]


def test_of_two_processes_that_download_to_one_folder_one_is_refused(server, tmp_path, monkeypatch):
    archive = server.offer("a.tgz", tar({"x": NOISE}))
    started, second_ended = threading.Event(), threading.Event()
    answer = server.answer

    def wait_and_answer(handler):
        started.set()
        second_ended.wait()
        answer(handler)

    monkeypatch.setattr(server, "answer", wait_and_answer)
    script = f"""
from fgdata.datasets import Archive, fetch
from fgdata.errors import run_command
archive = Archive({archive.url!r}, {archive.md5!r})
raise SystemExit(run_command("fgdata", lambda: fetch.download("cub", {str(tmp_path / "r")!r}, (archive,))))
"""
    command = [sys.executable, "-c", script]
    try:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
            while not started.wait(0.2):
                assert first.poll() is None, "it ended without a request"
            second = subprocess.run(command, capture_output=True, text=True, check=False)
            second_ended.set()
            first.communicate()
    finally:
        second_ended.set()
    assert second.returncode == 2
    assert "Another process is writing to" in second.stderr
    assert first.returncode == 0
    assert (tmp_path / "r" / "x").read_bytes() == NOISE
    assert server.ranges == [None]


def test_existing_files_are_unchanged(server, tmp_path, capsys):
    (tmp_path / "images.txt").write_text("mine")
    fetch.download("cub", tmp_path, (server.offer("a.tgz", tar({"images.txt": b"theirs"})),))
    assert (tmp_path / "images.txt").read_text() == "mine"
    assert "already contains files" in capsys.readouterr().err
    assert server.ranges == []


def test_the_command_downloads_and_builds(server, tmp_path, monkeypatch, capsys):
    files = {
        "CUB_200_2011/images.txt": b"1 a/1.jpg\n",
        "CUB_200_2011/image_class_labels.txt": b"1 1\n",
        "CUB_200_2011/train_test_split.txt": b"1 1\n",
        "CUB_200_2011/bounding_boxes.txt": b"1 1 1 5 5\n",
        "CUB_200_2011/classes.txt": b"1 Auk\n",
    }
    import cv2

    files["CUB_200_2011/images/a/1.jpg"] = cv2.imencode(".jpg", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
    archive = server.offer("CUB_200_2011.tgz", tar(files))
    row = DATASETS["cub"]
    offered = datasets.DatasetRow(row.reader, row.layout, row.size, row.where, archives=(archive,))
    monkeypatch.setitem(DATASETS, "cub", offered)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FGDATA_ROOT", raising=False)
    assert main("build-shards --dataset cub --saliency gt --jobs 1".split()) == 2
    assert "add --download" in capsys.readouterr().err
    assert main("build-shards --dataset cub --saliency gt --jobs 1 --download".split()) == 0
    assert "cub: a subset: 1 of 200 classes, 1 of 5,994 train, 0 of 5,794 test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet", "get it yourself: https://image-net.org/download.php, with an account"),
        ("nabirds", "get it yourself: https://dl.allaboutbirds.org/nabirds, after accepting its terms"),
        ("isic2017", "get it yourself: https://challenge.isic-archive.com"),
        ("cars", "get it yourself"),
        ("folder", "get it yourself: your own images"),
        ("drawn", "generated by code"),
        ("cup", "Unknown dataset 'cup'"),
    ],
)
def test_a_dataset_without_download_names_its_source(name, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["build-shards", "--dataset", name, "--download"]) == 2
    assert re.search(re.escape(expected), capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_list_shows_layout_and_source_of_every_dataset(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    for name, row in DATASETS.items():
        assert f"\n  {name:18} {row.size}\n" in output
        if row.files:
            assert row.layout in output
            assert row.where in output
        for archive in row.archives:
            assert re.fullmatch(r"https?://\S+\.(tgz|tar\.gz|zip)", archive.url)
            assert re.fullmatch(r"[0-9a-f]{32}", archive.md5)
    assert "takes --class-list" in output


def test_an_option_of_another_dataset_is_refused(tmp_path, capsys):
    assert main(["build-shards", "--dataset", "flat", "--root", str(tmp_path), "--level", "family"]) == 2
    assert "Dataset flat has no --level" in capsys.readouterr().err
