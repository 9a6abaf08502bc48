"""Drawn birds, and a set of them with maps."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from shard_files import hashes

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


SMALL_SHARDS = {"saliency": ("spectral-residual", "gt"), "shard_samples": 5, "keep_maps": True}


@pytest.fixture(scope="session")
def direct(birds, tmp_path_factory) -> dict[str, str]:
    """Hashes of the set that `build_part` builds, as one machine builds it."""
    out = tmp_path_factory.mktemp("direct") / "set"
    build(birds, out, **SMALL_SHARDS)
    return hashes(out)


@pytest.fixture
def build_part(birds, tmp_path):
    """Builds 11 shards, or a part of them."""
    return partial(build, birds, out=tmp_path / "set", **SMALL_SHARDS)
