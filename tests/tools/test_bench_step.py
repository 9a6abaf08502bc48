"""tools/bench.py step: counted operations compared with a count by hand, and the list of cases."""

import json
import sys

import pytest
import torch
from paths import ROOT, TOOLS
from torch import nn

from fgdata.errors import InputError

sys.path.insert(0, str(TOOLS))
import bench_step
import bench_step_cases
import bench_step_table

sys.path.remove(str(TOOLS))

DOCS = ROOT / "docs"


def test_counted_operations_of_two_layers():
    """Forward, gradient of the weights, and gradient of the input, which the first layer does not compute."""
    conv, linear = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, 6, bias=False)
    x = torch.randn(2, 3, 5, 5)

    def run() -> None:
        linear(conv(x).mean((2, 3))).sum().backward()

    convolution, product = 2 * (2 * 5 * 5) * 4 * 3 * 9, 2 * 2 * 4 * 6
    assert bench_step.counted(run) * 1e9 == 2 * convolution + 3 * product


def test_every_base_is_a_case_and_comes_first():
    names = list(bench_step_cases.cases())
    for name, case in bench_step_cases.cases().items():
        assert case.base is None or names.index(case.base) < names.index(name)


COUNTED = {  # before the methods were built, from their definitions
    "moco-sinkhorn": 1.0,
    "supervised": 0.75,
    "rotation": 3.0,
    "looc": 1.25,
    "lcr": 1.01,
    "lcr-byol": 1.01,
    "sam": 1.01,
    "lewel": 1.29,
    "dino": 3.1,
    "foreground": 1.5,
    "insloc": 1.0,
    "papn": 4.0,
    "contrastive-crop-own, finding boxes": 0.25,
}


def test_counted_passes_of_a_resnet50_at_224_px():
    cases = bench_step_cases.cases(224)
    forward = {224: 2 * 4.089, 96: 2 * 4.089 * (96 / 224) ** 2}  # GFLOP of ResNet-50, He et al. 2016

    def gflop(name: str) -> float:
        case = cases[name]
        return sum(passes * forward[side] for side, passes in case.passes.items()) + case.heads(2048, 224)

    for name, expected in COUNTED.items():
        assert gflop(name) / gflop(cases[name].base or "") == pytest.approx(expected, abs=0.006), name


def test_a_row_has_the_counted_ratio_beside_the_measured_one(tmp_path):
    """Forward passes by the counter: 5 of them for looc and 4 for moco, whatever the network costs."""
    file, page = tmp_path / "step.json", tmp_path / "page.md"
    page.write_text("Text.\n\n<!-- tools/bench.py step -->\nold\n<!-- end -->\n")
    bench_step.step(("looc",), size=32, batch_size=2, rounds=1, threads=1, json=file, page=page)
    moco, looc = json.loads(file.read_text())["figures"]
    assert (moco["counted"], moco["of_counted"]) == (None, None)
    assert looc["counted"] == pytest.approx(1.25)
    assert looc["of_counted"] == pytest.approx(looc["ratio"] / 1.25)
    text = page.read_text()
    assert f"| {looc['gflop_ratio']:.2f} | 1.25 | {looc['of_counted']:.2f} |\n\n<!-- end -->" in text
    assert text.startswith("Text.\n\n<!-- tools/bench.py step -->\n\n| a step of |")


def test_a_page_without_a_place_for_the_table_is_named(tmp_path):
    (tmp_path / "page.md").write_text("Text.\n")
    with pytest.raises(InputError, match=r"page\.md has no lines <!-- tools/bench\.py step -->"):
        bench_step_table.write_table(tmp_path / "page.md", [])


def test_the_documented_table_is_that_of_the_file():
    figures = json.loads((DOCS / "step.json").read_text())["figures"]
    assert bench_step_table.table(figures) in (DOCS / "training.md").read_text()
