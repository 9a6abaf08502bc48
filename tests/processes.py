"""Two processes of a training, forked from one that has imported torch: every import of torch takes seconds."""

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch.multiprocessing import start_processes

multiprocessing.set_forkserver_preload(["fgtrain.engine.lifecycle"])


def run_two(function: Callable[..., None], *arguments: Any) -> None:
    """Calls function(rank, *arguments) in two processes. Raises what one of them raises."""
    start_processes(function, arguments, nprocs=2, start_method="forkserver")
