"""Counts the threads that a test starts."""

import threading


class NewThreads:
    """The threads started since it was made. Those of earlier tests do not count: they may end at any time."""

    def __init__(self) -> None:
        self._before = {*threading.enumerate()}

    def __call__(self) -> int:
        return len({*threading.enumerate()} - self._before)
