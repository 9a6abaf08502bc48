"""fgtrain.engine.memory: what is freed is used again without asking the system."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from fgtrain.engine.memory import keep_freed

if sys.argv[1] == "keep":
    keep_freed()
for size in 3 * (100 << 20, 60 << 20):  # bytes, freed at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(size, np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is told")
@pytest.mark.parametrize("mode", ["keep", "leave"])
def test_pages_of_freed_arrays_are_faulted_in_again_only_without_it(mode: str):
    command = [sys.executable, "-c", PROGRAM, mode]
    faults = list(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))
    first, later = faults[0], faults[1:]
    assert first > 0
    assert all(n < first / 20 for n in later) if mode == "keep" else all(n > first / 20 for n in later)
