"""Makes the batches of a loader in a separate process, beside that of the training run.

The parent's `MakerProcess` has the interface of `Maker`; the child (`serve`) runs a `Maker`. Between them are a pipe

    to the child     (numbers of the blocks that are free again, method, its arguments)
    to the parent    (request, {tensor: array, or (block, shape, dtype)} or an exception, {new block: its bytes})

and memory. A block is anonymous memory of the system, in which the child makes a tensor and the parent reads it. Its
descriptor goes over a socket. It has no name, so none is left behind when both processes have ended, in whatever way.
A block is free again when the parent's tensor is gone, so a batch stays as it is while the caller has it.

The child ends when its pipe closes or it has another parent. Stop signals are the parent's: the child blocks them.
"""

import errno
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

from ..cores import ENVIRONMENT
from ..errors import InputError, describe, describe_exit, is_reported
from .given import Given
from .making import Job, Maker
from .pool import Buffers
from .reading import Request

if TYPE_CHECKING:
    import torch

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
START = """import sys
sys.path[:] = sys.argv[3:]
from fgdata.views.process import serve
serve(int(sys.argv[1]), int(sys.argv[2]))"""
_INLINE = 1 << 15  # bytes up to which a tensor goes through the pipe
_PATIENCE = 10.0  # seconds in which the child ends when it is told to; it may wait for reads
_GLANCE = 1.0  # seconds after which a waiting process looks whether the other one still exists


class Asked:
    """A batch that the child makes, as `Request`."""

    def __init__(self, future: Future, admit: Callable[[], None]):
        self.future, self._admit, self._admitted = future, admit, False

    def admit(self) -> None:
        """Allows the batch to take its memory. Calls after the first have no effect."""
        if not self._admitted:
            self._admitted = True
            self._admit()


