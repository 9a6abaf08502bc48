"""Runs the jobs of a build on a Ray cluster whose machines share the file system."""

import importlib.util
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..cores import ENVIRONMENT
from ..errors import InputError, describe, warn
from ..plugins import VARIABLE
from ..saliency import own_settings
from . import cluster_look
from .cluster_server import Servers, Shared, use_servers
from .worker import prepare_libraries

RETRIES = 3
"""Times that a shard is started again after its worker or its node died."""
AHEAD = 2
"""Jobs submitted per CPU of the cluster: one that runs, and the next."""
IDLE_SECONDS = 120.0
"""How long the cluster may have no CPU before the build stops."""
_LISTED = 10


def run_on_ray(
    function: Callable, jobs: list, advance: Callable[[int], None], address: str | None = None
) -> Iterator[Any]:
    """Yields function(job, advance) for every job; see `run_jobs`.

    address: of an existing cluster, auto or HOST:PORT. Default: that of RAY_ADDRESS, else a
    cluster of this machine is started. Jobs run in this process's working folder, so relative paths mean the same
    there. Before the first job, every node must see the folder of the set, the dataset and the detectors' files
    (cluster_look.py).
    A job whose worker died RETRIES + 1 times is skipped, and listed at the end in an InputError, once the others are
    done. If this ends early, running tasks are cancelled and awaited, so that none writes to the folder after its lock
    is released.
    """
    ray = _connect(address)

    from ..saliency import learned  # imports OpenCV

    environment = ENVIRONMENT | {
        VARIABLE: os.environ.get(VARIABLE, ""),
        learned.VARIABLE: str(learned.folder().absolute()),
    }
    folder = os.getcwd()
    with Servers(ray, jobs[0].recipe.saliency, folder, environment) as servers:
        servers.start()
        _look(ray, _with_readable_record(jobs), folder, servers)
        yield from _run(ray, function, jobs, advance, folder, servers)


def _run(
    ray: Any, function: Callable, jobs: list, advance: Callable[[int], None], folder: str, servers: Servers
) -> Iterator[Any]:
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    options = {"num_cpus": 1, "max_retries": RETRIES, "runtime_env": {"env_vars": servers.environment}}
    remote, failed = ray.remote(**options)(_call), []
    todo, waiting, alive = iter(jobs), {}, time.monotonic()
    try:
        while True:
            try:
                servers.start()
                cores = int(ray.cluster_resources().get("CPU", 0))
                while len(waiting) < AHEAD * max(cores, 1) and (job := next(todo, None)) is not None:
                    waiting[remote.remote(function, job, folder, servers.shared)] = job
                if not waiting:
                    break
                done, _ = ray.wait(list(waiting), timeout=5.0)
            except (RayError, ConnectionError) as fault:
                raise InputError(
                    f"The Ray cluster is gone ({_first_line(fault)}). Finished shards are kept: rerun the command."
                ) from None
            alive = time.monotonic() if cores or done else alive
            if time.monotonic() - alive > IDLE_SECONDS:
                raise InputError(
                    f"The Ray cluster has had no CPU for {IDLE_SECONDS:.0f} s: all its nodes are gone. Finished shards "
                    "are kept: rerun the command when there are nodes."
                )
            for reference in done:
                job = waiting.pop(reference)
                try:
                    result = ray.get(reference)
                except TaskCancelledError:
                    raise InputError(
                        "A task was cancelled on the Ray cluster. Finished shards are kept: rerun the command."
                    ) from None
                except RayTaskError as fault:
                    raise fault.cause from None  # Ray's own message is the worker's traceback
                except RayError as fault:
                    failed.append((job.name, _first_line(fault)))
                    warn(f"{job.name}: its Ray worker died {RETRIES + 1} times ({failed[-1][1]}). Continuing.")
                else:
                    advance(len(job.records))
                    yield result
    except KeyboardInterrupt:
        warn("\nStopping the tasks on Ray. Press Ctrl-C again to stop at once.")
        raise
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=IDLE_SECONDS)
    if failed:
        names = [name for name, _ in failed]
        more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
        raise InputError(
            f"{len(names):,} of {len(jobs):,} shards are missing, since their Ray workers died: "
            f"{', '.join(names[:_LISTED])}{more} ({failed[0][1]}), perhaps because memory ran out. The "
            "other shards are kept: rerun the command."
        )


def _connect(address: str | None) -> Any:
    """-> the module ray, connected to a cluster. An existing connection of this process is used as it is."""
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError("--engine ray needs Ray: pip install ray, or use --engine local") from None
    if ray.is_initialized():
        return ray
    packages = [importlib.util.find_spec(name) for name in ("fgdata", "fgtrain")]
    folders = [str(Path(spec.origin).parent) for spec in packages if spec is not None and spec.origin]
    try:
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": folders, "excludes": ["__pycache__"]},
        )
    except (OSError, RuntimeError, ValueError) as fault:
        where = f"--ray-address {address}" if address else "--engine ray"
        raise InputError(
            f"{where}: no cluster available ({_first_line(fault)}). Check the address (--ray-address or RAY_ADDRESS), "
            "or use --engine local"
        ) from None
    return ray


def _look(ray: Any, job: Any, folder: str, servers: Servers) -> None:
    """Raises InputError if a node cannot build: it lists each such node and its first fault."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = Path(job.folder) / f"look.{secrets.token_hex(4)}.part"
    token.touch()
    look = ray.remote(num_cpus=0, max_retries=1, runtime_env={"env_vars": servers.environment})(cluster_look.look)
    try:
        files = [name for name in job.recipe.saliency if not name.startswith("maps:")]  # hashing all maps takes long
        pending, detectors = {}, {name: own_settings(name) for name in files}
        versions = cluster_look.versions()
        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU"):
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = look.options(scheduling_strategy=where)
                name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
                pending[task.remote(job, str(token), folder, versions, detectors, servers.shared)] = name
        done, late = ray.wait(list(pending), num_returns=len(pending), timeout=cluster_look.SECONDS)
        faults = [f"{pending[task]}: no answer within {cluster_look.SECONDS:.0f} s" for task in late]
        for task in done:
            try:
                fault = ray.get(task)
            except ray.exceptions.RayError as error:
                fault = f"the check of this node failed: {_first_line(error)}"
            faults += [f"{pending[task]}: {fault}"] if fault else []
        for task in late:
            ray.cancel(task, force=True)
    finally:
        token.unlink(missing_ok=True)
    if faults:
        raise InputError(
            "\n".join([f"{len(faults)} of {len(pending)} nodes of the Ray cluster cannot build:", *faults])
        )


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]


def _with_readable_record(jobs: list) -> Any:
    """-> the first job, with one record that this machine can read, so a fault on another is a fault of that machine.
    Without records if the first ones are all bad."""
    for record in jobs[0].records[:8]:
        with suppress(InputError, OSError):
            jobs[0].recipe.load(record)
            return replace(jobs[0], records=(record,))
    return replace(jobs[0], records=())


def _call(function: Callable, job: Any, folder: str, shared: Shared) -> Any:
    try:
        os.chdir(folder)
    except OSError as fault:
        raise InputError(
            f"{folder} cannot be opened on the Ray worker {os.uname().nodename}: {describe(fault)}. --engine ray needs "
            "a file system that all machines share."
        ) from None
    prepare_libraries()
    use_servers(shared)
    return function(job, lambda images: None)
