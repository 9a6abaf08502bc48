"""The Ray engine."""

from dataclasses import replace
from pathlib import Path

import pytest
from shard_files import hashes

from fgdata.building.build import build
from fgdata.datasets import Record, read
from fgdata.errors import InputError


def test_ray_writes_the_same_bytes(drawn_set, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}  # the workers must find this file's functions
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=here)
    try:
        birds = read("drawn", classes=4, images_per_class=12, size=96)
        settings = {"saliency": ("spectral-residual", "gt"), "shard_samples": 12, "engine": "ray"}
        build(birds, tmp_path / "ray", **settings)
        assert hashes(tmp_path / "ray") == hashes(drawn_set)
        with pytest.raises(InputError, match=r"^\S+ is cursed$"):
            build(replace(birds, load=cursed), tmp_path / "bad", **settings)
    finally:
        ray.shutdown()


def cursed(record: Record):
    raise InputError(f"{record.file} is cursed")