class MakerProcess:
    """A `Maker` in a child process. Its batches are CPU tensors in shared memory, or in pinned memory for a GPU."""

    def __init__(self, job: Job, device: "torch.device"):
        """Starts the child and waits until it is ready, some seconds. InputError as of `Maker`."""
        if not hasattr(os, "memfd_create"):
            raise InputError(
                f"process is set, which needs Linux, and this system is {sys.platform}. Omit it (--data.process)."
            )
        self.job, self.device, self.given = job, device, Given()
        self.eight_bit = job.output == "uint8"
        self._owner, self._samples = os.getpid(), len(job.shards.split(job.split))
        self._serial = count(1)
        self._futures: dict[int, Future] = {}
        self._lost: InputError | None = None
        self._lock = threading.Lock()  # of the two above
        self._sending = threading.Lock()
        self._freed: deque[int] = deque()  # blocks; the garbage collector may add one at any point
        self._blocks: dict[int, mmap.mmap] = {}
        try:
            packed = pickle.dumps(job)
        except (pickle.PicklingError, TypeError, AttributeError) as fault:
            raise _unsent(fault) from None
        self._pipe, pipe = Pipe()
        self._channel, channel = socket.socketpair()
        ends = pipe.fileno(), channel.fileno()
        with pipe, channel, _stops_blocked():
            self._child = subprocess.Popen(
                [sys.executable, "-c", START, *map(str, ends), *sys.path],
                stdin=subprocess.DEVNULL,
                env=os.environ | ENVIRONMENT,
                pass_fds=ends,
            )
        try:
            self._pipe.send_bytes(packed)
            fault = self._receive()[1]
        except (EOFError, OSError):
            fault = self._end()
        except BaseException:  # Ctrl-C
            self._child.kill()
            self._end()
            raise
        if isinstance(fault, BaseException):
            self._end()
            raise fault
        self._thread = threading.Thread(target=self._listen, name="fgdata-views-process", daemon=True)
        self._thread.start()

    def submit(self, epoch: int, number: int, start: int, stop: int) -> Asked:
        """As `Maker.submit`."""
        serial, future = next(self._serial), Future()
        future.add_done_callback(partial(self._cancel, serial))
        with self._lock:
            lost = self._lost
            if lost is None:
                self._futures[serial] = future
        if lost is not None:
            future.set_exception(lost)
        self._send("submit", serial, epoch, number, start, stop)
        return Asked(future, partial(self._send, "admit", serial))

    def set_boxes(self, boxes: np.ndarray, first: int) -> None:
        """As `Maker.set_boxes`."""
        self.given.set(boxes, self._samples, first)
        self._send("set_boxes", self.given.at(first), first)

    def close(self) -> None:
        """Ends the child. Batches that the caller has stay as they are."""
        if os.getpid() != self._owner:  # a fork of it
            return
        self._send("close")
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_PATIENCE)
        self._child.kill()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _send(self, method: str, *arguments: Any) -> None:
        with self._sending, suppress(OSError):  # the child is gone, as `_listen` finds too
            freed = [self._freed.popleft() for _ in range(len(self._freed))]
            self._pipe.send_bytes(pickle.dumps((freed, method, arguments)))

    def _cancel(self, serial: int, future: Future) -> None:
        if future.cancelled():
            with self._lock:
                self._futures.pop(serial, None)
            self._send("cancel", serial)

    def _receive(self) -> Any:
        """The next message. EOFError or OSError once the child is gone."""
        while not self._pipe.poll(_GLANCE):
            if self._child.poll() is not None and not self._pipe.poll():
                raise EOFError
        return pickle.loads(self._pipe.recv_bytes())

    def _listen(self) -> None:
        """The thread's loop."""
        fault: Exception | None = None
        try:
            while True:
                self._deliver(*self._receive())
        except (EOFError, OSError) as raised:
            fault = raised
        if isinstance(fault, OSError) and fault.errno in (errno.EMFILE, errno.ENFILE):
            self._child.kill()  # it cannot know
            self._end()
            lost = InputError(
                f"Batches of the process that makes them cannot be received: {describe(fault)}. Each tensor of a batch "
                "is an open file. Raise the limit, keep fewer batches, or omit process (--data.process)."
            )
        else:
            lost = self._end()
        with self._lock:
            self._lost, futures, self._futures = lost, self._futures, {}
        for future in futures.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(lost)

    def _deliver(self, serial: int, result: Any, new: dict[int, int]) -> None:
        """Sets the result of a future. The batch of one that was cancelled is dropped, which frees its blocks."""
        for number, size in new.items():
            sent, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
            if not descriptors:  # the system drops those for which this process has no room
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) if sent else EOFError
            try:
                self._blocks[number] = mmap.mmap(descriptors[0], size)
            finally:
                os.close(descriptors[0])
        if not isinstance(result, BaseException):
            try:
                result = {name: self._tensor(value) for name, value in result.items()}
            except (RuntimeError, MemoryError) as fault:  # no pinned memory is left
                result = fault
        with self._lock:
            future = self._futures.pop(serial, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)

    def _tensor(self, value: Any) -> "torch.Tensor":
        import torch

        if isinstance(value, tuple):
            number, shape, dtype = value
            value = np.ndarray(shape, dtype, buffer=self._blocks[number])
            finalize(value, self._freed.append, number).atexit = False
        tensor = torch.from_numpy(value)
        # A copy to the GPU that is under way reads pinned memory, which torch reuses only later, and never a block.
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _end(self) -> InputError:
        """Waits until the child has ended -> the error of those who wait for its batches."""
        try:
            self._child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        with self._sending:
            self._pipe.close()
            self._channel.close()
        return InputError(
            f"The process that makes the batches ended ({describe_exit(self._child.returncode)}), perhaps because "
            "memory ran out. Use smaller batches or fewer threads, or omit process (--data.process)."
        )


