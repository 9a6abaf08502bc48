"""The order in which an epoch visits the samples: a pure function of (seed, epoch), computed ahead of time."""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from .draws import block_permutation, permutation


@dataclass
class Orders:
    """The orders of recent epochs. Thread-safe: the first caller computes an order, others wait for it."""

    seed: int
    samples: int
    shuffle: bool
    tars: tuple[int, ...] = ()
    """Samples of each tar; only for `block`."""
    block: int | None = None
    """Tars whose samples are shuffled together; None: all."""
    _known: dict[int, "Future[np.ndarray]"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, epoch: int) -> np.ndarray:
        """(n,) int64, sample numbers."""
        with self._lock:
            for old in [known for known in self._known if known < epoch - 1]:
                del self._known[old]
            future, missing = self._known.get(epoch), epoch not in self._known
            if future is None:
                future = self._known[epoch] = Future()
        if missing:
            try:
                future.set_result(self._compute(epoch))
            except BaseException as fault:  # too little memory
                with self._lock:
                    self._known.pop(epoch, None)
                future.set_exception(fault)
        return future.result()

    def prepare(self, epoch: int) -> None:
        """Computes an order for later; does not raise."""
        if epoch not in self._known:
            try:
                self.of(epoch)
            except MemoryError:  # raised again when it is needed
                return

    def _compute(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.samples)
        if self.block:
            return block_permutation(self.seed, epoch, self.tars, self.block)
        return permutation(self.seed, epoch, self.samples)
