"""On every node of a Ray cluster, one process opens a network among the detectors for several workers (`sharers`).

A network is then in memory once for these workers instead of in each. Their calls run at the same time, each on one
thread, so as many images are in progress as with a network in each worker, and the maps have the same bytes.
If such a process dies, Ray starts it again, RESTARTS times; a worker that gets no answer opens a network of its own. A
node without the detector's files gets copies of them, and only these processes write them.
"""

import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..saliency import DETECTORS, copies, detector, find_row, lend, open_once, own_files
from .worker import prepare_libraries

RESTARTS = 3
"""Times that a process is started again."""
NEW_NODE_SECONDS = 15.0
"""How long a worker waits for the process of its node, which has perhaps joined the cluster just now."""
_ATTRIBUTES = ("SETTINGS", "TAU", "LEAST_SIDE")


@dataclass(frozen=True)
class Shared:
    """What a worker needs to find the processes of its node."""

    token: str
    """Of the build, for the names of its processes."""
    names: tuple[str, ...]
    """Detectors."""
    files: Mapping[str, tuple[copies.Files, Mapping[str, Any]]] = field(default_factory=dict)
    """Of those that have files: these, and Ray's references to their contents by name."""


NOTHING = Shared("", ())


class Server:
    """Runs in the process. Its methods are called from several threads.

    folder: the working folder. name: of the detector. processes: how many there are on this node for the detector.
    """

    def __init__(self, folder: str, name: str, processes: int) -> None:
        os.chdir(folder)
        prepare_libraries()
        self._name, self._processes = name, processes
        self._opening, self._detector = threading.Lock(), None

    def describe(self, shared: Shared) -> dict[str, Any]:
        """-> the attributes of the detector, and the number of processes. Copies its files to this node if needed."""
        opened = self._open(shared)
        found = {key: getattr(opened, key) for key in _ATTRIBUTES if hasattr(opened, key)}
        return {"processes": self._processes, **found}

    def saliency_map(self, rgb: Any) -> Any:
        """See `Detector`."""
        return self._open().saliency_map(rgb)

    def _open(self, shared: Shared = NOTHING) -> Any:
        import ray

        with self._opening:
            if self._detector is None:
                if self._name in shared.files:
                    files, contents = shared.files[self._name]
                    copies.receive(files, lambda part: ray.get(contents[part]))
                self._detector = detector(self._name)
            return self._detector


class Served:
    """A detector that runs in a process of this node."""

    def __init__(self, name: str, server: Any, attributes: dict[str, Any]) -> None:
        self._name, self._server = name, server
        for key, value in attributes.items():
            setattr(self, key, value)

    def saliency_map(self, rgb: Any) -> Any:
        """See `Detector`."""
        from ray.exceptions import RayError, TaskCancelledError

        try:
            return _answer(self._server.saliency_map.remote(rgb)).copy()  # arrays from Ray are read-only
        except TaskCancelledError:
            raise
        except RayError:
            return open_once(self._name).saliency_map(rgb)


class Servers:
    """The processes of a build. The command creates it and calls `start`; they end on exit.

    environment: of workers. names: the detectors of the build. folder: the working folder.
    """

    def __init__(self, ray: Any, names: Sequence[str], folder: str, environment: dict[str, str]) -> None:
        shared, all_files = tuple(name for name in names if DETECTORS[find_row(name)].sharers > 1), {}
        for name in shared:
            path, parts = own_files(name)
            if parts:
                files, contents = copies.read(path, parts)
                all_files[name] = files, {part: ray.put(data) for part, data in contents.items()}
        self.shared = Shared(secrets.token_hex(4), shared, all_files)
        self._ray, self._folder, self._actors = ray, folder, {}
        self.environment = environment | copies.as_variable(files for files, _ in all_files.values())
        options = {"num_cpus": 0, "max_restarts": RESTARTS, "runtime_env": {"env_vars": self.environment}}
        self._class = ray.remote(**options)(Server)

    def start(self) -> None:
        """Starts those of each node that has none."""
        for node in self._ray.nodes() if self.shared.names else ():
            key, cores = node["NodeID"], int(node["Resources"].get("CPU", 0))
            if node["Alive"] and cores and key not in self._actors:
                self._actors[key] = [actor for name in self.shared.names for actor in self._start(key, cores, name)]

    def _start(self, node: str, cores: int, name: str) -> Iterator[Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        processes = -(-cores // DETECTORS[find_row(name)].sharers)
        for number in range(processes):
            options = {"name": _actor(self.shared, node, name, number), "max_concurrency": cores}
            where = NodeAffinitySchedulingStrategy(node, soft=False)
            actor = self._class.options(scheduling_strategy=where, **options)
            yield actor.remote(self._folder, name, processes)

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_: object) -> None:
        for actors in self._actors.values():
            for actor in actors:
                with suppress(Exception):  # the cluster may be gone
                    self._ray.kill(actor)


def use_servers(shared: Shared) -> None:
    """In a worker: shared detectors are those of its node's processes, if it has them."""
    if not shared.names:
        return
    import ray
    from ray.exceptions import RayError

    node = ray.get_runtime_context().get_node_id()
    for name in shared.names:
        lend(name, None)
        with suppress(ValueError, RayError):  # without one, the worker opens the detector
            server = _wait_for(_actor(shared, node, name, 0))
            attributes = _answer(server.describe.remote(shared))
            if number := os.getpid() % attributes.pop("processes"):
                server = ray.get_actor(_actor(shared, node, name, number))
            lend(name, Served(name, server, attributes))


def _wait_for(actor: str) -> Any:
    import ray

    last = time.monotonic() + NEW_NODE_SECONDS
    while True:
        try:
            return ray.get_actor(actor)
        except ValueError:
            if time.monotonic() > last:
                raise
            time.sleep(0.2)


def _actor(shared: Shared, node: str, name: str, number: int) -> str:
    return f"fgdata.{shared.token}.{node}.{number}.{name}"


def _answer(reference: Any) -> Any:
    """The result of a call, or the exception that it raised.

    Unlike `ray.get`, waiting for a future keeps the worker's CPU, so Ray starts no other task on it meanwhile.
    """
    from ray.exceptions import RayTaskError

    try:
        return reference.future().result()
    except RayTaskError as fault:
        raise fault.cause from None
