"""tools/gpu_check.py on a machine without a GPU: the same comparisons on the CPU, and what it says of each outcome."""

import sys
from pathlib import Path

import pytest
import torch
from paths import TOOLS

sys.path.insert(0, str(TOOLS))
import golden
import gpu_check
import gpu_paths
from gpu_paths import Found, Missing

sys.path.remove(str(TOOLS))


def fake(result):
    def path(*_):
        if isinstance(result, Exception):
            raise result
        return result

    return path


def outcome(monkeypatch: pytest.MonkeyPatch, capsys, *results, device: str = "cpu") -> tuple[int, str]:
    monkeypatch.setattr(gpu_check, "PATHS", {f"path {i}": fake(result) for i, result in enumerate(results)})
    monkeypatch.setattr(gpu_check, "build", lambda *_, **__: None)
    return gpu_check.main(["--device", device]), capsys.readouterr().out


def test_every_row_has_its_result_and_the_worst_one_decides_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys):
    good, bad = Found(0.25, 0.5, 1234.4, 0.031, "levels"), Found(float("nan"), 0.5)
    code, text = outcome(monkeypatch, capsys, good)
    assert code == 0
    assert "| path 0 | passed | 0.25 | 0.5 | 1,234 | 3.1% | levels |" in text
    code, text = outcome(monkeypatch, capsys, good, Missing("no DALI | here"))
    assert code == 2
    assert "| path 1 | missing |  |  |  |  | no DALI / here |" in text
    code, text = outcome(monkeypatch, capsys, bad, RuntimeError("CUDA error: out of\nmemory"), good, Missing("none"))
    assert code == 1, "not a number is no agreement"
    assert text.count("FAILED") == 2
    assert "RuntimeError: CUDA error: out of |" in text
    assert "| path 2 | passed" in text, "a failure does not stop the others"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_every_row_is_missing(capsys):
    assert gpu_check.main([]) == 2
    text = capsys.readouterr().out
    assert text.count("| missing |") == len(gpu_check.PATHS)
    assert "--device cuda is not available" in text
    assert gpu_check.main(["--only", "no such row"]) == 2
    assert "allowed: views by threads" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["DALI, SaliencySwap", "one process of NCCL"])
def test_a_comparison_holds_on_the_cpu(name: str, drawn_set: Path):
    """The cheap ones; `pytest -m long` runs all, as `python tools/gpu_check.py --device cpu` does."""
    if name.startswith("DALI"):
        pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    row = gpu_check.check(name, gpu_paths.PATHS[name], torch.device("cpu"), gpu_paths.DRY, drawn_set)
    assert row.status == "passed", row.note


@pytest.mark.long
def test_all_comparisons_hold_on_the_cpu(capsys):
    assert gpu_check.main(["--device", "cpu"]) == 2
    text = capsys.readouterr().out
    assert text.count("| passed |") == len(gpu_check.PATHS) - 1, text


def test_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """A curve that is computed with another slope of ReLU is not the golden one."""
    monkeypatch.setattr(golden, "STEPS", 2)
    monkeypatch.setattr(golden, "read", lambda name, read=golden.read: read(name)[:2])
    place, scale = torch.device("cpu"), gpu_paths.DRY
    good = gpu_paths.curves(place, scale, None)  # type: ignore[arg-type]
    assert good.difference <= good.allowed
    relu = torch.nn.functional.relu
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x, inplace=False: relu(x) + 1e-3 * x)
    bad = gpu_paths.curves(place, scale, None)  # type: ignore[arg-type]
    assert bad.difference > bad.allowed


def test_the_random_methods_are_those_that_draw():
    assert {*gpu_paths.CURVES, *gpu_paths.RANDOM} == {*golden.NAMES}
