"""`fgtrain export FILE.onnx`: onnxruntime computes the features of evaluations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fgdata.errors import InputError
from fgtrain import cli
from fgtrain.networks import portable
from fgtrain.networks.encoder import Encoder
from fgtrain.networks.saved import load_encoder
from fgtrain.runs.checkpoint import Checkpoint
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Model

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A narrow network with an attention branch, which only this kind of export keeps."""
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "64", "step": "1", "method": "lcr"}
    about |= {"attend": 3, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    return RunDir(tmp_path / "run").save_checkpoint(1, Encoder(Model(width=8, attend=3)), about, {}, keep=1)


def test_onnxruntime_gives_the_features_of_evaluations(checkpoint: Path, tmp_path: Path, capsys):
    file = tmp_path / "encoder.onnx"
    assert cli.main(["export", str(checkpoint), str(file), "--size", "32"]) == 0
    assert "onnxruntime agrees with torch" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.onnx", "run"}, "one file, without external data"
    session = onnxruntime.InferenceSession(str(file))
    about = json.loads(session.get_modelmeta().custom_metadata_map["fgtrain"])
    assert about == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "size": 32, "backbone": "resnet18"}
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    encoder = load_encoder(Checkpoint.find(checkpoint)).eval()
    with torch.no_grad():
        expected = encoder.describe(encoder(images)).numpy()
    (found,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)  # float32, in another order of additions


def test_a_network_that_cannot_be_converted_leaves_no_file(checkpoint: Path, tmp_path: Path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operation\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(InputError, match=r"cannot be converted to ONNX: no such operation\. Export its weights"):
        portable.write_onnx(Encoder(Model(width=8)), 32, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_what_an_onnx_file_needs(checkpoint: Path, tmp_path: Path, capsys, monkeypatch):
    assert cli.main(["export", str(checkpoint), str(tmp_path / "a.safetensors"), "--size", "32"]) == 2
    assert "--size is 32; allowed: only for a FILE that ends in .onnx." in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    assert cli.main(["export", str(checkpoint), str(tmp_path / "a.onnx")]) == 2
    assert "An ONNX file needs onnxscript, which is not installed: pip install onnx" in capsys.readouterr().err
