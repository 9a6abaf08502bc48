"""Threads that always work on the oldest batch first, and batch memory that is used again once nobody holds it."""

import itertools
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np


class Pool:
    """Daemon threads that take the task of the lowest rank next. A task must not raise; it tells its batch."""

    def __init__(self, threads: int):
        self._tasks: queue.PriorityQueue = queue.PriorityQueue()
        self._serial = itertools.count()
        self._threads = [
            threading.Thread(target=_work, args=(self._tasks,), name=f"fgdata-views-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, rank: int, function: Callable, *arguments: Any) -> None:
        self._tasks.put((rank, next(self._serial), function, arguments))

    def close(self) -> None:
        """Ends the threads after the task each is in; tasks still waiting are forgotten."""
        for _ in self._threads:
            self._tasks.put((-1, next(self._serial), None, ()))
        for thread in self._threads:
            if thread is not threading.current_thread():  # the garbage collector may close a loader from any thread
                thread.join()
        self._threads = []


def _work(tasks: queue.PriorityQueue) -> None:
    while True:
        _, _, function, arguments = tasks.get()
        if function is None:
            return
        function(*arguments)
        del function, arguments  # an idle thread must keep neither a batch nor a loader alive


class Buffers:
    """float32 arrays of one shape, recycled: fresh pages cost 0.5 ms a two-view sample at 224 px, a quarter of
    all the work on it.

    `take` hands out an array; when it and everything made from it (slices, torch.from_numpy) are gone, its memory
    returns.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        free = self._free.setdefault(shape, [])
        try:
            memory = free.pop()  # not tested for emptiness first: other threads take too
        except IndexError:
            memory: Any = np.empty(shape, np.float32)
        # Over a memoryview, because NumPy would base slices on `memory` itself and let `array` die before them.
        array = np.ndarray(shape, np.float32, buffer=memoryview(memory))
        weakref.finalize(array, free.append, memory).atexit = False
        return array
