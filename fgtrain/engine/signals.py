"""Stop signals of a training: what the first one does, and what a second one does."""

import os
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import Trainer

STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP") if hasattr(signal, name)]
NOTICE = b"\nStopping after this step, with a checkpoint. Press Ctrl-C again to stop at once, without one.\n"
ONE_PRESS = 0.5
"""Seconds within which a second Ctrl-C counts as the first: a wrapper passes on what the terminal has sent already."""


class StopSignals:
    """From `catch` until the block ends, a stop signal makes the trainer write a checkpoint at its next step and stop.

    SIGTERM, SIGUSR1 and SIGHUP (a closed terminal; ignored under nohup) may come any number of times: schedulers send
    them twice, launchers pass them on once more. Only SIGKILL ends the run without its checkpoint.

    SIGINT (Ctrl-C) is a person's. A second one, after more than ONE_PRESS seconds, raises KeyboardInterrupt at once:
    the last complete checkpoint stays. Under torchrun it has no effect, since each process may get the same Ctrl-C from
    the terminal and from torchrun.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._pressed: float | None = None

    def catch(self, trainer: "Trainer") -> None:
        """Installs the handlers."""
        self._trainer = trainer
        for number in STOPS:
            if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)

    def __enter__(self) -> "StopSignals":
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._trainer.signalled = True
        if number != signal.SIGINT:
            return
        now, self._trainer.interrupted = time.monotonic(), True
        if self._pressed is None:
            self._pressed = now
            if self._trainer.world == 1:
                with suppress(OSError):  # not by print, which may have been interrupted
                    os.write(2, NOTICE)
        elif self._trainer.world == 1 and now - self._pressed > ONE_PRESS:
            raise KeyboardInterrupt
