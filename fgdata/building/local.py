"""Runs jobs in a pool of local processes. The first Ctrl-C stops after the images in progress, the second at once."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from ..cores import ENVIRONMENT
from ..errors import InputError, warn
from .worker import Stopped, call, start_worker

_POLL_SECONDS = 0.2


def run_locally(function: Callable, jobs: list, workers: int, advance: Callable[[int], None]) -> Iterator[Any]:
    """Yields function(job, advance) for every job; see `run_jobs`."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of OpenCV's and BLAS's threads
    with _explain_shared_memory():
        counter, stop = context.Value("q", 0), context.Value("b", 0, lock=False)
        shared = counter, stop
        pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=start_worker, initargs=shared)
    reported, finished, announced = 0, 0, False
    with _environment(ENVIRONMENT), _Interrupts(stop) as interrupts:
        try:
            with _defer_interrupts():  # workers inherit the blocked SIGINT: the parent handles Ctrl-C
                waiting = {pool.submit(call, function, job) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
                # Without the lock: a worker that was killed may hold it.
                reported, before = counter.get_obj().value, reported
                advance(reported - before)
                if interrupts.count and not announced:
                    announced = True
                    warn("\nStopping after the images in progress. Press Ctrl-C again to stop at once.")
                    waiting = {future for future in waiting if not future.cancel()}
                for future in done:
                    try:
                        result, finished = future.result(), finished + 1
                    except Stopped:
                        continue
                    yield result
        except BrokenProcessPool:
            unguarded = (
                " No job had finished. If the call is in a script of your own, put it under "
                '`if __name__ == "__main__":`, because each worker process imports the script.'
            )
            raise InputError(
                "A worker process died, perhaps because memory ran out. Finished shards are kept: rerun the command; "
                f"if it happens again, use fewer than {workers} workers (--jobs).{'' if finished else unguarded}"
            ) from None
        except BaseException:  # the other jobs end after the image in progress, not after their shards
            stop.value = 1
            raise
        finally:
            interrupts.closing = True
            pool.shutdown(cancel_futures=True)


@contextmanager
def _explain_shared_memory() -> Iterator[None]:
    """InputError if /dev/shm is missing, read-only or full: Linux keeps the locks that processes share there."""
    try:
        yield
    except OSError as fault:
        if sys.platform != "linux" or fault.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        remedy = "mount -t tmpfs tmpfs /dev/shm (in a container: docker run --tmpfs /dev/shm)"
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "remove files from it that no program uses, or docker run --shm-size 64m"
        raise InputError(
            f"Worker processes keep their locks in /dev/shm, which must be writable, also with --jobs 1: "
            f"{fault.strerror}. Make it so, then rerun the command: {remedy}"
        ) from None


class _Interrupts:
    """Counts Ctrl-C during the block. The first sets `stop` and is raised at the end; the second kills the block's
    processes and is raised at once.

    Nothing is raised within `pool.shutdown` (`closing`): CPython below 3.13 would hang at exit. A handler that another
    program installed stays in place.
    """

    def __init__(self, stop: Any):
        self.stop, self.count, self.closing = stop, 0, False

    def __enter__(self) -> "_Interrupts":
        self._others = set(multiprocessing.active_children())
        in_main = threading.current_thread() is threading.main_thread()
        self._replaces = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._replaces:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._replaces:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.count and kind is None:
            raise KeyboardInterrupt

    def _handle(self, *_: object) -> None:
        self.count += 1
        self.stop.value = 1
        if self.count > 1:
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
            if not self.closing:
                raise KeyboardInterrupt


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
