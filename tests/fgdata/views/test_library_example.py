"""Runs the README's example of another project's loss on our shards."""

import warnings
from pathlib import Path

import pytest
import torch
from pages import README, python_block


@pytest.mark.slow
def test_lightlys_loss_trains_on_our_shards(drawn_set: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIGHTLY_DID_VERSION_CHECK", "True")  # otherwise it contacts its server
    with warnings.catch_warnings(action="ignore"):  # from its own dependencies
        pytest.importorskip("lightly.loss", reason="lightly is not installed: pip install lightly")
    code = python_block(README, "lightly")
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    assert "shards/cub" in code
    torch.manual_seed(0)
    names: dict = {}
    exec(code.replace("shards/cub", str(drawn_set)).replace("size=224", "size=32").replace("=64)", "=8)"), names)
    assert torch.isfinite(names["loss"])
    assert all(torch.isfinite(p).all() for p in names["encoder"].parameters())
    assert names["encoder"].fc.weight.grad.abs().sum() > 0
