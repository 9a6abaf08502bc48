"""Reads in flight: the stored bytes of the next batches, read by threads of their own.

A thread that waits for storage does nothing else, so many of them hide its latency: at 20 ms a read, 64 readers read up
to 3,200 samples/s. They only read, once a sample, because where it is in its tar is in memory. Checking, decoding and
everything else is work of the backend, whose threads never wait for a read. On fast storage a task reads several
samples one after another, because handing one over to another thread takes longer than the read.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count
from threading import Lock
from typing import Any

import numpy as np

from ..cores import share_of_cores
from .pool import Pool

WINDOW = 3
"""Batches in preparation or ready at any time, each with memory of its own. Those further ahead are only read."""
_TASK, _MOST = 0.002, 16  # seconds that the reads of one task take together, and the most reads of a task


def default_readers(world_size: int) -> int:
    """Reader threads of a loader: 32 per core, at most 128. A core makes 400 to 1,300 samples/s."""
    return min(128, 32 * share_of_cores(world_size))


def default_ahead(readers: int, batch_size: int) -> int:
    """Batches ahead: those in preparation, and as many as keep all readers busy until a whole batch is complete."""
    return WINDOW + -(-2 * readers // batch_size)


Choose = Callable[[], tuple[np.ndarray, Sequence[Callable[[], Any]]]]
"""() -> (n,) sample numbers of a batch, and its reads."""


class Request:
    """A batch to read and to compute. The backend starts it when all reads are done and the batch was admitted."""

    def __init__(self, rank: int, backend: Any, gather: Callable[..., Any]):
        self.rank = rank
        self.future: Future = Future()
        self._backend, self._gather = backend, gather
        self._results: dict[str, Any] | None = None
        self._admitted = False
        self._lock = Lock()

    def admit(self) -> None:
        """Allows the batch to take its memory. Calls after the first have no effect."""
        with self._lock:
            first, self._admitted = not self._admitted, True
            starts = first and self._results is not None
        if starts:
            self._start()

    def finish(self, results: dict[str, Any]) -> None:
        """Sets the results of its reads, as arguments of `gather`."""
        with self._lock:
            self._results = results
            starts = self._admitted
        if starts:
            self._start()

    def fail(self, fault: BaseException) -> None:
        """Sets the exception that the consumer gets."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(fault)

    def _start(self) -> None:
        results, self._results = self._results, {}
        if results is not None and not self.future.cancelled():
            self._backend.submit(self.rank, partial(self._gather, **results), self.future)


class Readers:
    """Threads that run the reads of requests, those of the oldest request first."""

    def __init__(self, threads: int):
        self._pool = Pool(threads, "fgdata-reads")
        self._seconds = 1.0  # of a recent read; at first each task has one

    def start(self, request: Request, choose: Choose) -> None:
        """Starts a request: `choose` gives its samples and reads, in a reader thread. A read that fails has its
        exception as its result, which `gather` raises when it comes to that sample, so that the first sample in order
        is reported."""
        self._pool.put(request.rank, self._begin, request, choose)

    def put(self, rank: int, function: Callable, *arguments: Any) -> None:
        """Runs other work in a reader thread; it must not raise."""
        self._pool.put(rank, function, *arguments)

    def close(self) -> None:
        """Ends the threads after their current tasks."""
        self._pool.close()

    def _begin(self, request: Request, choose: Choose) -> None:
        if request.future.cancelled():
            return
        try:
            index, listed = choose()
        except BaseException as fault:
            request.fail(fault)
            return
        results: dict[str, Any] = {"index": index, "fetched": [None] * len(listed)}
        length = max(1, min(_MOST, int(_TASK / max(self._seconds, 1e-6))))
        parts = [range(start, min(start + length, len(listed))) for start in range(0, len(listed), length)]
        if not parts:
            request.finish(results)
        left = count(len(parts) - 1, -1)  # the part that gets 0 is the last to end; `next` is atomic
        for part in parts:
            self._pool.put(request.rank, self._read, request, listed, results, part, left)

    def _read(self, request: Request, listed: Sequence[Callable], results: dict, part: range, left: "count") -> None:
        if request.future.cancelled():
            return
        start = time.monotonic()
        for i in part:
            try:
                results["fetched"][i] = listed[i]()
            except BaseException as fault:
                results["fetched"][i] = fault
        self._seconds += ((time.monotonic() - start) / len(part) - self._seconds) / 8
        if next(left) == 0:
            request.finish(results)
