"""Failing storage and too little memory: one line that names the file, and no image is skipped for it."""

import errno
import os
import shutil
from pathlib import Path

import cv2
import pytest
from shard_files import dataset, encode, files, jpeg

from fgdata.building.build import build
from fgdata.building.plan import recorded_plugins
from fgdata.building.rewrite import add
from fgdata.cli import main
from fgdata.datasets import Dataset, Record
from fgdata.datasets.parsing import read_bytes
from fgdata.errors import REMARKS, InputError, NotEnoughMemory
from fgdata.files import regular
from fgdata.files.atomic import sync_folder
from fgdata.images import decode
from fgdata.shards import maps
from fgdata.shards.manifest import MANIFEST, dump, read_manifest, signed
from fgdata.shards.reader import ShardSet
from fgdata.shards.writer import ShardWriter

STORAGE = (errno.EIO, errno.ENOTCONN, errno.ENOMEM)
UNREADABLE = Path("/proc/self/mem")
"""A regular file of Linux whose first byte cannot be read: EIO."""


class Exhausted:
    """A dataset whose second image needs more memory than there is."""

    def __call__(self, record: Record):
        if record.id == "1":
            raise MemoryError
        return jpeg(), record.boxes or ()

    def dataset(self) -> Dataset:
        records = (Record(str(i), f"{i}.jpg", 0, "bird", "train", ((8.0, 6.0, 32.0, 24.0),)) for i in range(3))
        return Dataset("files", ("bird",), tuple(records), self)


@pytest.mark.parametrize("rule", ["stop", "skip"])
def test_a_worker_without_memory_names_the_image_whatever_the_rule(tmp_path: Path, rule: str):
    with pytest.raises(NotEnoughMemory, match=r"1\.jpg: not enough memory .*--jobs"):
        build(Exhausted().dataset(), tmp_path / "set", saliency=("gt",), workers=1, on_bad_image=rule)
    assert not (tmp_path / "set" / MANIFEST).exists()


def test_opencv_without_memory_names_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: Path):
    fault = cv2.error("Insufficient memory")
    fault.code = cv2.Error.StsNoMem

    def fail(*_):
        raise fault

    monkeypatch.setattr("fgdata.building.sample.saliency_map", fail)
    data = dataset(tmp_path, {"a.jpg": jpeg()})
    with pytest.raises(NotEnoughMemory, match=r"a\.jpg: not enough memory"):
        build(data, tmp_path / "out", saliency=("vsf",), on_bad_image="skip")
    before = files(copy)
    with pytest.raises(NotEnoughMemory, match=r"/[0-9]+.*: not enough memory|: not enough memory"):
        add(copy, "vsf")
    assert files(copy) == before
    fault.code = cv2.Error.StsBadArg
    with pytest.raises(cv2.error):  # a fault of ours keeps its traceback
        build(data, tmp_path / "out", saliency=("vsf",), on_bad_image="skip")


def test_pillow_without_memory_is_no_bad_image(monkeypatch: pytest.MonkeyPatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(NotEnoughMemory, match=r"a\.gif: not enough memory"):
        decode(b"GIF89a", "a.gif")


@pytest.mark.parametrize("fault", [MemoryError(), OSError(errno.ENOMEM, "no"), OSError("out of memory when reading")])
@pytest.mark.parametrize("form", ["GIF", "JPEG"])
def test_a_readable_image_is_never_called_unreadable_for_memory(monkeypatch: pytest.MonkeyPatch, fault, form: str):
    """`encode` gives a CMYK JPEG whose marker states arithmetic coding: OpenCV gives up and Pillow tries."""
    data = encode(form, "CMYK" if form == "JPEG" else "P").replace(b"\xff\xc0", b"\xff\xc9", 1)

    def fail(*_, **__):
        raise fault

    monkeypatch.setattr("cv2.imdecode", lambda *_: None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(NotEnoughMemory, match=r"a\.x: not enough memory"):
        decode(data, "a.x")


def test_opencv_without_memory_while_decoding_names_the_image(monkeypatch: pytest.MonkeyPatch):
    fault = cv2.error("Insufficient memory")
    fault.code = cv2.Error.StsNoMem

    def fail(*_):
        raise fault

    monkeypatch.setattr("cv2.imdecode", fail)
    with pytest.raises(NotEnoughMemory, match=r"a\.jpg: not enough memory"):
        decode(jpeg(), "a.jpg")


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (MemoryError(), NotEnoughMemory, r"\(sample [0-9]+\): not enough memory .*smaller batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), NotEnoughMemory, "smaller batch"),
        (OSError(errno.EIO, "Input/output error", "x.tar"), OSError, "Input/output error.*x.tar"),
        (ZeroDivisionError("a fault of ours"), RuntimeError, r"\(sample [0-9]+\): ZeroDivisionError: a fault of ours"),
    ],
)
@pytest.mark.parametrize("place", ["fgdata.views.threads.decode", "fgdata.views.threads.finish", "cv2.imdecode"])
def test_a_batch_without_memory_or_disk_says_which(monkeypatch: pytest.MonkeyPatch, fault, kind, message, place: str):
    import fgdata

    def fail(*_, **__):
        raise fault

    with fgdata.load("shards/tiny", views=fgdata.ViewSpec(size=16), batch_size=2, threads=1) as loader:
        monkeypatch.setattr(place, fail)
        with pytest.raises(kind, match=message):
            next(iter(loader))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOSPC])
