"""Error messages and exit codes of the command lines, and the locks on folders."""

import errno
import os
import subprocess
import sys

import pytest

from fgdata.errors import InputError, counted, run_command
from fgdata.files.lock import create_and_lock, is_locked, lock


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("no such thing"), 2, "fgdata: no such thing\n"),
        (KeyboardInterrupt(), 130, "\nfgdata: stopped. Rerun.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2, "fgdata: No space left on device: x. Rerun.\n"),
        (
            OSError(errno.EFBIG, "File too large"),
            2,
            "fgdata: File too large (limited by `ulimit -f` or by the file system). Rerun.\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "y"), 2, "fgdata: Permission denied: y. Rerun.\n"),
    ],
)
def test_errors_that_a_user_can_fix_print_one_message(capsys, error, code, message):
    assert run_command("fgdata", failing(error), "Rerun.") == code
    assert capsys.readouterr().err == message


def test_a_command_that_writes_nothing_has_no_advice_on_resuming(capsys):
    assert run_command("fgdata", failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\nfgdata: stopped.\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(OSError, match="Input/output"):
        run_command("fgdata", failing(OSError(errno.EIO, os.strerror(errno.EIO))))


def test_an_ascii_terminal_gets_escapes():
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


def test_a_process_without_the_lock_leaves_the_folder_unchanged(tmp_path):
    pytest.importorskip("fcntl", reason="this system has no flock")
    folder = tmp_path / "a" / "set"
    with create_and_lock(folder):
        assert is_locked(folder)
        with pytest.raises(InputError, match="set.*--out FOLDER"), create_and_lock(folder):
            raise AssertionError("not reached")
        (folder / "shard").touch()
    assert not is_locked(folder)


@pytest.mark.parametrize("returns", [True, False])
def test_the_lock_is_on_the_folder_that_has_the_name(tmp_path, monkeypatch, returns):
    """The folder is removed, and perhaps created again, between our open and our lock."""
    fcntl = pytest.importorskip("fcntl", reason="this system has no flock")
    folder, flock, calls = tmp_path / "set", fcntl.flock, []

    def late(handle, how):
        if not calls:
            folder.rename(tmp_path / "old")  # so that the next folder does not get its inode
            if returns:
                folder.mkdir()
        calls.append(handle)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with create_and_lock(folder):
        assert len(calls) == 2
        (folder / "shard").touch()
        with pytest.raises(InputError, match="set.*--out FOLDER"), lock(folder):
            pass


def test_an_unused_new_folder_is_removed_again(tmp_path):
    with pytest.raises(InputError, match="refused"), create_and_lock(tmp_path / "a" / "b"):
        raise InputError("refused")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="refused"), create_and_lock(tmp_path / "a"):
        raise InputError("refused")
    assert (tmp_path / "a").is_dir(), "it existed before"
    with create_and_lock(tmp_path / "c"):
        (tmp_path / "c" / "shard").touch()
    with pytest.raises(InputError, match="refused"), create_and_lock(tmp_path / "c"):
        raise InputError("refused")
    assert (tmp_path / "c" / "shard").is_file()
