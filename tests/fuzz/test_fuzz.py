"""A few inputs of every family. More by hand: python -m tests.fuzz --help"""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from .families import FAMILIES

COUNT = 4
"""Inputs of each family in the test suite."""
KNOWN: dict[str, tuple[int, ...]] = {}
"""Seeds below COUNT that break the contract today."""


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_hostile_inputs_end_in_a_result_or_a_refusal(family: str, tmp_path):
    """In a process of its own: the fuzzer forks, which needs a process without threads of torch or OpenCV."""
    words = ["--family", family, "--count", str(COUNT), "--seconds", "300", "--valid"]
    if known := KNOWN.get(family):
        words += ["--skip", *map(str, known)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
