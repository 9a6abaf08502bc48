"""Stop signals of training runs and studies: what the first one does, and what a second one does."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP") if hasattr(signal, name)]
PATIENT = [number for number in STOPS if number.name != "SIGINT"]
NOTICE = b"\nStopping after this step, with a checkpoint. Press Ctrl-C again to stop at once, without one.\n"
ONE_PRESS = 0.5
"""Seconds within which a second Ctrl-C counts as the first: a wrapper passes on what the terminal has sent already."""


def is_training(argv: Sequence[str]) -> bool:
    """Whether the arguments of fgtrain are those of `fgtrain run`."""
    words = iter(argv)
    for word in words:
        if word == "--plugin":
            next(words, None)
        elif not word.startswith("--plugin="):
            return word == "run"
    return False


def hold_back() -> None:
    """Delays the signals of PATIENT until `StopSignals.catch`: a run takes seconds to import what handles them."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, PATIENT)


class StopSignals:
    """From `catch` until the block ends, a stop signal is only noted: `came` is true. A run then writes a
    checkpoint at its next step and stops; a study lets each of its runs do so.

    SIGTERM, SIGUSR1 and SIGHUP (a closed terminal; ignored under nohup) may come any number of times: schedulers send
    them twice, launchers pass them on once more. Only SIGKILL ends a run without its checkpoint.

    SIGINT (Ctrl-C) is a person's. A second one, after more than ONE_PRESS seconds, asks to stop `at_once`; the last
    complete checkpoint stays. With `raises`, for a run of one process, the first one prints NOTICE and that second
    one raises KeyboardInterrupt. Under torchrun a second one has no effect, since each process may get the same Ctrl-C
    from the terminal and from torchrun.
    """

    def __init__(self, raises: bool = False) -> None:
        self.raises = raises
        self.came = self.at_once = False
        self._before: dict[int, Any] = {}
        self._pressed: float | None = None

    @property
    def interrupted(self) -> bool:
        """Whether one of the signals was Ctrl-C."""
        return self._pressed is not None

    def catch(self, numbers: Sequence[signal.Signals] = STOPS) -> None:
        """Installs the handlers of some signals; a second call adds others. Before its first step a run catches
        only PATIENT, so that Ctrl-C ends it at once."""
        for number in numbers:
            if number in self._before:
                continue
            if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self.handle)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # those that `hold_back` has delayed come now

    def __enter__(self) -> "StopSignals":
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Notes a signal."""
        self.came = True
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        if self._pressed is None:
            self._pressed = now
            if self.raises:
                with suppress(OSError):  # not by print, which may have been interrupted
                    os.write(2, NOTICE)
        elif now - self._pressed > ONE_PRESS:
            self.at_once = True
            if self.raises:
                raise KeyboardInterrupt
