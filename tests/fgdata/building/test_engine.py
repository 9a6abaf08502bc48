"""Worker processes: what they find when they start, and how their results and faults come back."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fgdata.building.engine import ENVIRONMENT, run_jobs
from fgdata.errors import InputError


def found_there(job, advance):
    advance(job)
    return job, {name: os.environ.get(name) for name in ENVIRONMENT}


def refuses(job, advance):
    raise InputError(f"job {job} is of another kind")


def test_a_worker_has_one_thread_and_keeps_its_memory_and_the_parent_is_as_it_was():
    before, counted = dict(os.environ), []
    results = list(run_jobs(found_there, [3, 4], workers=2, engine="local", advance=counted.append))
    assert sorted(job for job, _ in results) == [3, 4]
    assert all(environment == ENVIRONMENT for _, environment in results)
    assert sum(counted) == 7
    assert dict(os.environ) == before


def test_a_refusal_in_a_worker_reaches_the_caller_as_it_is():
    with pytest.raises(InputError, match="job 5 is of another kind"):
        list(run_jobs(refuses, [5], workers=1, engine="local", advance=lambda images: None))


def dies(job, advance):
    os._exit(1)


def dies_second(job, advance):
    if job == 2:
        time.sleep(1)  # so that the parent has seen the first result
        os._exit(1)
    return job


def test_a_worker_that_dies_at_once_may_be_a_script_without_a_guard():
    with pytest.raises(InputError, match=r"with fewer workers than 1 .* a script of your own must .* `if __name__ =="):
        list(run_jobs(dies, [1], workers=1, engine="local", advance=lambda images: None))
    results = run_jobs(dies_second, [1, 2], workers=1, engine="local", advance=lambda images: None)
    assert next(results) == 1
    with pytest.raises(InputError, match=r"with fewer workers than 1 if it happens again \(--jobs\).$"):
        next(results)


def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from fgdata.building.engine import run_jobs\n"
        "def work(job, advance): return job\n"
        "list(run_jobs(work, [1], workers=1, engine='local', advance=print))\n"
    )
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].endswith("since each worker process imports it.")


def stops_at(images):
    raise KeyboardInterrupt


def masked(job, advance):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGINT)


def test_a_worker_never_hears_ctrl_c_and_the_parent_still_does():
    """Blocked from a worker's first instruction on, which is before its imports; else it prints their traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        pytest.skip("this system has no signal masks")
    [found] = run_jobs(masked, [1], workers=1, engine="local", advance=lambda images: None)
    assert found == (True, signal.SIG_IGN)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(found_there, [1], workers=1, engine="local", advance=stops_at))


def test_no_jobs_start_no_process():
    assert list(run_jobs(refuses, [], workers=4, engine="local", advance=lambda images: None)) == []
