"""Detectors that need an encoder: how fgdata finds them, which weights they take, and what a set records."""

import hashlib
import json
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT

from fgdata import saliency
from fgdata.boxes.objective import Objective, solve
from fgdata.building.build import build
from fgdata.building.rewrite import add
from fgdata.cli import main
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.files.owners import owning
from fgdata.shards.reader import ShardSet
from fgtrain import detectors
from fgtrain.networks.encoder import Encoder
from fgtrain.runs.rundir import OWNERS, RunDir
from fgtrain.settings.common import Model


def save(folder: Path, backbone: str, width: int = 64) -> Path:
    """A run with one checkpoint of a network with random weights."""
    torch.manual_seed(0)
    about = {"backbone": backbone, "width": str(width), "stem": "imagenet", "size": "64", "step": "3"}
    about |= {"method": "byol", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]}
    RunDir(folder).save_checkpoint(3, Encoder(Model(backbone, width)), about, {}, keep=1)
    (folder / "config.json").write_text('{"method": "byol"}')
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two runs, `cnn` and `vit`."""
    folder = tmp_path_factory.mktemp("runs")
    save(folder / "cnn", "resnet18", 8)
    save(folder / "vit", "test_vit")
    return folder


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch):
    """The rows, whether or not this checkout's entry points are installed."""
    for name, row in detectors.ROWS.items():
        monkeypatch.setitem(saliency.DETECTORS, name, row)
    yield
    saliency.open_once.cache_clear()


def test_the_entry_points_name_every_row():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["fgdata.detectors"]
    assert {name: eval(value.partition(":")[2], vars(detectors)) for name, value in declared.items()} == detectors.ROWS
    assert {value.partition(":")[0] for value in declared.values()} == {detectors.__name__}


def test_an_installed_fgdata_finds_them(capsys: pytest.CaptureFixture[str], runs: Path):
    if not {*detectors.ROWS} <= {point.name for point in entry_points(group="fgdata.detectors")}:
        pytest.skip("the installation is older than these entry points: make setup")
    assert main(["list", "--folder", str(runs)]) == 0
    assert "scda:WEIGHTS" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["scda", "tokencut", "lost"])
