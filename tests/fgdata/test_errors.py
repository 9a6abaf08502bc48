"""What a command line says when something goes wrong, and nothing it should not."""

import errno
import os
import subprocess
import sys

import pytest

from fgdata.errors import InputError, counted, run_command
from fgdata.files.lock import create_and_lock, is_locked, lock


def failing(fault):
    def command():
        raise fault

    return command


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (InputError("no such thing"), 2, "fgdata: no such thing\n"),
        (KeyboardInterrupt(), 130, "\nfgdata: stopped. Go on.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2, "fgdata: No space left on device: x. Go on.\n"),
        (
            OSError(errno.EFBIG, "File too large"),
            2,
            "fgdata: File too large (the limit is the shell's, `ulimit -f`, or the file system's). Go on.\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "y"), 2, "fgdata: Permission denied: y. Go on.\n"),
    ],
)
def test_what_a_user_can_mend_is_one_message(capsys, fault, code, says):
    assert run_command("fgdata", failing(fault), "Go on.") == code
    assert capsys.readouterr().err == says


def test_a_command_that_writes_nothing_leaves_nothing_to_go_on_with(capsys):
    assert run_command("fgdata", failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\nfgdata: stopped.\n"


def test_what_nobody_can_mend_keeps_its_traceback():
    with pytest.raises(OSError, match="Input/output"):
        run_command("fgdata", failing(OSError(errno.EIO, os.strerror(errno.EIO))))


def test_a_terminal_that_knows_ascii_only_gets_escapes():
    script = r"""
from fgdata.errors import run_command
def command():
    print("caf\u00e9 \u2026")
    raise __import__("fgdata.errors", fromlist=["x"]).InputError("na\u00efve")
raise SystemExit(run_command("fgdata", command))
"""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, rb"caf\xe9 \u2026" + b"\n", rb"fgdata: na\xefve" + b"\n")


def test_counted():
    assert [counted(n, "image") for n in (0, 1, 2, 2889)] == ["0 images", "1 image", "2 images", "2,889 images"]


def test_who_is_refused_the_lock_leaves_the_folder_to_its_owner(tmp_path):
    pytest.importorskip("fcntl", reason="this system has no file locks of this kind")
    folder = tmp_path / "a" / "set"
    with create_and_lock(folder):
        assert is_locked(folder)
        with pytest.raises(InputError, match="Another fgdata is writing"), create_and_lock(folder):
            raise AssertionError("not reached")
        (folder / "shard").touch()
    assert not is_locked(folder)


@pytest.mark.parametrize("returns", [True, False])
def test_a_lock_is_on_the_folder_that_has_the_name(tmp_path, monkeypatch, returns):
    """The folder is removed, and perhaps made again by another, between our open and our lock."""
    fcntl = pytest.importorskip("fcntl", reason="this system has no file locks of this kind")
    folder, flock, calls = tmp_path / "set", fcntl.flock, []

    def late(handle, how):
        if not calls:
            folder.rename(tmp_path / "old")  # keeps its inode from being given to the next folder
            if returns:
                folder.mkdir()
        calls.append(handle)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with create_and_lock(folder):
        assert len(calls) == 2
        (folder / "shard").touch()
        with pytest.raises(InputError, match="Another fgdata is writing"), lock(folder):
            pass


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(InputError, match="refused"), create_and_lock(tmp_path / "a" / "b"):
        raise InputError("refused")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="refused"), create_and_lock(tmp_path / "a"):
        raise InputError("refused")
    assert (tmp_path / "a").is_dir(), "it was there before"
    with create_and_lock(tmp_path / "c"):
        (tmp_path / "c" / "shard").touch()
    with pytest.raises(InputError, match="refused"), create_and_lock(tmp_path / "c"):
        raise InputError("refused")
    assert (tmp_path / "c" / "shard").is_file()
