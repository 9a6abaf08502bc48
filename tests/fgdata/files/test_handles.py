"""Open files, compared with plain reads: least recently used, never closed under a reader, none left open."""

import multiprocessing
import os
import threading
from pathlib import Path
from random import Random

import pytest

from fgdata.errors import InputError
from fgdata.files.handles import HANDLES, Handles, most_open


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for i in range(6):
        (tmp_path / f"{i}").write_bytes(Random(i).randbytes(5000))
    return [tmp_path / f"{i}" for i in range(6)]


def descriptors() -> set[str]:
    """The open regular files of this process."""
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("lists the open files in /proc")
    return {link for entry in os.listdir(folder) if (link := _target(folder / entry))}


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except OSError:  # the listing's own descriptor
        return ""


def test_the_least_recently_used_file_is_closed_first(files: list[Path]):
    handles, order = Handles(3), []
    for i in (0, 1, 2, 0, 3, 4, 0, 5, 1):
        assert handles.read(1, files[i], 100, 50) == files[i].read_bytes()[50:150]
        order = [*(j for j in order if j != i), i][-3:]
        assert descriptors() & set(map(str, files)) == {str(files[j]) for j in order}
    assert len(handles.open_files(1)) == 3
    handles.close(1)
    assert not descriptors() & set(map(str, files))


def test_a_read_beyond_the_end_is_short_and_an_owner_reads_its_own_file(files: list[Path]):
    handles = Handles(8)
    assert handles.read(1, files[0], 10_000, 4900) == files[0].read_bytes()[4900:]
    assert handles.read(1, files[0], 10, 6000) == b""
    old = files[0].read_bytes()
    os.replace(files[1], files[0])  # as when a set is built again
    assert handles.read(1, files[0], 5000, 0) == old
    assert handles.read(2, files[0], 5000, 0) == files[0].read_bytes() != old
    handles.close(1)
    assert len(handles.open_files(2)) == 1
    handles.close(2)
    with pytest.raises(FileNotFoundError, match="gone"):
        handles.read(1, files[0].with_name("gone"), 1, 0)
    with pytest.raises(InputError, match="is a folder"):
        handles.read(1, files[0].parent, 1, 0)


def test_many_threads_and_one_open_file(files: list[Path]):
    """Every read closes the file of another thread, which may be in the middle of a read."""
    handles, contents, wrong = Handles(1), [file.read_bytes() for file in files], []

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(200):
            i, start = random.randrange(len(files)), random.randrange(4000)
            if handles.read(1, files[i], 700, start) != contents[i][start : start + 700]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    handles.close(1)
    assert not descriptors() & set(map(str, files))


def test_a_forked_child_can_read_while_a_thread_of_its_parent_held_the_lock(files: list[Path]):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not fork")
    HANDLES.read(-1, files[0], 10, 0)
    with HANDLES._lock:
        child = os.fork()
        if child == 0:  # without Python's cleanup, which belongs to the parent
            os._exit(0 if HANDLES.read(-1, files[0], 10, 5) == files[0].read_bytes()[5:15] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    HANDLES.close(-1)


def test_closing_while_the_lock_is_held_does_not_wait(files: list[Path]):
    """As when the garbage collector frees a reader in a thread that is inside the lock."""
    handles = Handles(8)
    for owner in (1, 2):
        handles.read(owner, files[0], 10, 0)
    with handles._lock:
        handles.close(1)
    assert len(handles.open_files(1)) == 1
    handles.read(2, files[1], 10, 0)
    assert not handles.open_files(1)
    assert len(handles.open_files(2)) == 2
    handles.close(2)
    assert not descriptors() & set(map(str, files))


def test_the_number_follows_the_limit_of_the_system(monkeypatch: pytest.MonkeyPatch):
    resource = pytest.importorskip("resource")
    for soft, expected in ((1024, 512), (10, 8), (resource.RLIM_INFINITY, 1 << 20)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert most_open() == expected
