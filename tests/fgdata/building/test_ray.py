"""The Ray engine on a cluster of two nodes: the same bytes, and what dead workers and a removed node leave."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from onnx_files import write_network
from shard_files import hashes

from fgdata import plugins
from fgdata.boxes.objective import Objective
from fgdata.building import cluster_look
from fgdata.building.build import Job, build, make_jobs
from fgdata.building.sample import Recipe
from fgdata.datasets import Dataset, Record, read
from fgdata.errors import InputError
from fgdata.images import decode
from fgdata.saliency import DETECTORS, DetectorRow, own_settings
from fgdata.shards.check import check

SETTINGS = {"saliency": ("spectral-residual", "gt"), "shard_samples": 12, "engine": "ray"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of one CPU, started elsewhere: the working folder of their workers is not that of the test.

    The second has another home.
    """
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: on a busy machine, workers would get no time
        paths = Path(__file__).parent, *(Path(path) for path in sys.path if path)
        here = {"env_vars": {"PYTHONPATH": os.pathsep.join(map(str, paths))}}  # workers find this file's functions
        patch.delenv("XDG_CACHE_HOME", raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("first")))
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes.home = tmp_path_factory.mktemp("home")
        elsewhere = {"HOME": str(nodes.home), "XDG_CACHE_HOME": str(nodes.home / "cache")}
        nodes.second = nodes.add_node(num_cpus=1, env_vars=elsewhere)
        ray.init(nodes.address, log_to_driver=False, logging_level="error", runtime_env=here)
        yield nodes
        ray.shutdown()
        nodes.shutdown()


COUNTED = """
import os
from pathlib import Path

from fgdata.saliency import DetectorRow

DETECTORS = {
    "counted:FILE": DetectorRow("counted", "notes which process opens it"),
    "shared:FILE": DetectorRow("counted", "the same, of which a node needs one", sharers=2),
}

class Red:
    SETTINGS, TAU = {}, 0.1

    def saliency_map(self, rgb):
        for death in Path().glob(f"{rgb.sum()}.*"):
            death.unlink()
            os._exit(1)
        return rgb[:, :, 0].astype("float32") / 255

def detector(file):
    with open(file, "a") as log:
        print(os.getpid(), file=log)
    return Red()
"""


@pytest.fixture
def counted(data, monkeypatch) -> None:
    """The plug-in COUNTED."""
    Path("counted.py").write_text(COUNTED)
    monkeypatch.syspath_prepend(os.getcwd())
    monkeypatch.setenv(plugins.VARIABLE, os.path.abspath("counted.py"))
    monkeypatch.delitem(sys.modules, "counted", raising=False)
    monkeypatch.setitem(DETECTORS, "counted:FILE", DetectorRow("counted", ""))
    monkeypatch.setitem(DETECTORS, "shared:FILE", DetectorRow("counted", "", sharers=2))


def openings(log: str) -> Counter:
    """How often each process of the cluster has opened a detector of COUNTED."""
    opened = Counter(Path(log).read_text().split())
    del opened[str(os.getpid())]
    return opened


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


def die_always(record: Record):
    """Kills every worker that reads the images named in the file `deadly`."""
    if record.id in Path("deadly").read_text().split():
        os._exit(1)
    return load(record)


def load_slowly(record: Record):
    time.sleep(0.2)
    return load(record)


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


def test_relative_paths_are_those_of_the_caller_and_detectors_are_opened_once(cluster, data, counted):
    both = ("counted:log", "shared:shared")
    done = build(data, Path("shards/set"), saliency=both, shard_samples=1, engine="ray")
    assert done.written == 8
    assert check(Path("shards/set"))[1] == []
    assert max(openings("log").values()) <= 2, "in each worker, by the look at its node, and for its jobs"
    assert list(openings("shared").values()) == [1, 1], "in one process of each node"
    assert not openings("log").keys() & openings("shared").keys()


def test_a_node_without_the_file_of_a_network_gets_a_copy(cluster, data):
    pytest.importorskip("onnxruntime")
    network = write_network(Path("~/red.onnx").expanduser(), size=(32, 32))
    settings = {"saliency": ("onnx:~/red.onnx",), "shard_samples": 2}
    build(data, Path("one"), **settings)
    build(data, Path("ray"), **settings, engine="ray")
    assert hashes(Path("ray")) == hashes(Path("one"))
    (copy,) = (cluster.home / "cache/fgdata/copies").rglob("*.*")
    assert copy.read_bytes() == network.read_bytes()
    assert not list(Path.home().rglob("copies")), "the first node has the file itself"


def test_a_network_whose_process_dies_is_opened_again(cluster, data, counted, monkeypatch):
    """An image kills the process of its node, then its worker: its shard alone is missing."""
    monkeypatch.setattr("fgdata.building.cluster.RETRIES", 0)
    settings = {"saliency": ("shared:log",), "shard_samples": 1, "engine": "ray"}
    jobs = make_jobs(data, Path("set"), Recipe(load, settings["saliency"], Objective(), None, 90, "stop"), 1)
    deadly = decode(data.load(jobs[0].records[0])[0], "deadly").sum()
    for death in range(2):
        Path(f"{deadly}.{death}").touch()
    with pytest.raises(InputError, match=r"^1 of 8 shards are missing.* died: train-000000 \("):
        build(data, Path("set"), **settings)
    assert len(list(Path("set").glob("*.tar"))) == 7
    assert len(openings("log")) >= 3, "in a process of each node, and in the worker"
    Path(f"{deadly}.2").touch()
    assert build(data, Path("set"), **settings).written == 1
    assert not Path(f"{deadly}.2").exists(), "a process has died, and the worker has continued"
    assert check(Path("set"))[1] == []


