"""Counts the CPU cores that this process may use."""

import os


def available_cores() -> int:
    """-> the cores in this process's affinity mask; on macOS and Windows, all cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
