"""fgtrain.engine.memory: freed memory is kept for reuse."""

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="has no effect without glibc")
@pytest.mark.parametrize("mode", ["keep", "leave"])
def test_new_arrays_cause_page_faults_only_without_it(mode: str):
    command = [sys.executable, "-c", PROGRAM, mode]
    faults = list(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))
    first, later = faults[0], faults[1:]
    assert first > 0
    assert all(n < first / 20 for n in later) if mode == "keep" else all(n > first / 20 for n in later)
