"""Threads that work on the oldest batch first, and batch memory that is reused once it is no longer referenced."""

import itertools
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np


class Pool:
    """Daemon threads that run the task with the lowest rank next. A task must not raise; it reports to its batch.

    A thread starts when a task finds none idle, up to `threads` of them.
    """

    def __init__(self, threads: int, name: str = "fgdata-views"):
        self._most, self._name = threads, name
        self._tasks: queue.PriorityQueue = queue.PriorityQueue()
        self._serial = itertools.count()
        self._idle = threading.Semaphore(0)  # threads that wait for a task and that no task was counted for
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def put(self, rank: int, function: Callable, *arguments: Any) -> None:
        """Queues a task; tasks of equal rank run in the order of their submission. Ignored after `close`."""
        self._tasks.put((rank, next(self._serial), function, arguments))
        if self._idle.acquire(blocking=False):
            return
        with self._lock:
            if self._closed or len(self._threads) >= self._most:
                return
            arguments = (self._tasks, self._idle)
            thread = threading.Thread(
                target=_work, args=arguments, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the system's limit of threads or of memory: the others run the task
                if not self._threads:
                    raise
                self._most = len(self._threads)
                return
            self._threads.append(thread)

    def close(self) -> None:
        """Ends each thread after its current task; queued tasks are dropped."""
        with self._lock:
            self._closed, threads, self._threads = True, self._threads, []
        for _ in threads:
            self._tasks.put((-1, next(self._serial), None, ()))
        for thread in threads:
            if thread is not threading.current_thread():  # the garbage collector may close a loader from any thread
                thread.join()


def _work(tasks: queue.PriorityQueue, idle: threading.Semaphore) -> None:
    while True:
        try:
            _, _, function, arguments = tasks.get_nowait()
        except queue.Empty:
            idle.release()
            _, _, function, arguments = tasks.get()
        if function is None:
            return
        function(*arguments)
        del function, arguments  # an idle thread must keep neither a batch nor a loader alive


class Buffers:
    """Arrays whose memory is reused: fresh pages cost 0.5 ms per two-view sample at 224 px, a quarter of the
    total.
    """

    def __init__(self, allocate: Callable[[tuple[int, ...], type], np.ndarray] = np.empty) -> None:
        """allocate: (shape, dtype) -> an array in new memory."""
        self._allocate = allocate
        self._free: dict[tuple, list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        """An uninitialised array. Its memory is reused once it and its views (slices, torch.from_numpy) are gone."""
        free = self._free.setdefault((shape, dtype), [])
        try:
            memory = free.pop()  # without a test for emptiness: other threads pop as well
        except IndexError:
            memory: Any = self._allocate(shape, dtype)
        # Through a memoryview: otherwise NumPy bases slices on `memory` itself, and `array` is freed before them.
        array = np.ndarray(shape, dtype, buffer=memoryview(memory))
        weakref.finalize(array, free.append, memory).atexit = False
        return array
