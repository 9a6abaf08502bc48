"""Brings batches to the loader's device, and finishes 8-bit ones there.

On a GPU both happen in a stream of their own, beside the training step that uses the batch before.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Tensor]


class Delivery:
    """Turns the futures of a backend into batches on a device."""

    def __init__(self, device: torch.device, finish: Callable[[Batch], Batch] | None):
        """finish: an 8-bit batch -> the finished one; None if batches are handed over as the backend makes them."""
        self._device, self._finish = device, finish
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._started: tuple[Future, Batch, Any] | None = (
            None  # the batch being delivered, and the event of its arrival
        )

    def start(self, future: Future) -> None:
        """Starts to deliver a batch if it is complete, without waiting. `take` reports a failed one."""
        if self._stream is not None and future.done() and not future.cancelled() and future.exception() is None:
            self._started = self._deliver(future)

    def take(self, future: Future) -> Batch:
        """Waits until a batch is complete -> its tensors, for use in the current stream."""
        started, self._started = self._started, None
        if started is None or started[0] is not future:
            started = self._deliver(future)
        _, batch, there = started
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(there)
            for tensor in batch.values():
                tensor.record_stream(current)  # its memory must outlive the work that the caller queues
        return batch

    def _deliver(self, future: Future) -> tuple[Future, Batch, Any]:
        tensors = future.result()
        with torch.cuda.stream(self._stream):
            batch = {name: tensor.to(self._device, non_blocking=True) for name, tensor in tensors.items()}
            batch = self._finish(batch) if self._finish else batch
        return future, batch, self._stream.record_event() if self._stream else None
