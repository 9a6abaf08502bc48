"""The Ray engine: the same bytes from a cluster that was started elsewhere, and what a dead worker leaves."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from shard_files import hashes

from fgdata.building.build import build
from fgdata.building.engine import run_jobs
from fgdata.datasets import Dataset, Record, read
from fgdata.errors import InputError
from fgdata.shards.check import check

SETTINGS = {"saliency": ("spectral-residual", "gt"), "shard_samples": 12, "engine": "ray"}


@pytest.fixture(scope="module")
def cluster():
    """A worker whose working folder is not that of the test."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        paths = Path(__file__).parent, *(Path(path) for path in sys.path if path)
        here = {"env_vars": {"PYTHONPATH": os.pathsep.join(map(str, paths))}}  # workers find this file's functions
        ray.init(
            "local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=here
        )
        yield
        ray.shutdown()


def load(record: Record):
    return Path("images", record.file).read_bytes(), ()


def refuse(record: Record):
    raise InputError(f"{record.file} is refused")


def die_once(record: Record):
    """Kills the worker while it writes its second image, the first time; the killed worker leaves a .part."""
    if record.id == "1" and not Path("died").exists():
        Path("died").touch()
        os._exit(1)
    return load(record)


def die(job, advance):
    os._exit(1)


@pytest.fixture
def data(tmp_path, monkeypatch) -> Dataset:
    """Images that are named relative to the working folder."""
    birds = read("drawn", classes=2, images_per_class=4, size=64)
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    records = []
    for number, record in enumerate(birds.records):
        Path("images", f"{number}.jpg").write_bytes(birds.load(record)[0])
        records.append(Record(str(number), f"{number}.jpg", 0, "bird", "train", ()))
    return Dataset("files", ("bird",), tuple(records), load)


def test_ray_writes_the_same_bytes(cluster, drawn_set, tmp_path):
    birds = read("drawn", classes=4, images_per_class=12, size=96)
    build(birds, tmp_path / "ray", **SETTINGS)
    assert hashes(tmp_path / "ray") == hashes(drawn_set)
    with pytest.raises(InputError, match=r"^\S+ is refused$"):
        build(replace(birds, load=refuse), tmp_path / "bad", **SETTINGS)


def test_relative_paths_are_those_of_the_caller(cluster, data):
    done = build(data, Path("shards/set"), saliency=("spectral-residual",), shard_samples=4, engine="ray")
    assert done.written == 8
    assert check(Path("shards/set"))[1] == []


def test_a_lost_worker_is_replaced_and_leaves_nothing(cluster, data):
    dying = replace(data, load=die_once)
    settings = {"saliency": ("spectral-residual",), "shard_samples": 4, "engine": "ray", "on_bad_image": "skip"}
    assert build(dying, Path("set"), **settings).written == 8
    assert Path("died").exists()
    assert not list(Path("set").rglob("*.part"))
    assert check(Path("set"))[1] == []


def test_a_worker_that_dies_every_time_is_an_input_error(cluster, data, monkeypatch):
    monkeypatch.setattr("fgdata.building.cluster.RETRIES", 1)
    with pytest.raises(InputError, match=r"A Ray worker died .*rerun the command"):
        list(run_jobs(die, [replace(data)], workers=1, engine="ray", advance=lambda images: None))


def test_without_ray_the_message_says_what_to_install():
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from fgdata.building.engine import run_jobs\n"
        "list(run_jobs(print, [1], workers=1, engine='ray', advance=print))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install ray" in done.stderr.splitlines()[-1]