def test_a_lost_worker_is_replaced_and_leaves_nothing(cluster, data):
    dying = replace(data, load=die_once)
    settings = {"saliency": ("spectral-residual",), "shard_samples": 4, "engine": "ray", "on_bad_image": "skip"}
    assert build(dying, Path("set"), **settings).written == 8
    assert Path("died").exists()
    assert not list(Path("set").rglob("*.part"))
    assert check(Path("set"))[1] == []


def test_a_shard_whose_workers_all_die_is_listed_and_the_others_are_built(cluster, data, monkeypatch, capsys):
    monkeypatch.setattr("fgdata.building.cluster.RETRIES", 0)
    settings = {"saliency": ("spectral-residual",), "shard_samples": 2, "engine": "ray", "on_bad_image": "skip"}
    recipe = Recipe(load, ("spectral-residual",), Objective(), None, 90, "skip")
    deadly = make_jobs(data, Path("set"), recipe, 2)[2].records[1].id
    Path("deadly").write_text(deadly)
    with pytest.raises(InputError, match=r"^1 of 4 shards are missing.* died: train-000002 \(.*rerun the command\.$"):
        build(replace(data, load=die_always), Path("set"), **settings)
    assert {path.stem for path in Path("set").glob("*.tar")} == {"train-000000", "train-000001", "train-000003"}
    assert "Continuing" in capsys.readouterr().err
    Path("deadly").write_text("")
    assert build(replace(data, load=die_always), Path("set"), **settings).written == 2
    assert check(Path("set"))[1] == []


def test_a_node_that_cannot_build_is_named(tmp_path, monkeypatch, data):
    recipe = Recipe(load, ("spectral-residual",), Objective(), None, 90, "stop")
    job = Job(Path("set"), "train-000000", 0, 6, data.records[:1], recipe)
    Path("set").mkdir()
    Path("set/token.part").touch()
    same, mine = cluster_look.versions(), {"spectral-residual": own_settings("spectral-residual")}
    assert cluster_look.look(job, "set/token.part", os.getcwd(), same, mine) is None
    assert [path.name for path in Path("set").iterdir()] == ["token.part"]
    assert "is not the one of this machine" in cluster_look.look(job, "set/other.part", os.getcwd(), same, mine)
    assert "cannot be opened" in cluster_look.look(job, "set/token.part", "/nowhere", same, mine)
    found = cluster_look.look(job, "set/token.part", os.getcwd(), same | {"numpy": "0.1"}, mine)
    assert found == f"other versions than on this machine: numpy {same['numpy']}, here 0.1. Install the same"
    found = cluster_look.look(job, "set/token.part", os.getcwd(), same, {"spectral-residual": {"sha256": "0"}})
    assert found.startswith("spectral-residual is not the one of this machine: sha256 None, here 0")
    found = cluster_look.look(job, "set/token.part", os.getcwd(), same, {"onnx:none.onnx": {}})
    assert found.startswith("none.onnx is not a file.")
    Path("images", data.records[0].file).unlink()
    assert "No such file" in cluster_look.look(job, "set/token.part", os.getcwd(), same, mine)


def test_every_node_is_looked_at_before_the_build(cluster, data, monkeypatch):
    monkeypatch.setattr("fgdata.building.cluster_look.versions", lambda: {"numpy": "0.1"})
    with pytest.raises(InputError) as refused:
        build(data, Path("set"), saliency=("spectral-residual",), engine="ray")
    lines = str(refused.value).splitlines()
    assert lines[0] == "2 of 2 nodes of the Ray cluster cannot build:"
    assert all("other versions than on this machine: numpy" in line for line in lines[1:])
    assert not list(Path("set").glob("*.part"))


def test_an_address_without_a_cluster(monkeypatch, data):
    ray = pytest.importorskip("ray")

    def refuse(address, **_):
        raise ConnectionError(f"nothing at {address}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    settings = {"saliency": ("spectral-residual",), "ray_address": "node7:6379"}
    with pytest.raises(InputError, match=r"--ray-address node7:6379: no cluster available \(nothing at node7:6379\)"):
        build(data, Path("set"), **settings, engine="ray")
    with pytest.raises(InputError, match=r"only with --engine ray"):
        build(data, Path("set"), **settings)


def test_a_removed_node_loses_nothing(cluster, data):
    """The last test of this cluster."""
    settings = {"saliency": ("spectral-residual",), "shard_samples": 1, "engine": "ray", "on_bad_image": "skip"}

    def remove():
        while not list(Path("set").glob("*.tar")):
            time.sleep(0.01)
        cluster.remove_node(cluster.second, allow_graceful=False)

    removing = threading.Thread(target=remove)
    removing.start()
    assert build(replace(data, load=load_slowly), Path("set"), **settings).written == 8
    removing.join()
    assert check(Path("set"))[1] == []


def test_without_ray_the_message_says_what_to_install():
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from fgdata.building.engine import run_jobs\n"
        "list(run_jobs(print, [1], workers=1, engine='ray', advance=print))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install ray" in done.stderr.splitlines()[-1]
