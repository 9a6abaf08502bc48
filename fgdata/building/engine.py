"""Runs a function over jobs, in local processes or on a Ray cluster, and yields results as they are ready."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import InputError
from .cluster import run_on_ray
from .local import run_locally

ENGINES = ("local", "ray")


def validate(workers: int, engine: str, ray_address: str | None = None) -> None:
    """Raises InputError if `engine` is not in ENGINES, `workers` is below 1, or an address is given without Ray."""
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: must be one of {', '.join(ENGINES)}.")
    if workers < 1:
        raise InputError(f"--jobs {workers}: must be at least 1.")
    if ray_address is not None and engine != "ray":
        raise InputError(f"--ray-address {ray_address} has an effect only with --engine ray.")


def run_jobs(
    function: Callable,
    jobs: Iterable,
    *,
    workers: int,
    engine: str,
    advance: Callable[[int], None],
    ray_address: str | None = None,
) -> Iterator[Any]:
    """Yields function(job, advance) for every job, in the order in which they finish.

    function: importable by worker processes; it calls its `advance` with the number of images done. jobs: picklable.
    workers: processes of the local engine, at least 1. engine: "local" or "ray". advance: called in this process with
    the number of images done, five times a second by the local engine, once per job by Ray. ray_address: see
    `run_on_ray`, which also states what a job of the engine "ray" must be.
    Libraries use one thread in each worker: small matrices are far slower on several threads, and sums differ.
    Raises InputError if a worker dies, and any exception that `function` raises. After Ctrl-C, raises KeyboardInterrupt
    once every worker has finished its image; a second Ctrl-C kills the workers.
    """
    validate(workers, engine)
    jobs = list(jobs)
    if jobs:
        yield from (
            run_on_ray(function, jobs, advance, ray_address)
            if engine == "ray"
            else run_locally(function, jobs, workers, advance)
        )
