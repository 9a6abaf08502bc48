"""Counts the CPU cores and the memory that this process may use, and names the processor."""

import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    # For glibc: freed memory is kept for the next image. Otherwise the kernel clears a thousand fresh pages per image,
    # which takes an eighth of a worker's time and makes workers wait for each other.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
"""Environment of a worker process: libraries use one thread, and freed memory is kept for reuse."""


def available_cores() -> int:
    """-> the cores that this process may use, at least 1.

    Those in its affinity mask (on macOS and Windows, all cores of the machine), or fewer if a CPU quota of its control
    groups allows less: `--cpus` of a container, `limits` of a pod. A part of a core counts as one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas())]))


def share_of_cores(processes: int) -> int:
    """Cores for one of several processes, at least 1: the available ones, divided by those on this machine.

    processes: how many there are on all machines. LOCAL_WORLD_SIZE, which torchrun sets, is the number on this one;
    if it is not set, the result is all available cores.
    """
    return max(1, available_cores() // processes_here(processes))


def processes_here(processes: int) -> int:
    """Of several processes, those on this machine, at least 1: LOCAL_WORLD_SIZE, which torchrun sets; 1 without it."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(local) if processes > 1 and local.isdecimal() and len(local) < 10 else 1)


def memory_limit() -> int:
    """Bytes of memory of the machine, or fewer in a container or under `ulimit -v`."""
    return min(_limits())


def free_memory() -> int:
    """Bytes that this process may still use: of its limit, less its own memory, and of what the machine has free."""
    free = memory_limit()
    with suppress(OSError, ValueError, IndexError):
        free -= int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = min(free, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    return max(0, free)


def machine() -> dict[str, Any]:
    """Processor, usable cores and system, but not the host name: {"cpu": "AMD EPYC", "cores": 2, "system": "Linux"}."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.machine()
    return {"cpu": name, "cores": available_cores(), "system": platform.system()}


def _limits() -> Iterator[int]:
    """Every limit in bytes that the system states: of the machine, of this process, of its control groups."""
    yield sys.maxsize
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            yield soft
    for group in _control_groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # versions 2 and 1
            with suppress(OSError, ValueError):  # absent, or "max"
                yield int((group / name).read_text())


def _quotas() -> Iterator[float]:
    """Every CPU quota of this process's control groups, in cores: CPU time per period / period."""
    for group in _control_groups("cpu"):
        with suppress(OSError, ValueError):  # absent, or "max 100000"
            quota, period = map(int, (group / "cpu.max").read_text().split())  # version 2
            yield quota / period
        with suppress(OSError, ValueError):
            quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            if quota > 0:  # -1: none
                yield quota / period


def _control_groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups and of those above them, of version 2 and of the version 1 of a
    controller. Some may not exist: a container sees its own group as the root, beside the path that it has outside."""
    lines = []
    with suppress(OSError):
        lines = OWN_CGROUP.read_text().splitlines()  # number:controllers:path, of cgroups(7)
    for line in ["0::/", f"1:{controller}:/", *lines]:
        names, _, path = line.partition(":")[2].partition(":")
        if not names or controller in names.split(","):
            top = CGROUPS / names
            group = top / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))
