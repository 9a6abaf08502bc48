"""Runs jobs on a Ray cluster whose machines share the file system."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import InputError, describe, warn
from ..plugins import VARIABLE
from .worker import ENVIRONMENT, prepare_libraries

RETRIES = 3
"""Times that a shard is started again after its worker died."""


def run_on_ray(function: Callable, jobs: list, advance: Callable[[int], None]) -> Iterator[Any]:
    """Yields function(job, advance) for every job; see `run_jobs`. Uses the cluster of RAY_ADDRESS, or starts one.

    Jobs run in this process's working folder, so relative paths mean the same there. If it ends early, running
    tasks are cancelled and awaited, so that none writes to the folder after its lock is released.
    """
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install ray, or use --engine local") from None
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as fault:
            raise InputError(
                f"--engine ray: no cluster available ({fault}). Check RAY_ADDRESS, or use --engine local"
            ) from None
    environment = ENVIRONMENT | {VARIABLE: os.environ.get(VARIABLE, "")}
    remote = ray.remote(num_cpus=1, max_retries=RETRIES, runtime_env={"env_vars": environment})(_call)
    folder = os.getcwd()
    waiting = {remote.remote(function, job, folder): job for job in jobs}
    try:
        while waiting:
            done, _ = ray.wait(list(waiting))
            for reference in done:
                job = waiting.pop(reference)
                try:
                    result = ray.get(reference)
                except RayTaskError as fault:
                    raise fault.cause from None  # Ray's own message is the worker's traceback
                except RayError as fault:
                    lines = str(fault).strip().splitlines() or [type(fault).__name__]
                    raise InputError(
                        f"A Ray worker died ({lines[0]}), perhaps because memory ran out. Finished shards are kept: "
                        "rerun the command."
                    ) from None
                advance(len(job.records))
                yield result
    except KeyboardInterrupt:
        warn("\nStopping the tasks on Ray. Press Ctrl-C again to stop at once.")
        raise
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting))


def _call(function: Callable, job: Any, folder: str) -> Any:
    try:
        os.chdir(folder)
    except OSError as fault:
        raise InputError(
            f"{folder} cannot be opened on the Ray worker {os.uname().nodename}: {describe(fault)}. --engine ray needs "
            "a file system that all machines share."
        ) from None
    prepare_libraries()
    return function(job, lambda images: None)
