"""Error messages and exit codes of the command lines, and the locks on folders."""

import errno
import os
import re
import subprocess
import sys
from functools import partial

import pytest

from fgdata.cli import main
from fgdata.datasets.parsing import read_bytes
from fgdata.errors import REMARKS, InputError, counted, describe, is_failing_storage, is_reported, run_command, suggest
from fgdata.files import lock as locks
from fgdata.files.lock import create_and_lock, is_locked, lock
from fgdata.shards.check import check
from fgdata.shards.manifest import read_manifest


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
        (OSError(errno.EDQUOT, "Disk quota exceeded", "z"), 2, "fgdata: Disk quota exceeded: z. Rerun.\n"),
        (MemoryError(), 2, "fgdata: Not enough memory. Rerun.\n"),
        (
            ImportError("libcudart.so.13: cannot open shared object file", name="onnxruntime.capi"),
            2,
            "fgdata: A package is installed, but cannot be imported: libcudart.so.13: cannot open shared object file. "
            "Install it again, or what it lacks.\n",
        ),
    ],
)
def test_errors_that_a_user_can_fix_print_one_message(capsys, error, code, message):
    assert run_command("fgdata", failing(error), lambda: "Rerun.") == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("fault", [ModuleNotFoundError("no x", name="x"), ImportError("no x", name="fgdata.x")])
def test_a_fault_of_ours_in_an_import_is_raised(fault):
    with pytest.raises(type(fault), match="no x"):
        run_command("fgdata", failing(fault))


STORAGE = "EIO ESTALE ENOLINK EREMOTEIO ETIMEDOUT ENOTCONN EHOSTDOWN EHOSTUNREACH ENETDOWN ENODEV ENXIO EUCLEAN".split()
STORAGE += ["EKEYEXPIRED", "ENOMEM", "EMFILE", "ENFILE"]


@pytest.mark.parametrize("name", [*STORAGE, "EROFS", "ELOOP", "EFBIG"])
def test_an_error_of_the_system_is_explained_where_its_words_are_not_plain(capsys, tmp_path, monkeypatch, name):
    if not hasattr(errno, name):
        pytest.skip("this system has no such error")
    code = getattr(errno, name)
    words, remark = os.strerror(code), REMARKS[code]
    assert run_command("fgdata", failing(OSError(code, words, "/mnt/x")), lambda: "Rerun.") == 2
    assert capsys.readouterr().err == f"fgdata: {words}: /mnt/x ({remark}). Rerun.\n"
    assert is_failing_storage(OSError(code, words)) == (name in STORAGE)
    assert describe(OSError(code, words)) == f"{words} ({remark})"
    assert "permission" not in remark

    def fail(path, *_, **__):
        raise OSError(code, words, str(path))

    path = tmp_path / "list.txt"
    path.touch()
    (tmp_path / "manifest.json").touch()
    monkeypatch.setattr("fgdata.files.regular.os.open", fail)
    kind = OSError if name in STORAGE else InputError
    with pytest.raises(kind, match=re.escape(words)) as raised:
        read_bytes("cub", path)
    assert str(path) in str(raised.value)
    with pytest.raises(InputError, match=rf"manifest.json cannot be read: {re.escape(f'{words} ({remark})')}\.$"):
        read_manifest(tmp_path)


