"""Memory on the processor."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed() -> None:
    """From here on this process keeps what it frees, and uses it again.

    glibc hands a large freed block back to the system, so every tensor of every step has its pages zeroed and mapped
    anew: a tenth to a fifth of a step on a CPU. The price is a twentieth more memory. Nothing where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
