"""Fixtures shared by the tests of several modules: real images, if present, and a small drawn shard set."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite runs in as many processes as there are cores

import pytest
from paths import REAL_DATA

from fgdata.building.build import build
from fgdata.datasets import read

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images. Skips the test, naming the folder, if it does not exist."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no folder {REAL_DATA} with real images (set FGDATA_REAL_DATA)")
    return REAL_DATA


@pytest.fixture(scope="session")
def drawn_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 train and 16 test drawn birds of 4 classes at 96 px with boxes by spectral-residual and gt. Read only."""
    out = tmp_path_factory.mktemp("shards") / "drawn"
    birds = read("drawn", classes=4, images_per_class=12, size=96)
    build(birds, out, saliency=("spectral-residual", "gt"), shard_samples=12, workers=2)
    return out
