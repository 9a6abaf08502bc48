"""Runs a function over jobs, in local processes or on a Ray cluster, and yields results as they are ready."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from ..errors import InputError

ENGINES = ("local", "ray")
ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    # For glibc: freed memory is kept for the next image. Otherwise the kernel clears a thousand fresh pages per image,
    # which takes an eighth of a worker's time and makes workers wait for each other.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
"""Environment of a worker process: libraries use one thread, and freed memory is kept for reuse."""
_POLL_SECONDS = 0.2
_counter: Any = None


def validate(workers: int, engine: str) -> None:
    """Raises InputError if `engine` is not in ENGINES or `workers` is below 1."""
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: must be one of {', '.join(ENGINES)}.")
    if workers < 1:
        raise InputError(f"--jobs {workers}: must be at least 1.")


def run_jobs(
    function: Callable, jobs: Iterable, *, workers: int, engine: str, advance: Callable[[int], None]
) -> Iterator[Any]:
    """Yields function(job, advance) for every job, in the order in which they finish.

    function: importable by worker processes; it calls its `advance` with the number of images done. jobs: picklable.
    workers: processes of the local engine, at least 1. engine: "local" or "ray". advance: called in this process with
    the number of images done, five times a second by the local engine, once per job by Ray.
    Libraries use one thread in each worker: small matrices are far slower on several threads, and sums differ.
    Raises InputError if a worker dies, and any exception that `function` raises.
    """
    validate(workers, engine)
    jobs = list(jobs)
    if jobs:
        yield from _on_ray(function, jobs, advance) if engine == "ray" else _locally(function, jobs, workers, advance)


def _locally(function: Callable, jobs: list, workers: int, advance: Callable[[int], None]) -> Iterator[Any]:
    import multiprocessing

    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of OpenCV's and BLAS's threads
    counter = context.Value("q", 0)
    reported, finished = 0, 0
    with _environment(ENVIRONMENT):
        pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_start_worker, initargs=(counter,))
        try:
            with _defer_interrupts():  # workers inherit the blocked SIGINT: the parent handles Ctrl-C
                waiting = {pool.submit(_call, function, job) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
                reported, before = counter.value, reported
                advance(reported - before)
                for future in done:
                    result, finished = future.result(), finished + 1
                    yield result
        except BrokenProcessPool:
            unguarded = (
                " No job had finished: if this is a script of your own, put the call under "
                '`if __name__ == "__main__":`, because each worker process imports the script.'
            )
            raise InputError(
                "A worker process died, perhaps because memory ran out. Finished shards are kept: rerun the command; "
                f"if it happens again, use fewer than {workers} workers (--jobs).{'' if finished else unguarded}"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _defer_interrupts() -> Iterator[None]:
    """SIGINT is deferred to the end of the block. Windows has no signal masks: SIGINT is not deferred there."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(counter: Any) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and lets workers finish their shards
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    import cv2

    cv2.setNumThreads(1)


def _exit_with_parent() -> None:
    """Ends this worker when its parent dies, so no orphaned workers compete with a new build."""
    import multiprocessing
    from multiprocessing.connection import wait as wait_for

    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _call(function: Callable, job: Any) -> Any:
    return function(job, _count)


def _count(images: int) -> None:
    with _counter.get_lock():
        _counter.value += images


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _on_ray(function: Callable, jobs: list, advance: Callable[[int], None]) -> Iterator[Any]:
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'fgdata[ray]', or use --engine local") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, runtime_env={"env_vars": ENVIRONMENT})
    remote = ray.remote(num_cpus=1, max_retries=3)(_call_on_ray)
    waiting = {remote.remote(function, job): job for job in jobs}
    while waiting:
        done, _ = ray.wait(list(waiting))
        for reference in done:
            job = waiting.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as fault:
                raise fault.cause from None  # Ray's own message is the worker's traceback
            advance(len(job.records))
            yield result


def _call_on_ray(function: Callable, job: Any) -> Any:
    import cv2

    cv2.setNumThreads(1)
    return function(job, lambda images: None)
