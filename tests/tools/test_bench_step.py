"""tools/bench.py step: counted operations compared with a count by hand, and the list of cases."""

import sys

import torch
from paths import TOOLS
from torch import nn

sys.path.insert(0, str(TOOLS))
import bench_step

sys.path.remove(str(TOOLS))


def test_counted_operations_of_two_layers():
    """Forward, gradient of the weights, and gradient of the input, which the first layer does not compute."""
    conv, linear = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, 6, bias=False)
    x = torch.randn(2, 3, 5, 5)

    def run() -> None:
        linear(conv(x).mean((2, 3))).sum().backward()

    convolution, product = 2 * (2 * 5 * 5) * 4 * 3 * 9, 2 * 2 * 4 * 6
    assert bench_step.counted(run) * 1e9 == 2 * convolution + 3 * product


def test_every_base_is_a_case_and_comes_first():
    names = list(bench_step.cases())
    for name, (_, base) in bench_step.cases().items():
        assert base is None or names.index(base) < names.index(name)
