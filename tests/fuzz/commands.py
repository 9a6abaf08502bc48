"""The commands in this process, without worker processes: what a worker raises is then seen like anything else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from typing import Any

from fgdata.cli import main as fgdata_main
from fgdata.files import owners


def fgdata(*words: object) -> int:
    """`fgdata WORDS` -> its exit code."""
    run_in_process()
    return fgdata_main([str(word) for word in words])


def fgtrain(*words: object, steps: int = 2) -> int:
    """`fgtrain WORDS` -> its exit code; a training ends after `steps` steps, with 0."""
    from fgtrain.cli import main

    _stop_training_after(steps)
    try:
        return main([str(word) for word in words])
    except StoppedTraining:
        return 0


class StoppedTraining(BaseException):
    """Raised by a training that has run long enough."""


def run_in_process(most: int | None = None) -> None:
    """Replace the build's worker processes by this process; with `most`, the build is killed after that many jobs."""
    from fgdata.building import build, engine, rewrite

    owners.LEASE_SECONDS = 0.2  # a corrupted owner file belongs to nobody

    def run_jobs(function: Callable, jobs: Any, *, advance: Callable[[int], None], **_: Any) -> Iterator[Any]:
        for number, job in enumerate(list(jobs)):
            if number == most:
                raise KeyboardInterrupt
            yield function(job, advance)

    for module in (engine, build, rewrite):
        module.run_jobs = run_jobs  # pyright: ignore[reportAttributeAccessIssue]


def _stop_training_after(steps: int) -> None:
    from fgtrain.engine.trainer import Trainer

    step = getattr(Trainer.train_step, "__wrapped__", Trainer.train_step)

    @wraps(step)
    def counted(self: Trainer, batch: Any) -> Any:
        if self.step >= steps:
            raise StoppedTraining
        return step(self, batch)

    Trainer.train_step = counted


def preload(*modules: str) -> None:
    """Import modules before the fork, so that every input does not pay for it. Unknown ones are passed over."""
    from importlib import import_module

    for module in modules:
        with suppress(ImportError):
            import_module(module)
    sys.stdout.flush()


def compile_search() -> None:
    """Compile or load the search over boxes before the fork."""
    import numpy as np

    from fgdata.boxes.objective import Objective, solve

    for objective in (Objective(tau=1.0), Objective("max-mean", k=1.0)):
        solve(np.eye(8, dtype=np.float32), objective)
