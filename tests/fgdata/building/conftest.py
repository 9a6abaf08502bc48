"""Drawn birds, and a set of them with maps."""

import shutil
from pathlib import Path

import pytest

from fgdata.building.build import build
from fgdata.datasets import read


@pytest.fixture(scope="session")
def birds():
    return read("drawn", classes=4, images_per_class=12, size=96)


@pytest.fixture(scope="session")
def kept(birds, tmp_path_factory) -> Path:
    """drawn_set with its maps. Read only."""
    out = tmp_path_factory.mktemp("kept") / "set"
    build(birds, out, saliency=("spectral-residual", "gt"), shard_samples=12, keep_maps=True)
    return out


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "set"))