@pytest.mark.parametrize("wrapped", [True, False])
def test_what_hdf5_says_of_a_failing_disk_is_the_systems_error(tmp_path: Path, code: int, wrapped: bool):
    """HDF5 puts the number in a text of its own, with or without setting errno."""
    text = f"Can't read data (file read failed: time = x, errno = {code}, error message = 'y', buf = 0x0)"
    for block in (maps._disk_faults(tmp_path / "maps.h5"), maps._hdf5_faults(tmp_path / "maps.h5", "is damaged")):
        with pytest.raises(OSError, match=os.strerror(code)) as raised, block:
            raise OSError(text) if wrapped else OSError(code, "of h5py")
        assert (raised.value.errno, raised.value.filename) == (code, str(tmp_path / "maps.h5"))
    with pytest.raises(InputError, match="is damaged"), maps._hdf5_faults(tmp_path / "maps.h5", "is damaged"):
        raise OSError("Unable to open file (truncated file: eof = 96, errno = 0)")


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    """A failing disk is an error that names the folder; a file system that cannot sync folders is not."""
    for code in (errno.EIO, errno.ENOSPC, errno.EINVAL, errno.EACCES):

        def fail(*_, code=code):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(f"fgdata.files.atomic.os.{call}", fail)
            if code in (errno.EINVAL, errno.EACCES):
                sync_folder(tmp_path)
                continue
            with pytest.raises(OSError, match=os.strerror(code)) as raised:
                sync_folder(tmp_path)
        assert raised.value.filename == str(tmp_path)


@pytest.mark.skipif(not UNREADABLE.exists(), reason="this system has no file that cannot be read")
def test_a_failing_disk_names_the_file_and_skips_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "data" / "bird").mkdir(parents=True)
    (tmp_path / "data" / "bird" / "a.jpg").write_bytes(jpeg())
    link = tmp_path / "data" / "bird" / "b.jpg"
    link.symlink_to(UNREADABLE)
    words = f"build-shards --dataset folder --root {tmp_path / 'data'} --out {tmp_path / 'set'} --saliency vsf --jobs 1"
    for rule in ("stop", "skip"):
        assert main([*words.split(), "--on-bad-image", rule]) == 2
        line = f"fgdata: Input/output error: {link} ({REMARKS[errno.EIO]}). Finished shards are kept"
        assert capsys.readouterr().err.splitlines()[-1].startswith(line)


@pytest.mark.skipif(not UNREADABLE.exists(), reason="this system has no file that cannot be read")
@pytest.mark.parametrize("name", ["manifest.json", "train-000000.idx", "train-000000.tar", "maps.h5"])
@pytest.mark.parametrize("command", ["check", "score", "show", "rebox", "add --saliency vsf"])
def test_a_set_on_a_failing_disk_is_one_line_that_names_the_file(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str, command: str
):
    (copy / name).unlink()
    (copy / name).symlink_to(UNREADABLE)
    first, *rest = command.split()
    code = main([first, *rest, str(copy), *(["--jobs", "1"] if first in ("rebox", "add") else [])])
    out, err = capsys.readouterr()
    assert name in out + err or (name == "maps.h5" and first in ("score", "show")), "they do not read maps"
    assert code in (0, 1, 2)
    assert "Traceback" not in err


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("check", name) for name in ("manifest.json", "train-000000.idx", "train-000000.tar", "maps.h5")),
        *(("score", name) for name in ("train-000000.idx", "train-000000.tar")),
        *(("rebox", name) for name in ("test-000000.idx", "maps.h5")),
    ],
)
def test_a_file_that_the_disk_does_not_deliver_is_not_called_damaged(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, name: str, code: int
):
    """Its size is right; every read of it fails, or opening it."""
    fault = OSError(code, os.strerror(code), str(kept / name))
    opened, pread, readinto = regular.open_regular, os.pread, regular._NamedFile.readinto

    def fail(self, buffer):
        if self._path.name == name:
            raise fault
        return readinto(self, buffer)

    def refuse(path):
        if path.name == name:
            raise fault
        return opened(path)

    def fail_at(handle, size, offset):
        if name.endswith(".tar") and os.path.samestat(os.fstat(handle), os.stat(kept / name)):
            raise fault
        return pread(handle, size, offset)

    if code == errno.EIO:
        monkeypatch.setattr(regular._NamedFile, "readinto", fail)
        monkeypatch.setattr("fgdata.files.handles.os.pread", fail_at)
    else:
        for module in ("stores.store", "shards.maps", "files.json"):
            monkeypatch.setattr(f"fgdata.{module}.open_regular", refuse)
    assert main([command, str(kept)]) == 2
    out, err = capsys.readouterr()
    assert os.strerror(code) in err
    assert str(kept / name) in err
    assert "damaged" not in out + err


