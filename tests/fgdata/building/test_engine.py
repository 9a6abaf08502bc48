"""Worker processes: their environment, and how results and errors are returned."""

import errno
import multiprocessing.heap
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgdata.building.engine import run_jobs
from fgdata.cores import ENVIRONMENT
from fgdata.errors import InputError


def read_environment(job, advance):
    advance(job)
    return job, {name: os.environ.get(name) for name in ENVIRONMENT}


def refuses(job, advance):
    raise InputError(f"job {job} is refused")


def test_a_worker_has_its_own_environment_and_the_parent_keeps_its_own():
    before, counts = dict(os.environ), []
    results = list(run_jobs(read_environment, [3, 4], workers=2, engine="local", advance=counts.append))
    assert sorted(job for job, _ in results) == [3, 4]
    assert all(environment == ENVIRONMENT for _, environment in results)
    assert sum(counts) == 7
    assert dict(os.environ) == before


def test_an_input_error_of_a_worker_is_raised_in_the_caller():
    with pytest.raises(InputError, match="job 5 is refused"):
        list(run_jobs(refuses, [5], workers=1, engine="local", advance=lambda images: None))


def refuses_the_first(job, advance):
    """Job 0 fails at its first image; the others have many images."""
    number, folder = job
    (folder / str(number)).touch()
    while number or not (folder / "1").exists():
        time.sleep(0.01)
        advance(1)
    raise InputError("job 0 is refused")


def test_an_error_ends_the_other_jobs_after_their_image_in_progress(tmp_path):
    """The other worker's job never ends by itself, and no job that waits starts one that does not."""
    jobs = [(number, tmp_path) for number in range(8)]
    with pytest.raises(InputError, match="job 0 is refused"):
        list(run_jobs(refuses_the_first, jobs, workers=2, engine="local", advance=lambda images: None))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm")
@pytest.mark.parametrize(
    ("number", "remedy"), [("EROFS", "--tmpfs"), ("ENOENT", "mount -t tmpfs"), ("ENOSPC", "--shm-size")]
)
@pytest.mark.parametrize("part", ["heap.Arena", "synchronize.SemLock"])
def test_shared_memory_that_cannot_be_written_is_explained(monkeypatch, part, number, remedy):
    """Of what worker processes share, the numbers lie in an arena, and each lock is a semaphore of its own."""

    def refuse(*_, **__):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(multiprocessing.heap.BufferWrapper, "_heap", multiprocessing.heap.Heap())  # has no arena yet
    monkeypatch.setattr(f"multiprocessing.{part}.__init__", refuse)
    with pytest.raises(
        InputError, match=f"/dev/shm, which must be writable.*{os.strerror(getattr(errno, number))}.*{remedy}"
    ):
        list(run_jobs(read_environment, [1], workers=1, engine="local", advance=lambda images: None))


def dies(job, advance):
    os._exit(1)


def dies_second(job, advance):
    if isinstance(job, Path):
        job.read_bytes()  # of a FIFO: returns when the parent has received the first result
        os._exit(1)
    return job


def test_a_dead_worker_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"fewer than 1 workers .*--jobs.* `if __name__ =="):
        list(run_jobs(dies, [1], workers=1, engine="local", advance=lambda images: None))
    os.mkfifo(tmp_path / "gate")
    results = run_jobs(dies_second, [1, tmp_path / "gate"], workers=1, engine="local", advance=lambda images: None)
    assert next(results) == 1
    (tmp_path / "gate").write_bytes(b"")
    with pytest.raises(InputError, match=r"fewer than 1 workers \(--jobs\)\.$"):
        next(results)


def test_a_script_without_a_main_guard_gets_a_message(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from fgdata.building.engine import run_jobs\n"
        "def work(job, advance): return job\n"
        "list(run_jobs(work, [1], workers=1, engine='local', advance=print))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert '`if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


def stops_at(images):
    raise KeyboardInterrupt


def masked(job, advance):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGINT)


def test_workers_ignore_ctrl_c_and_the_parent_does_not():
    """SIGINT is blocked from a worker's first instruction, before its imports; otherwise it would print a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        pytest.skip("this system has no signal masks")
    [state] = run_jobs(masked, [1], workers=1, engine="local", advance=lambda images: None)
    assert state == (True, signal.SIG_IGN)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(read_environment, [1], workers=1, engine="local", advance=stops_at))


def test_no_jobs_start_no_process():
    assert list(run_jobs(refuses, [], workers=4, engine="local", advance=lambda images: None)) == []
