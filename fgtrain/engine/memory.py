"""Settings of the CPU memory allocator."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed() -> None:
    """From now on freed memory is kept for reuse by this process. Has no effect without glibc.

    By default glibc returns large freed blocks to the system, so the pages of every tensor are mapped and zeroed again
    in every step: a tenth to a fifth of a step on a CPU. Keeping them costs a twentieth more memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
