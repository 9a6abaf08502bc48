"""The loss curve of every method matches the golden file. To rewrite the files after an intended change: python
tools/golden.py"""

import sys

import pytest
import torch
from paths import TOOLS

sys.path.insert(0, str(TOOLS))
import golden

sys.path.remove(str(TOOLS))

TOLERANCE = 1e-6
"""Everything is float64, and the files have nine decimals. With other vector instructions
(ATEN_CPU_CAPABILITY=default, ONEDNN_MAX_CPU_ISA=AVX2) the curves differed by less than 5e-9, synth-pair by 6e-8."""


@pytest.mark.parametrize("name", golden.NAMES)
def test_loss_curve(name: str):
    torch.testing.assert_close(golden.curve(name), golden.read(name), rtol=0, atol=TOLERANCE)


def test_every_golden_file_belongs_to_a_method():
    assert {file.stem for file in golden.GOLDEN.glob("*.txt")} == set(golden.NAMES)