@pytest.mark.parametrize("code", STORAGE)
def test_every_error_of_storage_stops_a_build_that_skips_bad_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())

    def fail(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("fgdata.files.regular.os.open", fail)
        with pytest.raises(OSError, match=os.strerror(code)):
            read_bytes("files", path)
    with monkeypatch.context() as patch:
        patch.setattr("fgdata.files.handles.os.pread", fail)
        with pytest.raises(OSError, match=os.strerror(code)) as raised:
            ShardSet.open(Path("shards/tiny")).split("train").read(0)
    assert raised.value.filename == "shards/tiny/train-000000.tar"


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_names_the_file_and_a_rerun_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
):
    words = "build-shards --classes 2 --images-per-class 6 --size 64 --saliency spectral-residual --shard-samples 4"
    words = [*words.split(), "--jobs", "1", "--keep-maps", "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    fsync, calls = os.fsync, []
    out = tmp_path / "set"

    def fail(handle):
        calls.append(handle)
        if len(calls) == failing:
            raise OSError(code, os.strerror(code))
        fsync(handle)

    failing = 0
    monkeypatch.setattr(os, "fsync", fail)
    while True:  # every file fails once, in the order of writing; what was written before it stays
        failing, calls = failing + 1, []
        capsys.readouterr()
        if main([*words, str(out)]) == 0:
            break
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"fgdata: {os.strerror(code)}: {out}/")
    assert failing > 3
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("first", [(1 << 64) - 48, (1 << 64) - 47, 10**60])
def test_maps_of_a_set_with_large_keys(copy: Path, first: int):
    """maps.h5 stores keys as uint64: 2^64 - 1 fits; a larger one is refused, and the set is unchanged."""
    _renumber(copy, first)
    without = copy.parent / "without"
    shutil.copytree(copy, without)
    (without / "maps.h5").unlink()
    manifest = read_manifest(without)
    del manifest["maps"]
    (without / MANIFEST).write_bytes(dump(signed(manifest)))
    add(without, "vsf")  # without maps any key will do
    if first + 48 > 1 << 64:
        before = files(copy)
        with pytest.raises(
            InputError, match=r"-00000[0-9]\.tar: the key [0-9]+ of a sample is not a whole number below"
        ):
            add(copy, "vsf")
        assert files(copy) == before
    else:
        add(copy, "vsf")


def _renumber(folder: Path, first: int) -> None:
    """Gives the samples of a set the keys first, first + 1, ..."""
    shards, manifest = ShardSet.open(folder), read_manifest(folder)
    key = first
    for split, entry in manifest["splits"].items():
        reader, number = shards.split(split), 0
        for i, shard in enumerate(entry["shards"]):
            with ShardWriter(folder, shard["name"]) as writer:
                for _ in range(shard["samples"]):
                    sample = reader.read(number)
                    info = {name: value for name, value in sample.info.items() if name != "crc32"}
                    parts = {name: data for name, data in sample.items() if name != "json"}
                    writer.add(f"{key:070d}", parts, info)
                    key, number = key + 1, number + 1
            entry["shards"][i] = writer.entry
        reader.close()
    (folder / MANIFEST).write_bytes(dump(signed(manifest)))


@pytest.mark.parametrize("name", ["manifest.json", ".building/plan.json"])
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_plugins_are_not_read_from_what_is_not_a_file(tmp_path, name, kind):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    {"fifo": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    assert recorded_plugins(tmp_path) is None  # and returns: a FIFO has no writer, /dev/zero no end
