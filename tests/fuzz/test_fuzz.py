"""A few inputs of every family. More by hand: python -m tests.fuzz --help"""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from .families import FAMILIES

GROUPS = (("shards", "unfinished", "datasets", "images", "models"), ("runs", "checkpoints", "texts"))
"""Families that one process tests: it imports their libraries once."""
COUNT = 2
"""Inputs of each family in the test suite."""


@pytest.mark.slow
@pytest.mark.parametrize("families", GROUPS, ids=" ".join)
def test_hostile_inputs_end_in_a_result_or_a_refusal(families: tuple[str, ...], tmp_path):
    """In a separate process: the fuzzer forks, which needs a process without threads of torch or OpenCV."""
    words = ["--family", *families, "--count", str(COUNT), "--seconds", "300", "--valid"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_family_is_in_a_group():
    assert sorted(name for group in GROUPS for name in group) == sorted(FAMILIES)
