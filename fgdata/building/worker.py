"""What runs in a worker process of the local engine."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from .. import plugins
from ..datasets import DATASETS
from ..saliency import DETECTORS

_counter: Any = None
_stop: Any = None


class Stopped(Exception):
    """Ends the job of a worker after Ctrl-C. Not an InputError: no job handles it."""


def start_worker(counter: Any, stop: Any) -> None:
    """Prepares this process. counter: of all images done. stop: nonzero once jobs must end after the current image."""
    global _counter, _stop
    _counter, _stop = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    prepare_libraries()


def prepare_libraries() -> None:
    """In every worker: OpenCV uses one thread, decoders print nothing, and plug-ins are loaded."""
    import cv2

    from ..images import silence_decoders

    cv2.setNumThreads(1)
    silence_decoders()
    load_plugins()


def load_plugins() -> None:
    """Gives this process the datasets and detectors of the plug-ins of the process that started it."""
    plugins.load_in_worker({"DATASETS": DATASETS, "DETECTORS": DETECTORS})


def call(function: Callable, job: Any) -> Any:
    """-> function(job, advance). Raises Stopped after the current image if the parent requests it."""
    _count(0)
    return function(job, _count)


def _count(images: int) -> None:
    with _counter.get_lock():
        _counter.value += images
    if _stop.value:
        raise Stopped


def _exit_with_parent() -> None:
    """Ends this worker when its parent dies, so no orphaned workers compete with a new build."""
    import multiprocessing
    from multiprocessing.connection import wait as wait_for

    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