def test_a_run_and_its_checkpoint_make_the_same_maps(family: str, runs: Path):
    run = runs / ("cnn" if family == "scda" else "vit")
    opened = saliency.detector(f"{family}:{run},size=64")
    again = saliency.detector(f"{family}:{run / 'checkpoints' / '0000003'},size=64")
    rgb = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    before = torch.get_num_threads()
    map_ = opened.saliency_map(rgb)
    assert torch.get_num_threads() == before
    assert (map_.shape, map_.dtype) == ((50, 70), np.float32)
    assert 0 <= map_.min() <= map_.max() <= 1
    np.testing.assert_array_equal(map_, again.saliency_map(rgb))
    file = run / "checkpoints" / "0000003" / "encoder.safetensors"
    assert opened.SETTINGS["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert opened.SETTINGS["size"] == 64
    assert opened.SETTINGS["trained_on"] == "images of a set that is not recorded (byol)"
    assert saliency.detector(f"{family}:{run}").SETTINGS["size"] == 128, "twice that of the training images"
    assert opened.SETTINGS["mean"] == [0.4, 0.5, 0.6]
    assert saliency.own_tau(saliency.component(f"{family}:{run}")) == opened.TAU
    for shape in ((1, 1), (1, 300), (300, 1)):
        assert opened.saliency_map(np.full((*shape, 3), 77, np.uint8)).shape == shape
        assert solve(opened.saliency_map(np.full((*shape, 3), 77, np.uint8)), Objective())[1] == "flat"


def test_names_in_a_set():
    names = {
        "scda:runs/byol": "scda-byol",
        "scda:a/lite0-5f.pth,backbone=tf_efficientnet_lite0": "scda-lite0-5f",
        "tokencut:dino.safetensors,backbone=vit_small_patch16_224,size=224": "tokencut-dino",
        "onnx:models/U2-Net.onnx,size=32": "onnx-u2-net",
        "maps:out/a,b": "maps-a-b",
    }
    assert {name: saliency.component(name) for name in names} == names


def test_weights_of_another_project_need_the_name_of_their_network(runs: Path, tmp_path: Path):
    encoder = Encoder(Model("test_vit"))
    file = tmp_path / "weights.pth"
    torch.save(dict(encoder.network.state_dict()), file)
    opened = saliency.detector(f"tokencut:{file},backbone=test_vit,size=64")
    assert opened.SETTINGS["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert opened.SETTINGS["backbone"] == "test_vit"
    for name, problem in {
        f"tokencut:{file}": "is not an encoder saved by fgtrain.*Weights of another project.*,backbone=NAME",
        f"tokencut:{file},backbone=test_vit2": "does not fit the encoder, a test_vit2",
        f"tokencut:{file},backbone=bird": "backbone=bird is not a network of timm",
        f"tokencut:{file},backbone=test_vit,colour=red": "'colour' is not a setting; allowed: backbone=, size=",
        f"tokencut:{file},backbone=test_vit,size=big": "size is 'big'; allowed: 32 to 2048",
        f"tokencut:{file},backbone=test_vit,size=65": "size is 65, which test_vit cannot process; allowed: 64, 80",
        f"tokencut:{tmp_path / 'gone.pth'},backbone=test_vit": "gone.pth is not a file",
        f"tokencut:{tmp_path / 'gone'}": "gone does not exist",
        f"tokencut:{runs / 'vit'},backbone=test_vit": "a run states its own network. Omit backbone=test_vit",
        f"tokencut:{runs / 'cnn'}": "needs the keys of a ViT's last block, which resnet18 does not have",
        "tokencut": "not a valid form of tokencut. Use --saliency tokencut:WEIGHTS",
    }.items():
        with pytest.raises(InputError, match=f"(?s){problem}"):
            saliency.detector(name)


def test_the_last_checkpoint_of_a_run_that_still_trains_is_refused(tmp_path: Path):
    run = save(tmp_path / "run", "resnet18", 8)
    (run / "run.json").write_text(json.dumps({"status": "running"}))
    refused = pytest.raises(InputError, match=r"still training.*--saliency scda:.*checkpoints/0000003")
    with owning(run / OWNERS, "is training in it"), refused:
        saliency.detector(f"scda:{run}")
    saliency.detector(f"scda:{run}")  # it was killed
    saliency.detector(f"scda:{run / 'checkpoints' / '0000003'}")


def test_a_build_has_the_same_bytes_each_time_and_add_gives_the_same_boxes(runs: Path, tmp_path: Path):
    birds = read("drawn", classes=2, images_per_class=3, size=64)
    names = (f"scda:{runs / 'cnn'},size=64", f"tokencut:{runs / 'vit'},size=64")
    for out in ("a", "b"):
        saliency.open_once.cache_clear()
        build(birds, tmp_path / out, saliency=names)
    for path in (tmp_path / "a").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    settings = ShardSet.open(tmp_path / "a").manifest["detectors"]
    assert list(settings) == ["scda-cnn", "tokencut-vit"]
    assert all({"sha256", "backbone", "size", "torch", "timm", "tau"} <= own.keys() for own in settings.values())
    build(birds, tmp_path / "c", saliency=names[:1])
    add(tmp_path / "c", names[1])
    for split in ("train", "test"):
        whole, later = (ShardSet.open(tmp_path / name).split(split) for name in ("a", "c"))
        for number in range(len(whole)):
            assert whole.read(number)["tokencut-vit.npy"] == later.read(number)["tokencut-vit.npy"]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(detectors, "find_spec", lambda name: None if name in ("timm", "scipy") else object())
    for name in ("scda:x", "tokencut:x", "lost:x"):
        with pytest.raises(InputError, match=f"{name} needs timm, scipy, not installed: pip install timm scipy"):
            saliency.detector(name)
