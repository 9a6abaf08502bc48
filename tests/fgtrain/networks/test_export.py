"""Other libraries load an exported encoder with no key missing, and compute the same features."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
import tyro
from safetensors.torch import load_file
from torch import nn

from fgdata.errors import InputError
from fgtrain import cli
from fgtrain.networks.encoder import Encoder
from fgtrain.networks.saved import load, load_encoder
from fgtrain.runs.checkpoint import Checkpoint
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Model


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def exported(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Encoder, dict[str, torch.Tensor]]:
    """Backbone, encoder of a run, weights in the file that `fgtrain export` wrote."""
    folder, network = tmp_path_factory.mktemp("export"), Encoder(Model(request.param))
    network(torch.rand(2, 3, 64, 64))  # changes the running statistics from their initial values
    about = {"backbone": request.param, "width": "64", "stem": "imagenet", "size": "224", "step": "1", "method": "byol"}
    checkpoint = RunDir(folder / "run").save_checkpoint(1, network, about, {}, keep=1)
    assert cli.main(["export", str(checkpoint), str(folder / "new" / "encoder.safetensors")]) == 0
    return request.param, network.eval(), load_file(folder / "new" / "encoder.safetensors")


def assert_same(theirs: nn.Module, ours: Encoder) -> None:
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x).flatten(1), ours(x).pooled, rtol=1e-4, atol=1e-5)  # layouts differ


def test_torchvision_loads_it_with_only_fc_missing(exported):
    backbone, ours, weights = exported
    network = torchvision.models.get_model(backbone)
    assert network.load_state_dict(weights, strict=False).missing_keys == ["fc.weight", "fc.bias"]
    network.fc = nn.Identity()
    network.load_state_dict(weights)
    assert_same(network, ours)


def test_timm_loads_it_strictly(exported):
    import timm

    backbone, ours, weights = exported
    network = timm.create_model(backbone, num_classes=0)
    network.load_state_dict(weights)
    assert_same(network, ours)


@pytest.mark.parametrize("backbone", ["resnet18", "test_vit", "test_efficientnet"])
def test_timm_builds_it_by_the_config_beside_it(backbone: str, tmp_path: Path):
    import timm

    network = Encoder(Model(backbone))
    about = {"backbone": backbone, "width": "64", "stem": "imagenet", "size": "64", "step": "1", "method": "byol"}
    about |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    checkpoint = RunDir(tmp_path / "run").save_checkpoint(1, network, about, {}, keep=1)
    file = tmp_path / "hub" / "model.safetensors"
    assert cli.main(["export", str(checkpoint), str(file)]) == 0
    theirs = timm.create_model(f"local-dir:{file.parent}", pretrained=True)
    assert tuple(theirs.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)
    size = theirs.pretrained_cfg["input_size"][-1]
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = network.eval()(x).pooled
        torch.testing.assert_close(theirs.eval()(x), expected, rtol=1e-4, atol=1e-5)  # layouts differ
        torch.testing.assert_close(load(file)(x).pooled, expected)


def test_export_leaves_the_config_of_something_else_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "1", "method": "byol"}
    checkpoint = RunDir(tmp_path / "run").save_checkpoint(1, Encoder(Model(width=8)), about, {}, keep=1)
    assert cli.main(["export", str(checkpoint), str(tmp_path / "narrow.safetensors")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the shapes are not those" in printed
    namespace: dict = {}
    line = re.search(r"import fgtrain.networks; encoder = fgtrain.networks.load\('.*?'\)", printed)
    assert line, printed
    exec(line[0], namespace)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = load_encoder(Checkpoint.find(checkpoint)).eval()(x).pooled
        assert torch.equal(namespace["encoder"](x).pooled, expected)
    flags = printed.partition("fgtrain run byol ")[2].partition("  #")[0].partition(" #")[0].split()
    chosen = tyro.cli(Model, args=[word.replace("--model.", "--") for word in flags[2:]])
    assert (chosen.backbone, chosen.width, chosen.stem) == ("resnet18", 8, "imagenet")
    assert not (tmp_path / "config.json").exists()  # timm has no such network
    (tmp_path / "config.json").write_text('{"method": "byol"}')
    assert cli.main(["export", str(checkpoint), str(tmp_path / "a.safetensors")]) == 2
    assert "config.json exists" in capsys.readouterr().err
    assert not (tmp_path / "a.safetensors").exists()


def test_backbone_of_lightlys_examples_loads_it(exported):
    """Their backbone is an nn.Sequential of the children of torchvision's network, named by numbers."""
    modules = pytest.importorskip("lightly.models.modules")
    name, ours, weights = exported
    network = torchvision.models.get_model(name)
    network.fc = nn.Identity()
    network.load_state_dict(weights)
    backbone = nn.Sequential(*list(network.children())[:-1])
    assert_same(backbone, ours)
    head = modules.SimCLRProjectionHead(ours.dim, 64, 32)
    assert head(backbone(torch.rand(2, 3, 64, 64)).flatten(1)).shape == (2, 32)


def test_export_refuses_damaged_weights_and_a_target_among_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    network = Encoder(Model(width=8))
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "1", "method": "byol"}
    folder = RunDir(tmp_path).save_checkpoint(1, network, about, {}, keep=1)
    (tmp_path / "config.json").write_text("{}")
    file = folder / "encoder.safetensors"
    assert cli.main(["export", str(file), str(tmp_path / "checkpoints" / "x.safetensors")]) == 2
    loose = tmp_path / "loose"
    shutil.copytree(folder, loose)
    for target in ("encoder.safetensors", "x.safetensors"):
        assert cli.main(["export", str(file), str(loose / target)]) == 2, "a checkpoint outside a run"
    assert "inside the checkpoints of a run" in capsys.readouterr().err
    (alone := tmp_path / "alone.safetensors").write_bytes(file.read_bytes())
    assert cli.main(["export", str(alone), str(alone)]) == 2
    assert "alone.safetensors is the file that this command reads" in capsys.readouterr().err
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"encoder\.safetensors is damaged.*checksum.*earlier checkpoint"):
        load_encoder(Checkpoint.find(file))
    assert cli.main(["export", str(file), str(tmp_path / "out.safetensors")]) == 2
    assert not (tmp_path / "out.safetensors").exists()
