"""Copies of remote tars: each is transferred once, within the limit, whatever other processes do."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from object_storage import Web

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, read_all
from fgdata.stores import copies
from fgdata.stores.copies import CopyFolder

GB = 1e9


def copied_set(web: Web, folder: Path, most_bytes: float = GB) -> ShardSet:
    return ShardSet.open(f"{web.address}/drawn", folder, most_bytes / GB)


def copy_all(shards: ShardSet, split: str = "train") -> None:
    for shard in shards.manifest["splits"][split]["shards"]:
        shards.store.copy(f"{shard['name']}.tar")  # type: ignore[attr-defined]


def test_a_tar_is_transferred_once_and_serves_the_same_samples(web: Web, drawn_set: Path, tmp_path: Path):
    expected = list(read_all(ShardSet.open(drawn_set).split("train")))
    shards = copied_set(web, tmp_path)
    assert list(read_all(shards.split("train"))) == expected  # by ranges; asks for copies
    copy_all(shards)
    web.refuse = 500
    assert list(read_all(shards.split("train"))) == expected
    web.refuse = 0
    again = copied_set(web, tmp_path)
    web.asked.clear()
    assert list(read_all(again.split("train"))) == expected
    assert not web.asked
    tars = {path.name for path in tmp_path.glob("*.tar")}
    assert tars == {f"{shard['sha256']}.tar" for shard in shards.manifest["splits"]["train"]["shards"]}
    with pytest.raises(InputError, match="is on this machine"):
        ShardSet.open(drawn_set, tmp_path)


def test_tars_without_room_are_read_by_ranges_and_only_idle_copies_of_others_go(
    web: Web, drawn_set: Path, tmp_path: Path
):
    sizes = [shard["bytes"] for shard in ShardSet.open(drawn_set).manifest["splits"]["train"]["shards"]]
    used, old = tmp_path / f"{'a' * 64}.tar", tmp_path / f"{'b' * 64}.tar"
    for path in (used, old):
        path.write_bytes(bytes(1000))
    os.utime(old, times=(time.time() - 2 * copies.IDLE_S,) * 2)  # pyright: ignore
    limit = sum(sizes[:2]) + 1000
    shards = copied_set(web, tmp_path, limit)
    copy_all(shards)
    assert used.exists()
    assert not old.exists()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    assert len(list(tmp_path.glob("*.tar"))) == 3  # two of the set's three, and the one in use
    assert list(read_all(shards.split("train"))) == list(read_all(ShardSet.open(drawn_set).split("train")))


def test_a_wrong_tar_is_not_kept(web: Web, tmp_path: Path, capsys: pytest.CaptureFixture):
    shards = copied_set(web, tmp_path)
    shard = shards.manifest["splits"]["train"]["shards"][0]
    shards.store._tars["train-000000.tar"] = ("0" * 64, shard["bytes"])  # type: ignore[attr-defined]
    shards.store.copy("train-000000.tar")  # type: ignore[attr-defined]
    assert "train-000000.tar was not copied to" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_a_part_in_use_is_left_alone_and_one_of_a_killed_process_is_not(tmp_path: Path):
    """Another process holds the part of the tar `1`, then is killed in the middle of it."""
    script = (
        "import sys, time; from pathlib import Path; from fgdata.stores.copies import CopyFolder\n"
        "def read(size, offset): print('reading', flush=True); time.sleep(60)\n"
        "CopyFolder(Path(sys.argv[1]), 1000).add('1', 600, set(), read)"
    )
    folder = CopyFolder(tmp_path, 1000)
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert not folder.add("1", 600, set(), lambda size, offset: bytes(size))
        assert not folder.add("2", 600, set(), lambda size, offset: bytes(size))  # 600 of 1,000 bytes are reserved
        assert (tmp_path / "1.part").stat().st_size == 600
        other.kill()
    with pytest.raises(ValueError, match="sha256"):
        folder.add("3", 600, set(), lambda size, offset: bytes(size))
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_copy_that_cannot_be_marked_as_read_is_read(
    web: Web, drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    """It is that of another user, or on a read-only file system."""
    copy_all(copied_set(web, tmp_path))
    shards = copied_set(web, tmp_path)

    def refuse(path, *_):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr("os.utime", refuse)
    web.asked.clear()
    assert list(read_all(shards.split("train"))) == list(read_all(ShardSet.open(drawn_set).split("train")))
    assert not web.asked


def test_what_other_users_left_does_not_end_the_copying(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """In a shared folder with the sticky bit, only the owner may remove a file, or open it if its mode says so."""
    old, part = tmp_path / f"{'b' * 64}.tar", tmp_path / f"{'c' * 64}.part"
    old.write_bytes(bytes(1000))
    os.utime(old, times=(0, 0))
    part.touch()
    shards = copied_set(web, tmp_path, 1000)
    unlink, opened = Path.unlink, Path.open

    def refuse_unlink(path: Path, *arguments, **options) -> None:
        if path == old:
            raise PermissionError(errno.EPERM, "not the owner", str(path))
        unlink(path, *arguments, **options)

    def refuse_open(path: Path, *arguments, **options):
        if path == part:
            raise PermissionError(errno.EACCES, "not readable", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", refuse_unlink)
    monkeypatch.setattr(Path, "open", refuse_open)
    copy_all(shards)  # there is no room
    assert old.exists()
    assert "no more tars will be" not in capsys.readouterr().err
    shards.store._folder.most_bytes = 10**9  # type: ignore[attr-defined]
    copy_all(shards)
    assert len(list(tmp_path.glob("*.tar"))) == 4
