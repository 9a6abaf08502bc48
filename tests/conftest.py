"""Fixtures shared by the tests of several modules: real images, if present, and a small drawn shard set."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite runs in as many processes as there are cores

import pytest
from hub_server import TOKEN, Hub, serving_hub
from paths import REAL_DATA

from fgdata.building.build import build
from fgdata.building.engine import run_jobs
from fgdata.datasets import read

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: `make test` hands out files in this order, and no process idles at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images. Skips the test, naming the folder, if it does not exist."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no folder {REAL_DATA} with real images (set FGDATA_REAL_DATA)")
    return REAL_DATA


@pytest.fixture(scope="session", autouse=True)
def one_worker_is_this_process() -> Iterator[None]:
    """Builds and rewrites by one worker run in this process: a worker process takes a second to start."""

    def run(function: Callable, jobs: Iterable, *, workers: int, engine: str, **rest: Any) -> Iterable[Any]:
        alone = workers == 1 and engine == "local"
        return map(function, jobs) if alone else run_jobs(function, jobs, workers=workers, engine=engine, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fgdata.building.build.run_jobs", run)
        patch.setattr("fgdata.building.rewrite.run_jobs", run)
        yield


@pytest.fixture(scope="session")
def drawn_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 train and 16 test drawn birds of 4 classes at 96 px with boxes by spectral-residual and gt. Read only."""
    out = tmp_path_factory.mktemp("shards") / "drawn"
    birds = read("drawn", classes=4, images_per_class=12, size=96)
    build(birds, out, saliency=("spectral-residual", "gt"), shard_samples=12, workers=2)
    return out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub that huggingface_hub and timm use, with a cache of its own."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    with serving_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        template = served.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by Git LFS
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        original = huggingface_hub.HfApi
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: original(endpoint=served.address))
        yield served
