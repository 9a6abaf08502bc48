"""rebox and add replace a set in one step, with the other files in its folder."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from shard_files import MEAN, TIGHT, files

from fgdata.boxes.objective import Objective
from fgdata.building import rewrite
from fgdata.building.log import LOG
from fgdata.building.rewrite import add, rebox
from fgdata.cli import main
from fgdata.errors import InputError
from fgdata.files import space, swap
from fgdata.files.lock import lock
from fgdata.shards.check import check
from fgdata.shards.manifest import dump, list_shards, read_manifest, signed
from fgdata.shards.reader import ShardSet


def add_other_files(folder: Path) -> None:
    """Adds files that a user may keep beside the tars."""
    (folder / "notes.txt").write_text("mine")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "more.txt").write_text("mine too")
    (folder / "link").symlink_to("nowhere")


def test_a_rewrite_in_place_keeps_other_files_without_copying(copy):
    add_other_files(copy)
    paths = [copy / "notes.txt", copy / "deep" / "er" / "more.txt", copy / "maps.h5"]
    before = [path.stat().st_ino for path in paths]
    rebox(copy, TIGHT)
    assert [path.stat().st_ino for path in paths] == before
    assert (copy / "link").readlink() == Path("nowhere")


def test_copies_are_synced_before_the_original_is_removed(copy, tmp_path, monkeypatch):
    add_other_files(copy)
    synced = set()
    monkeypatch.setattr("os.fsync", lambda handle, fsync=os.fsync: (fsync(handle), synced.add(os.fstat(handle).st_ino)))
    monkeypatch.setattr("os.link", no_links)
    rebox(copy, TIGHT)
    for path in ("notes.txt", "deep/er/more.txt", "deep/er", "deep", "maps.h5", "manifest.json", "."):
        assert (copy / path).stat().st_ino in synced, path
    synced.clear()
    rebox(copy, TIGHT, out=tmp_path / "new")
    assert (tmp_path / "new" / "maps.h5").stat().st_ino in synced
    assert (tmp_path / "new" / "maps.h5").stat().st_ino != (copy / "maps.h5").stat().st_ino


def no_links(*_, **__):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_rewrite_from_inside_the_set_says_how_to_enter_the_new_folder(copy, monkeypatch, capsys):
    (copy / "deep").mkdir()
    for folder, name in ((copy, "."), (copy / "deep", "..")):
        monkeypatch.chdir(folder)
        assert main(["rebox", name, "--tau", "1.5", "--jobs", "1"]) == 0
        assert f"cd {copy}" in capsys.readouterr().out
        assert Path.cwd() == copy, "the working folder of the process is the new one"
        assert main(["check", "."]) == 0
    monkeypatch.chdir(copy.parent)
    assert main(["rebox", "set", "--tau", "0.5", "--jobs", "1"]) == 0
    assert "cd " not in capsys.readouterr().out


def test_a_set_that_this_user_may_not_rename_is_refused_before_the_work(copy, tmp_path, monkeypatch):
    """In a sticky folder, only the owner of the folder or of the set may rename it."""
    before = files(copy)
    copy.parent.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: copy.stat().st_uid + 1)
    with monkeypatch.context() as patch:
        patch.setattr(rewrite, "run_jobs", None)  # work would raise
        for change in (lambda: rebox(copy, TIGHT), lambda: add(copy, "vsf")):
            with pytest.raises(InputError, match=r"set cannot be replaced: it belongs to another user.*--out FOLDER"):
                change()
    assert files(copy) == before
    rebox(copy, TIGHT, out=tmp_path / "new")
    copy.parent.chmod(0o777)
    rebox(copy, TIGHT)


@pytest.mark.parametrize("out", [None, "mounted"])
def test_a_mount_point_is_refused_before_the_work(copy, tmp_path, monkeypatch, out):
    target = copy if out is None else tmp_path / out
    target.mkdir(exist_ok=True)
    before = files(copy)
    monkeypatch.setattr("fgdata.building.rewrite.run_jobs", no_links)
    for mounts in ({"ismount": lambda path: Path(path) == target}, {}):
        with monkeypatch.context() as mounted:
            for name, function in mounts.items():
                mounted.setattr(os.path, name, function)
            if not mounts:
                mounted.setattr(swap, "_list_mount_points", lambda: {str(target)})
            with pytest.raises(InputError, match=rf"{target} is a mount point.*--out FOLDER"):
                rebox(copy, TIGHT, out=target if out else None)
    assert files(copy) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted({"set", target.name})


def test_the_mount_points_of_the_system_are_listed():
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("this system has no /proc/self/mountinfo")
    assert {"/", "/proc"} <= swap._list_mount_points()


@pytest.mark.parametrize("rewrite", [partial(rebox, objective=TIGHT), partial(add, name="rbd")])
@pytest.mark.parametrize("name", ["../other/train-000000", "/absolute/train-000000", "sub/train-000000", ".."])
def test_a_manifest_that_names_files_outside_the_set_writes_nothing(copy, tmp_path, rewrite, name):
    """A set from an untrusted source: its manifest names a shard elsewhere, with a valid digest."""
    name = name.replace("/absolute", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    (copy / "sub").mkdir()
    for end in ("tar", "idx"):
        for place in (copy / "sub", tmp_path / "other"):
            shutil.copy(copy / f"train-000000.{end}", place / f"train-000000.{end}")
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["splits"]["train"]["shards"][0]["name"] = name
    (copy / "manifest.json").write_bytes(dump(signed(manifest)))
    before = files(tmp_path)
    for out in (tmp_path / "new", None):
        with pytest.raises(InputError, match="manifest.json"):
            rewrite(copy, out=out)
    assert files(tmp_path) == before


def test_a_users_own_files_ending_in_part_are_kept(copy):
    (copy / "mine.part").write_text("mine")
    (copy / "train-000000.tar.0a1b2c3d.part").write_text("left by a killed process")
    rebox(copy, TIGHT)
    assert (copy / "mine.part").read_text() == "mine"
    assert not (copy / "train-000000.tar.0a1b2c3d.part").exists()


def test_a_set_may_be_named_by_a_dot_or_a_link(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(copy)
    rebox(Path("."), TIGHT)
    assert ShardSet.open(copy).manifest["objective"] == TIGHT.settings
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    rebox(copy, MEAN, out=Path("."))
    assert check(tmp_path / "empty")[1] == []
    (tmp_path / "link").symlink_to(copy)
    (tmp_path / ".new").mkdir()
    copy.rename(tmp_path / ".new" / "set.old")
    swap.recover(tmp_path / "link")
    assert check(tmp_path / "link")[1] == []


def test_rebox_refuses_to_overwrite_other_files(copy, tmp_path):
    before = files(copy)
    with pytest.raises(InputError, match="not an empty folder.*--out FOLDER"):
        rebox(copy, TIGHT, out=copy)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="not an empty folder.*--out FOLDER"):
        rebox(copy, TIGHT, out=tmp_path / "file")
    with pytest.raises(InputError, match="--jobs 0"):
        rebox(copy, TIGHT, workers=0)
    assert files(copy) == before


def test_a_damaged_sample_or_a_full_disk_leaves_the_set_unchanged(copy, tmp_path, monkeypatch, capsys):
    tar = sorted(copy.glob("*.tar"))[-1]
    original = tar.read_bytes()
    tar.write_bytes(original[:700] + bytes([original[700] ^ 1]) + original[701:])
    with pytest.raises(InputError, match="is damaged: sample"):
        rebox(copy, TIGHT)
    tar.write_bytes(original)
    before = files(copy)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "manifest.json")

    monkeypatch.setattr("fgdata.building.rewrite.write_atomic", full)
    assert main(["rebox", str(copy), "--tau", "1.5", "--jobs", "1"]) == 2
    message = capsys.readouterr().err
    assert "No space left on device" in message
    assert "shard set is unchanged" in message
    assert files(copy) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set"]


def test_two_rewrites_at_once_are_refused_unless_both_only_read_the_set(copy, tmp_path):
    pytest.importorskip("fcntl", reason="this system has no file locks of this kind")
    with lock(copy), pytest.raises(InputError, match="using .*set. Wait until it ends, then rerun"):
        rebox(copy, TIGHT, out=tmp_path / "new")
    with swap.replacing(copy, tmp_path / "other"):
        assert rebox(copy, TIGHT, out=tmp_path / "new").manifest
        with pytest.raises(InputError, match="writing to .*other. Wait until it ends, or name .*--out FOLDER"):
            rebox(copy, TIGHT, out=tmp_path / "other")
        with pytest.raises(InputError, match="using .*set. Wait until it ends, then rerun"):
            rebox(copy, TIGHT)


def test_folders_are_exchanged_with_and_without_the_system_call(tmp_path, monkeypatch):
    for system in (swap._system_swap, lambda: None, lambda: lambda new, old: -1):
        monkeypatch.setattr(swap, "_system_swap", system)
        monkeypatch.setattr(swap.ctypes, "get_errno", lambda: errno.EINVAL)
        for name in ("new", "old"):
            (tmp_path / name).mkdir()
            (tmp_path / name / name).touch()
        swap.exchange(tmp_path / "new", tmp_path / "old")
        assert (tmp_path / "old" / "new").exists()
        assert (tmp_path / "new" / "old").exists()
        shutil.rmtree(tmp_path / "new")
        shutil.rmtree(tmp_path / "old")
    (tmp_path / ".new" / "set.old").mkdir(parents=True)
    swap.recover(tmp_path / "set")
    assert (tmp_path / "set").is_dir()


@pytest.mark.parametrize("out", [None, "new"])
def test_a_rename_that_fails_leaves_the_set_unchanged(copy, tmp_path, monkeypatch, out):
    """EBUSY of a mount that is not listed; EXDEV of an overlay file system, also for each rename on its own."""
    before = files(copy)
    rename, replace = Path.rename, Path.replace

    def refuse(self, target):
        if self.name == "set" and self.parent.name == ".new":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    def refuse_folders(self, target):
        if not self.is_dir():
            return replace(self, target)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", refuse_folders if out else replace)
    for code in (errno.EBUSY, errno.EXDEV):
        monkeypatch.setattr(swap, "_system_swap", lambda: lambda new, old: -1)
        monkeypatch.setattr(swap.ctypes, "get_errno", lambda code=code: code)
        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(InputError, match="cannot be replaced: .*unchanged.* --out FOLDER"):
            swap_in(copy, tmp_path / out if out else None)
        assert files(copy) == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_an_add_whose_swap_fails_leaves_the_log_unchanged(copy, tmp_path, monkeypatch):
    """Other files of the folder are hard links until the swap; what is appended to must not be one."""
    before = {path.name: path.read_bytes() for path in copy.iterdir()}

    def fail(new, old):
        assert len((new / LOG).read_bytes()) > len(before[LOG])
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(swap, "exchange", fail)
    with pytest.raises(InputError, match="cannot be replaced: .* It is unchanged"):
        add(copy, "vsf")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


class Killed(BaseException):
    """In place of SIGKILL."""


def test_what_was_left_between_the_last_two_renames_does_not_stop_the_next_rewrite(copy, tmp_path, monkeypatch, capsys):
    """The system has no call that swaps two names."""
    monkeypatch.setattr(swap, "_system_swap", lambda: None)

    def killed(self, target, rename=Path.rename):
        if self.name == "set.old":
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            rebox(copy, TIGHT)
    assert (tmp_path / ".new" / "set.old" / "manifest.json").exists()
    first = files(copy)
    assert main(["list", "--folder", str(tmp_path)]) == 0
    assert "The next such command on set removes it" in " ".join(capsys.readouterr().out.split())
    rebox(copy, MEAN)
    assert files(copy) != first
    assert check(copy)[1] == []
    assert not (tmp_path / ".new").exists()


def test_a_set_that_is_named_like_a_leftover_is_kept(copy, tmp_path):
    other = Path(shutil.copytree(copy, tmp_path / "set.old"))
    with swap.replacing(other, None) as new:
        shutil.copytree(other, new, dirs_exist_ok=True)
        rebox(copy, TIGHT)
        assert files(new) == files(other)
    assert check(other)[1] == []


def swap_in(source: Path, out: Path | None) -> None:
    with swap.replacing(source, out) as new:
        (new / "file").touch()


def test_a_set_that_does_not_fit_beside_the_old_one_is_refused_before_a_detector_runs(
    copy, tmp_path, monkeypatch, capsys
):
    before = files(copy)
    size = sum(shard["bytes"] for shard in list_shards(read_manifest(copy)))
    usage = shutil.disk_usage(copy)
    monkeypatch.setattr(rewrite, "run_jobs", lambda *_, **__: pytest.fail("it begins"))
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    for out in ([], ["--out", str(tmp_path / "new")]):
        assert main(["add", str(copy), "--saliency", "vsf", "--jobs", "1", *out]) == 2
        assert "are free. Free some space, or name a folder on another drive: --out" in capsys.readouterr().err
    assert files(copy) == before
    assert not (tmp_path / "new").exists()


def test_a_full_disk_deep_in_the_other_files_is_reported_with_its_name(copy, monkeypatch, capsys):
    add_other_files(copy)
    before = files(copy)

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    monkeypatch.setattr("os.link", no_links)
    copyfile = shutil.copyfile
    monkeypatch.setattr("shutil.copyfile", lambda s, t: full(s, t) if "more.txt" in str(s) else copyfile(s, t))
    assert main(["rebox", str(copy), "--tau", "1.5", "--jobs", "1"]) == 2
    assert "No space left on device: " in (message := capsys.readouterr().err)
    assert ".new/set/deep/er/more.txt" in message
    assert files(copy) == before


@pytest.mark.slow
def test_killed_at_random_moments_the_set_is_either_the_old_or_the_new(kept, tmp_path):
    folder = Path(shutil.copytree(kept, tmp_path / "set"))
    old = files(folder)
    rebox(kept, TIGHT, out=tmp_path / "wanted")
    new = files(tmp_path / "wanted")
    script = (  # many exchanges in one process, so that kills hit every stage and not only the start
        "import sys; from pathlib import Path\n"
        "from fgdata.boxes.objective import Objective; from fgdata.building import rewrite\n"
        "rewrite.run_jobs = lambda f, jobs, **_: (f(job) for job in jobs)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for tau in (1.5, 'own'): rewrite.rebox(Path(sys.argv[1]), Objective(tau=tau))\n"
    )
    rebox(kept, Objective(), out=tmp_path / "first")
    again = files(tmp_path / "first")
    moment = random.Random(0)
    outcomes = set()
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment.uniform(0.2, 0.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        contents = files(folder)
        assert contents in (old, new, again)
        outcomes.add(contents == new)
        assert check(folder)[1] == []
    rebox(folder, TIGHT)
    assert files(folder) == new
    assert not (tmp_path / ".new").exists()
