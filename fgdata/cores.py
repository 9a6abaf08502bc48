"""Counts the CPU cores that this process may use."""

import os


def available_cores() -> int:
    """-> the cores in this process's affinity mask; on macOS and Windows, all cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores(processes: int) -> int:
    """Cores for one of several processes, at least 1: the available ones, divided by those on this machine.

    processes: how many there are on all machines. LOCAL_WORLD_SIZE, which torchrun sets, is the number on this one;
    if it is not set, the result is all available cores.
    """
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    here = int(local) if processes > 1 and local.isdecimal() and len(local) < 10 else 1
    return max(1, available_cores() // max(1, here))
