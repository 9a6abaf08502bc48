"""Runs a function over jobs: in a pool of local processes, or on a Ray cluster. Results come as they are ready."""

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
    # Of glibc: memory that an image needed is kept for the next instead of being given back. Else the kernel clears a
    # thousand fresh pages an image, an eighth of a worker's time, and workers wait for each other there.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
"""Of a worker process: one thread, and memory that stays."""
_SECONDS_BETWEEN_LOOKS = 0.2
_counter: Any = None


def validate(workers: int, engine: str) -> None:
    """InputError for settings that run_jobs would refuse."""
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: allowed are {', '.join(ENGINES)}.")
    if workers < 1:
        raise InputError(f"--jobs {workers}: at least 1.")


def run_jobs(
    function: Callable, jobs: Iterable, *, workers: int, engine: str, advance: Callable[[int], None]
) -> Iterator[Any]:
    """Yields function(job, advance) for every job, in the order they end.

    The local engine calls `advance` with the images done, five times a second; Ray, with all of a job's at its end.
    Library threads are pinned to one in each process: many small matrices are far slower on several, and sums differ.
    """
    validate(workers, engine)
    jobs = list(jobs)
    if jobs:
        yield from _on_ray(function, jobs, advance) if engine == "ray" else _locally(function, jobs, workers, advance)


def _locally(function: Callable, jobs: list, workers: int, advance: Callable[[int], None]) -> Iterator[Any]:
    import multiprocessing

    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of OpenCV's and BLAS's threads
    counter = context.Value("q", 0)
    seen, ended = 0, 0
    with _environment(ENVIRONMENT):
        pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_start_worker, initargs=(counter,))
        try:
            with _interrupts_later():  # a worker inherits this while it starts: Ctrl-C is the parent's affair
                waiting = {pool.submit(_call, function, job) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                seen, before = counter.value, seen
                advance(seen - before)
                for future in done:
                    result, ended = future.result(), ended + 1
                    yield result
        except BrokenProcessPool:
            unguarded = (
                ' No result had come yet: a script of your own must do this under `if __name__ == "__main__":`, since '
                "each worker process imports it."
            )
            raise InputError(
                "A worker process died, perhaps for lack of memory. What is finished is kept: run the same command "
                f"again, with fewer workers than {workers} if it happens again (--jobs).{'' if ended else unguarded}"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C within the block comes at its end. Windows knows no masks, and there it comes at once."""
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which lets shards in hand be finished
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import cv2

    cv2.setNumThreads(1)


def _die_with_parent() -> None:
    """A killed parent cannot stop its workers; they see its death and leave, so that a new build finds no rivals."""
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