@contextmanager
def _stops_blocked() -> Iterator[None]:
    """Defers stop signals to the end of the block. A process that it starts has them blocked from its first moment."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(pipe: int, channel: int) -> None:
    """The child: makes batches until it is told to end, or the parent is gone. pipe, channel: file descriptors."""
    try:
        Server(Connection(pipe), socket.socket(fileno=channel)).run()
    except (EOFError, OSError):
        os._exit(1)  # not through the ends of threads that may wait for storage
    os._exit(0)


class Server:
    """The child's end of a `MakerProcess`."""

    def __init__(self, pipe: Connection, channel: socket.socket):
        self._pipe, self._blocks, self._parent = pipe, Blocks(channel), os.getppid()
        self._buffers = Buffers(self._blocks.allocate)
        self._requests: dict[int, Request] = {}
        self._lent: dict[int, np.ndarray] = {}  # blocks that the parent reads
        self._sending = threading.Lock()

    def run(self) -> None:
        """Serves one `Job`. EOFError or OSError once the parent is gone."""
        try:
            maker = Maker(self._job(), "cpu", self._buffers)
        except Exception as fault:
            self._send(0, _portable(fault))
            return
        self._send(0, {})
        while True:
            freed, method, arguments = self._receive()
            for number in freed:
                del self._lent[number]
            if method == "close":
                maker.close()
                return
            self._do(maker, method, *arguments)

    def _do(self, maker: Maker, method: str, first: Any, *rest: Any) -> None:
        if method == "set_boxes":
            maker.set_boxes(first, *rest)
        elif method == "submit":
            request = self._requests[first] = maker.submit(*rest)
            request.future.add_done_callback(partial(self._reply, first))
        elif request := self._requests.get(first):  # else it is complete
            if method == "admit":
                request.admit()
            elif method == "cancel":
                request.future.cancel()

    def _receive(self) -> Any:
        while not self._pipe.poll(_GLANCE):
            if os.getppid() != self._parent:  # if another process has a copy of the pipe's end
                raise EOFError
        return pickle.loads(self._pipe.recv_bytes())

    def _job(self) -> Job:
        try:
            return self._receive()
        except (AttributeError, ImportError) as fault:  # a class of the parent's main program
            raise _unsent(fault) from None

    def _reply(self, serial: int, future: Future) -> None:
        """Sends the result of a request; runs in the thread that completed it, and must not raise."""
        self._requests.pop(serial, None)
        if future.cancelled():
            return
        try:
            result = {name: self._packed(tensor.numpy()) for name, tensor in future.result().items()}
        except BaseException as fault:
            result = _portable(fault)
        with suppress(OSError):  # the parent is gone, as `run` finds too
            self._send(serial, result)

    def _packed(self, array: np.ndarray) -> Any:
        """The array if it is small, else where the parent finds it."""
        if array.nbytes <= _INLINE:
            return array
        if (number := self._blocks.number(array)) is None:  # not memory of these buffers
            copy = self._buffers.take(array.shape, array.dtype.type)
            np.copyto(copy, array)
            number, array = self._blocks.number(copy), copy
        assert number is not None
        self._lent[number] = array
        return number, array.shape, array.dtype.str

    def _send(self, serial: int, result: Any) -> None:
        with self._sending:
            values = result.values() if isinstance(result, dict) else ()
            new = self._blocks.send([value[0] for value in values if isinstance(value, tuple)])
            self._pipe.send_bytes(pickle.dumps((serial, result, new)))


class Blocks:
    """Shared memory by number."""

    def __init__(self, channel: socket.socket):
        self._channel, self._numbers = channel, count()
        self._known: dict[int, int] = {}  # address -> number
        self._unsent: dict[int, tuple[int, int]] = {}  # number -> descriptor, bytes

    def allocate(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """An array that is a new block. It is never freed."""
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        descriptor = os.memfd_create("fgdata-views")
        os.ftruncate(descriptor, size)
        array = np.ndarray(shape, dtype, buffer=mmap.mmap(descriptor, size))
        number = next(self._numbers)
        self._unsent[number] = descriptor, size
        self._known[array.ctypes.data] = number
        return array

    def number(self, array: np.ndarray) -> int | None:
        """The block that an array of `allocate` is in, from its start."""
        return self._known.get(array.ctypes.data)

    def send(self, numbers: list[int]) -> dict[int, int]:
        """Sends the descriptors of those that the parent does not have -> their bytes by number."""
        new = {}
        for number in numbers:
            if number in self._unsent:
                descriptor, new[number] = self._unsent.pop(number)
                socket.send_fds(self._channel, [b"."], [descriptor])
                os.close(descriptor)
        return new


def _unsent(fault: Exception) -> InputError:
    return InputError(
        f"process is set, and the shard set cannot be sent to another process ({fault}). Omit it, or open the set by "
        "its path."
    )


def _portable(fault: BaseException) -> BaseException:
    """An exception that pickles. One that is no user's error has a note with its traceback."""
    if not isinstance(fault, InputError) and not is_reported(fault):
        fault.add_note("In the process that makes the batches:\n" + "".join(traceback.format_exception(fault)))
    try:
        pickle.loads(pickle.dumps(fault))
    except Exception:
        return RuntimeError(f"{type(fault).__name__}: {fault}")
    return fault
