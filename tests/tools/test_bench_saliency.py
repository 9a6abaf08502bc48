"""tools/bench.py saliency: figures compared with naive loops, and the command on a few images."""

import json
import subprocess
import sys

import numpy as np
import pytest
from paths import TOOLS


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(TOOLS))
    import bench_saliency

    yield bench_saliency
    sys.path.remove(str(TOOLS))


def test_precision_and_recall_at_every_threshold(bench):
    rng = np.random.default_rng(0)
    mask = rng.random((20, 30)) < 0.3
    saliency = np.clip(mask * 0.4 + rng.random((20, 30)) * 0.6, 0, 1).astype(np.float32)
    precision, recall = bench.precision_recall(saliency, mask)
    levels = np.round(saliency * 255)
    for threshold in (0, 1, 77, 128, 200, 255):
        selected = levels >= threshold
        assert recall[threshold] == pytest.approx((selected & mask).sum() / mask.sum())
        expected = (selected & mask).sum() / selected.sum() if selected.any() else 1
        assert precision[threshold] == pytest.approx(expected)
    best = max(1.3 * p * r / (0.3 * p + r) for p, r in zip(precision, recall) if p + r > 0)
    assert bench.f_measure(precision, recall).max() == pytest.approx(best)


@pytest.mark.slow
def test_the_command_writes_its_table(real_data, tmp_path):
    file = tmp_path / "figures.json"
    flags = ["--detectors", "spectral-residual", "--tau", "0.5", "--limit", "3", "--workers", "1", "--json", str(file)]
    command = [sys.executable, str(TOOLS / "bench.py"), "saliency", "--data", str(real_data), *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cub50" in result.stdout
    content = json.loads(file.read_text())
    rows = content["figures"]
    assert {row["objective"] for row in rows} == {"max-excess tau 0.7", "max-excess tau 0.5", "max-mean k 2", None}
    assert [row["n"] for row in rows] == [3] * 15  # three datasets, each with three objectives and two baselines
    assert all((row["mae"] is None) == (row["dataset"] == "cub50" or not row["objective"]) for row in rows)
    assert str(tmp_path) not in content["command"]


def test_files_are_found_in_the_folder_of_models_and_others_left_out(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FGDATA_MODELS", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "w.pth").touch()
    assert bench._with_path("scda:w.pth,backbone=b") == f"scda:{tmp_path}/w.pth,backbone=b"
    assert bench._with_path("rbd") == "rbd"
    assert bench._is_available(f"scda:{tmp_path}/w.pth,backbone=b")
    assert bench._is_available("rbd")
    assert not bench._is_available("tokencut:gone.pth,backbone=b")
    assert not bench._is_available("u2netp")
    printed = capsys.readouterr().err
    assert "gone.pth does not exist, nor in" in printed
    assert "u2netp is left out" in printed
    assert bench.TRAINED_ON[bench.component(bench.SCDA)] == "classes of ImageNet"