def test_every_remark_is_about_a_number_that_is_reported():
    assert all(is_reported(OSError(code, os.strerror(code))) for code in REMARKS)
    assert len(REMARKS) > 20
    assert not is_reported(OSError(errno.EINVAL, ""))
    assert describe(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"


def test_a_command_that_writes_nothing_has_no_advice_on_resuming(capsys):
    assert run_command("fgdata", failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\nfgdata: stopped.\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(OSError, match="Invalid argument"):
        run_command("fgdata", failing(OSError(errno.EINVAL, os.strerror(errno.EINVAL))))


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


def test_suggest():
    names = ("cvsa", "byol", "byol-vit", "moco")
    assert suggest("bylo", names) == " Did you mean byol?"
    assert suggest("zzz", names) == ""


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


@pytest.mark.parametrize("open_folder", [lock, create_and_lock])
def test_a_process_that_asks_for_the_lock_does_not_stop_the_one_that_takes_it(tmp_path, monkeypatch, open_folder):
    """`is_locked` holds the lock for a moment."""
    fcntl = pytest.importorskip("fcntl", reason="this system has no flock")
    handles = [os.open(tmp_path, os.O_RDONLY)]
    fcntl.flock(handles[0], fcntl.LOCK_EX)
    monkeypatch.setattr("fgdata.files.lock.time.sleep", lambda seconds: os.close(handles.pop()))
    with open_folder(tmp_path):
        assert is_locked(tmp_path)
    assert not handles


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
        with pytest.raises(InputError, match="using .*set. Wait until it ends, then rerun"), lock(folder):
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


NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF]


@pytest.mark.parametrize("code", NO_LOCKS)
def test_a_file_system_without_locks_is_written_without_a_lock(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl", reason="this system has no flock")

    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    for name in ("a", "b"):
        with create_and_lock(tmp_path / name), lock(tmp_path / name):
            (tmp_path / name / "shard").touch()
            assert is_locked(tmp_path / name), "unknown: the safe answer"
    assert (tmp_path / "a" / "shard").exists()


def test_other_errors_of_flock_are_raised_and_close_the_folder(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="this system has no flock")
    handles = []

    def flock(handle, _):
        handles.append(handle)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output"), create_and_lock(tmp_path):
        pass
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(handles[0])


COMMAND = """
import sys
from fgdata.cli import main
from fgdata.errors import InputError, run_command
from rich.console import Console

def printing():
    for _ in range(3000):
        print("a line of a table")

def rich():
    Console().print("a line of a table")

def refusing():
    raise InputError("no such thing")

def quiet():
    open(sys.argv[2], "w").write(f"{sys.stdin.read()!r} {open('/dev/null').fileno() > 2}")

def failing():
    raise ZeroDivisionError

sys.exit(run_command("fgdata", globals()[sys.argv[1]]))
"""


def run(*words: str, stdout=subprocess.PIPE, before=None) -> subprocess.CompletedProcess:
    call = [sys.executable, "-c", COMMAND, *words]
    return subprocess.run(call, stdout=stdout, stderr=subprocess.PIPE, preexec_fn=before, text=True, check=False)


@pytest.mark.parametrize(("name", "code"), [("printing", 141), ("rich", 141), ("refusing", 2), ("failing", 1)])
def test_a_reader_that_left_ends_the_command_quietly(name, code):
    reader, writer = os.pipe()
    os.close(reader)
    done = run(name, stdout=writer)
    os.close(writer)
    assert done.returncode == code
    if code == 141:
        assert done.stderr == ""
    assert ("ZeroDivisionError" in done.stderr) == (name == "failing")


@pytest.mark.parametrize("words", [["--help"], ["build-shards", "--help"], ["list"]])
def test_the_commands_end_quietly_when_their_reader_left(words):
    reader, writer = os.pipe()
    os.close(reader)
    call = [sys.executable, "-m", "fgdata", *words]
    done = subprocess.run(call, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_device_for_the_output_is_one_message():
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = run("printing", stdout=full)  # pyright: ignore
    assert done.returncode == 2
    assert done.stderr.startswith("fgdata: No space left on device: standard output")


def test_closed_streams_are_replaced_and_no_file_takes_their_numbers(tmp_path):
    done = run("quiet", str(tmp_path / "out"), before=lambda: [os.close(number) for number in range(3)])
    assert done.returncode == 0
    assert (tmp_path / "out").read_text() == "'' True"
    assert run("refusing", before=lambda: os.close(2)).stdout == "", "an error is not printed to stdout instead"


def test_a_build_without_streams_finishes(tmp_path):
    words = "build-shards --classes 2 --images-per-class 4 --size 64 --saliency spectral-residual --jobs 1 --out set"
    call = [sys.executable, "-m", "fgdata", *words.split()]
    close = partial(os.closerange, 0, 3)
    assert subprocess.run(call, cwd=tmp_path, preexec_fn=close, check=False).returncode == 0
    assert check(tmp_path / "set")[1] == []


@pytest.mark.parametrize("error", [InputError("no such set"), FileNotFoundError(errno.ENOENT, "No such file")])
def test_a_removed_working_folder_is_named(tmp_path, monkeypatch, capsys, error):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    assert run_command("fgdata", failing(error)) == 2
    assert 'cd "$PWD"' in capsys.readouterr().err


@pytest.mark.parametrize("words", [["build-shards", "--saliency", "gt", "--out"], ["rebox"], ["check"]])
def test_paths_that_the_system_refuses_are_one_message(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    for path in ("a" * 300, "loop"):
        assert main([*words, path]) == 2
        assert path in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check", "loop/manifest.json cannot be read: Too many levels of symbolic links (a symbolic link leads back"),
        ("score", "loop/manifest.json cannot be read: Too many levels of symbolic links (a symbolic link leads back"),
        (
            "build-shards --dataset flat --root",
            "loop (given by --root), which is a link that leads nowhere or",
        ),
        ("build-shards --out", "The folder loop cannot be created: it is a link that leads nowhere, or back to itself"),
    ],
)
def test_a_loop_of_links_is_explained(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    assert main([*words.split(), "loop"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "permission" not in error


def test_a_system_without_locks_is_written_without_a_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)  # as on Windows
    for _ in range(2):
        with create_and_lock(tmp_path / "set"), lock(tmp_path / "set"):
            (tmp_path / "set" / "shard").touch()
    assert (tmp_path / "set" / "shard").exists()
