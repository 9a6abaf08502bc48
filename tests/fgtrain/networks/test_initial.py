"""Initial weights from synthetic checkpoints in the layout of each project, and frozen stages."""

import hashlib
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain.evaluate.subject import Given
from fgtrain.networks import initial, published
from fgtrain.networks.ema import frozen_copy, move_towards
from fgtrain.networks.encoder import Encoder
from fgtrain.networks.saved import load_encoder, write_weights
from fgtrain.runs.checkpoint import Checkpoint
from fgtrain.runs.files import write_json
from fgtrain.runs.rundir import RunDir
from fgtrain.settings import methods
from fgtrain.settings.common import Config, Model

NARROW = Model(width=8)


def config_with(init: str | Path, model: Model = NARROW, **more) -> Config:
    return methods.ByolConfig(model=model, init=str(init), **more)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Weights of a narrow ResNet-18; every value differs from a new network's."""
    torch.manual_seed(5)
    network = Encoder(NARROW)
    for name, value in network.state_dict().items():
        value.copy_(torch.rand_like(value) if value.is_floating_point() else torch.tensor(len(name)))
    return network.state_dict()


def under(prefix: str, weights: dict[str, torch.Tensor], shift: float = 0.0) -> dict[str, torch.Tensor]:
    return {prefix + k: v + shift if v.is_floating_point() else v for k, v in weights.items()}


def numbered(prefix: str, weights: dict[str, torch.Tensor], numbers: list[int]) -> dict[str, torch.Tensor]:
    """The names in an nn.Sequential of a ResNet's children; `numbers` are those of conv1, bn1 and layer1 to layer4."""
    rename = dict(zip(("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), numbers))
    split = {k: k.partition(".") for k in weights}
    return {f"{prefix}{rename[a]}.{b}": weights[k] for k, (a, _, b) in split.items()}


HEAD = {"fc.weight": torch.zeros(3, 64), "fc.bias": torch.zeros(3)}

LAYOUTS = {
    "torchvision": lambda w: {**w, **HEAD},
    "no counters, as files before torch 0.4.1": lambda w: {k: v for k, v in w.items() if "num_batches" not in k},
    "moco v1 and v2": lambda w: {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": {
            **under("module.encoder_q.", {**w, "fc.0.weight": torch.zeros(64, 64)}),
            **under("module.encoder_k.", w, 1.0),
            "module.queue": torch.zeros(64, 16),
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(8, 3, 7, 7)}}, "param_groups": [{"lr": 0.03}]},
    },
    "moco v3": lambda w: {
        "state_dict": {
            **under("module.base_encoder.", w),
            **under("module.momentum_encoder.", w, 1.0),
            "module.predictor.0.weight": torch.zeros(4, 4),
        }
    },
    "mmpretrain": lambda w: {
        "meta": {"epoch": 3},
        "state_dict": under("backbone.", w) | {"head.fc.bias": torch.ones(3)},
    },
    "openmixup moco": lambda w: {
        "meta": {},
        "state_dict": {**under("encoder_q.0.", w), **under("encoder_k.0.", w, 1.0), "queue": torch.zeros(2, 2)},
    },
    "openmixup byol": lambda w: {"state_dict": {**under("online_net.0.", w), **under("target_net.0.", w, 1.0)}},
    "solo-learn": lambda w: {
        "pytorch-lightning_version": "2.5",
        "state_dict": {
            **under("backbone.", w),
            **under("momentum_backbone.", w, 1.0),
            "classifier.bias": HEAD["fc.bias"],
        },
    },
    "lightly, children of torchvision's": lambda w: {
        "state_dict": {
            **numbered("backbone.", w, [0, 1, 4, 5, 6, 7]),
            "projection_head.layers.0.weight": torch.zeros(4, 4),
        }
    },
    "lightly's own ResNet": lambda w: numbered("backbone.", w, [0, 1, 2, 3, 4, 5]),
    "sequential alone": lambda w: numbered("", w, [0, 1, 4, 5, 6, 7]),
    "dino": lambda w: {"student": under("module.backbone.", w), "teacher": under("backbone.", w, 1.0), "epoch": 1},
    "torch.compile": lambda w: under("_orig_mod.", w),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoint_of_another_project_loads(layout: str, weights: dict, tmp_path: Path):
    torch.save(LAYOUTS[layout](weights), tmp_path / "other.pth")
    encoder = initial.encoder(config_with(tmp_path / "other.pth"))
    ours = encoder.state_dict()
    assert [k for k, v in weights.items() if "num_batches" not in k and not torch.equal(ours[k], v)] == []
    assert f"{tmp_path / 'other.pth'}" in encoder.origin
    assert "random here" not in encoder.origin


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_networks_of_torchvision_and_timm_load(backbone: str, tmp_path: Path):
    import timm

    for maker in (torchvision.models.get_model, timm.create_model):
        network = maker(backbone)
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        encoder = initial.encoder(config_with(tmp_path / "model.safetensors", Model(backbone)))  # pyright: ignore[reportArgumentType]
        assert all(torch.equal(v, network.state_dict()[k]) for k, v in encoder.state_dict().items())
        assert "ignored: fc.bias, fc.weight" in encoder.origin


def test_online_network_is_preferred_when_the_average_comes_first(weights: dict, tmp_path: Path):
    both = {**under("encoder_k.", weights, 1.0), **under("encoder_q.", weights)}
    save_file({k: v.clone() for k, v in both.items()}, tmp_path / "a.safetensors")
    assert "under 'encoder_q.'" in initial.encoder(config_with(tmp_path / "a.safetensors")).origin


def test_run_folder_checkpoint_folder_and_encoder_file_load(weights: dict, tmp_path: Path):
    run, network = RunDir(tmp_path / "run"), Encoder(NARROW)
    network.load_state_dict(weights)
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "7", "method": "byol"}
    folder = run.save_checkpoint(7, network, about, {}, keep=1)
    write_json(run.config_path, {"method": "byol"})
    for source in (run.path, folder, folder / "encoder.safetensors"):
        assert torch.equal(initial.encoder(config_with(source)).network.conv1.weight, weights["conv1.weight"])


def assert_normalised(encoder: Encoder, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """In training, unless the views have their own, and in evaluations."""
    evaluation = encoder.evaluation_view(64)
    assert (evaluation.mean, evaluation.std) == (mean, std)
    views = encoder.normalised(ViewSpec(size=64))
    assert (views.mean, views.std) == (mean, std)
    own = ViewSpec(size=64, mean=(0.6, 0.6, 0.6))
    assert encoder.normalised(own) == own


def test_a_file_of_ours_brings_its_mean_and_std_under_every_name(weights: dict, tmp_path: Path):
    network = Encoder(NARROW)
    network.load_state_dict(weights)
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "1", "method": "byol"}
    about |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    folder = RunDir(tmp_path / "run").save_checkpoint(1, network, about, {}, keep=1)
    file = tmp_path / "exported.safetensors"
    write_weights(Checkpoint.find(folder), file)
    for encoder in (
        load_encoder(Checkpoint.find(folder)),
        initial.encoder(config_with(folder)),
        initial.encoder(config_with(file)),
        Given(str(file), NARROW).load(),
    ):
        assert_normalised(encoder, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        assert "mean" not in encoder.origin


@pytest.mark.parametrize("init", ["timm:vit_small_patch16_224.dino", "hf-hub:org/name"])
def test_weights_of_timm_bring_the_mean_and_std_of_their_tag(init: str, monkeypatch: pytest.MonkeyPatch):
    """Those of the network's default weights are others."""
    import timm

    tag, create = "vit_small_patch16_224.dino", timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **more: create(tag, **more))
    source = published.find(init, "vit_small_patch16_224")
    monkeypatch.undo()
    monkeypatch.setattr(published, "find", lambda *_: source)
    default, own = (timm.get_pretrained_cfg(name) for name in ("vit_small_patch16_224", tag))
    assert default is not None
    assert own is not None
    assert default.mean != own.mean
    encoder = initial.encoder(config_with(init, Model("vit_small_patch16_224")))
    assert_normalised(encoder, own.mean, own.std)


def test_a_file_without_a_mean_says_which_one_is_used(tmp_path: Path):
    network = Encoder(Model("test_vit"))
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    encoder = initial.encoder(config_with(tmp_path / "vit.pth", Model("test_vit")))
    assert_normalised(encoder, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert "timm's for test_vit are used" in encoder.origin
    assert "mean 0.5 0.5 0.5, std 0.5 0.5 0.5" in encoder.origin


def test_mismatches_are_reported(weights: dict, tmp_path: Path):
    incomplete = {k: v for k, v in weights.items() if k != "layer4.1.bn2.bias"}
    incomplete["layer3.1.bn2.bias"] = torch.zeros(5)
    torch.save({**under("net.", incomplete), "net.extra": torch.zeros(1), "head": torch.zeros(1)}, tmp_path / "a.pth")
    origin = initial.encoder(config_with(tmp_path / "a.pth")).origin
    assert "under 'net.'" in origin
    assert "missing, random here: layer4.1.bn2.bias" in origin
    assert "different shape, random here: layer3.1.bn2.bias (5,), here (32,)" in origin
    assert "ignored: extra" in origin
    assert "outside that prefix, ignored: 1 tensors" in origin


def test_another_architecture_is_named_with_the_flags_that_fit(weights: dict, tmp_path: Path):
    def refusal(content, name: str = "a.pth", **model) -> str:
        torch.save(content, tmp_path / name)
        with pytest.raises(InputError) as raised:
            initial.encoder(config_with(tmp_path / name, Model(**{"width": 8, **model})))
        return str(raised.value)

    deep = Encoder(Model("resnet50", width=8)).state_dict()
    message = refusal(under("module.encoder_q.", deep))
    assert "resnet50 of width 8 with the imagenet stem" in message
    assert "--model.backbone resnet50 --model.width 8 --model.stem imagenet" in message
    assert "--model.backbone resnet18 --model.width 8" in refusal(weights, width=16)
    # the stem is only 0.1 % of the weights, but it must match
    message = refusal(weights, stem="small")
    assert "stem 7%" in message
    assert "--model.stem imagenet" in message
    assert "conv1.weight (8, 3, 7, 7), here (8, 3, 3, 3)" in message
    assert "resnet50" in refusal({"state_dict": numbered("backbone.", deep, [0, 1, 4, 5, 6, 7])})
    half = {k: v for k, v in weights.items() if not k.startswith("layer4")}
    assert "stage 4 0%; required: 95%" in refusal(half)
    assert "resnet101" in refusal(torchvision.models.resnet101().state_dict())
    assert "Its first names: patch_embed.weight" in refusal(
        {"patch_embed.weight": torch.zeros(3), "blocks.0.bias": torch.zeros(3)}
    )
    assert "no table of named tensors" in refusal({"epoch": 3})


def test_larger_network_is_refused_although_it_contains_the_encoder(weights: dict, tmp_path: Path):
    def refusal(content, **model) -> str:
        torch.save(content, tmp_path / "large.pth")
        with pytest.raises(InputError) as raised:
            initial.encoder(config_with(tmp_path / "large.pth", Model(**{"width": 8, **model})))
        return str(raised.value)

    narrow = {
        k: torch.zeros([n if n == 3 else n // 8 for n in v.shape[:2]] + list(v.shape[2:])) if v.ndim else v
        for k, v in torchvision.models.resnet34().state_dict().items()
    }
    message = refusal(under("backbone.", narrow))
    assert "under 'backbone.' a resnet34 of width 8 with the imagenet stem" in message
    assert "layer1.2." in message
    assert "weights of a resnet18" in message
    assert "--model.backbone" in message
    deep = Encoder(Model("resnet50", width=8)).state_dict()
    more = {
        k.replace("layer3.5.", f"layer3.{i}."): v for i in range(6, 23) for k, v in deep.items() if "layer3.5." in k
    }
    assert "a resnet101 of width 8" in refusal({"state_dict": {**deep, **more}}, backbone="resnet50")
    assert "additional tensors in its blocks" in refusal({**weights, "layer1.0.se.fc.weight": torch.zeros(2, 2)})
    # with two networks in a file, the one that fits is used
    torch.save({**under("teacher.", narrow), **under("student.", weights)}, tmp_path / "both.pth")
    assert "under 'student.'" in initial.encoder(config_with(tmp_path / "both.pth")).origin


class Hyper:
    """A Python object that a Lightning checkpoint may contain besides its weights."""


def test_unreadable_files_are_named(tmp_path: Path, weights: dict):
    def refusal(path: Path) -> str:
        with pytest.raises(InputError) as raised:
            initial.encoder(config_with(path))
        return str(raised.value)

    assert "does not exist" in refusal(tmp_path / "nothing.pth")
    torch.save({"state_dict": weights, "hyper_parameters": Hyper()}, tmp_path / "objects.ckpt")
    assert "Hyper); these are never unpickled" in (message := refusal(tmp_path / "objects.ckpt"))
    assert "state_dict" in message
    complete = tmp_path / "complete.pth"
    torch.save(weights, complete)
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes(complete.read_bytes()[:2000])
        assert f"{tmp_path / name}" in refusal(tmp_path / name)
    assert "truncated" in refusal(tmp_path / "cut.pth")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "old.pth").write_bytes((tmp_path / "old.pth").read_bytes()[:1000])
    assert "truncated or damaged" in refusal(tmp_path / "old.pth")
    for garbage in (b"epoch 3 of 5", b"the weights are elsewhere\n", b"\n", b"{}", b"config\nx\n", bytes(64)):
        (tmp_path / "text.pth").write_bytes(garbage)
        assert "text.pth cannot be read" in refusal(tmp_path / "text.pth")
    (tmp_path / "empty.pth").touch()
    assert "empty.pth" in refusal(tmp_path / "empty.pth")
    (tmp_path / "folder").mkdir()
    assert "folder" in refusal(tmp_path / "folder")


@pytest.fixture
def loopback(tmp_path: Path):
    """A folder served over HTTP on the loopback interface -> (folder, address)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_imagenet_weights_are_downloaded_once_and_verified(loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, address = loopback
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), folder / "weights")
    name = f"resnet18-{hashlib.sha256((folder / 'weights').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "weights").rename(folder / name)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    real = published.imagenet_weights("resnet18")
    assert str(real) == "ResNet18_Weights.IMAGENET1K_V1"
    assert real.url.startswith("https://download.pytorch.org/")

    def config_for(url: str) -> Config:
        transforms = partial(real.transforms, mean=(0.4, 0.3, 0.2))
        stand_in = torchvision.models.Weights(url=url, transforms=transforms, meta={})
        monkeypatch.setattr(published, "imagenet_weights", lambda *_: stand_in)
        return config_with("imagenet", Model())

    stand_in = config_for(f"{address}/{name}")
    encoder = initial.encoder(stand_in)
    assert torch.equal(encoder.network.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    assert_normalised(encoder, (0.4, 0.3, 0.2), (0.229, 0.224, 0.225))
    assert (tmp_path / "hub" / "checkpoints" / name).is_file()
    (folder / name).unlink()
    initial.encoder(stand_in)  # now from the cache

    with pytest.raises(InputError, match=r"could not be loaded[\s\S]*--init FILE"):
        initial.encoder(config_for(f"{address}/gone-00000000.pth"))
    (folder / "resnet18-00000000.pth").write_bytes(b"not what was published")
    with pytest.raises(InputError, match="invalid hash value"):
        initial.encoder(config_for(f"{address}/resnet18-00000000.pth"))


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("layer2.0.bn1.running_var", -0.25, "1 of 16 values below 0.*the variance of batch norm"),
        ("bn1.num_batches_tracked", -3, "1 of 1 values below 0.*the number of batches of batch norm"),
    ],
)
def test_statistics_that_batch_norm_cannot_have_are_named(
    name: str, value: float, what: str, weights: dict[str, torch.Tensor], tmp_path: Path
):
    damaged = {k: v.clone() for k, v in weights.items()}
    damaged[name].view(-1)[0] = value
    torch.save({f"module.{k}": v for k, v in damaged.items()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"a\.pth: module\.{name} has {what}; allowed: 0 or more"):
        initial.encoder(config_with(tmp_path / "a.pth"))
    damaged[name].view(-1)[0] = 0  # a channel that was constant, or a network before its first step
    torch.save(damaged, tmp_path / "a.pth")
    initial.encoder(config_with(tmp_path / "a.pth"))


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_frozen_stages_keep_weights_and_statistics_online_and_target(stages: int):
    config = replace(config_with("x"), init=None, freeze_stages=stages)
    encoder = initial.encoder(config).train()
    target = frozen_copy(encoder).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        x = torch.rand(4, 3, 32, 32)
        (encoder(x).pooled.square().mean() + 0 * target(x).pooled.mean()).backward()
        optimizer.step()
        move_towards(target, encoder, 0.9)
    frozen = ("conv1", "bn1", *(f"layer{i}" for i in range(1, stages + 1)))
    for network in (encoder, target):
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]) == name.startswith(frozen), name
    assert all(p.grad is None for n, p in encoder.named_parameters() if n.startswith(frozen))
    encoder.eval().train()
    assert not encoder.network.bn1.training
    assert encoder.network.layer4[0].bn1.training


def test_nothing_is_frozen_by_default():
    encoder = initial.encoder(methods.ByolConfig(model=NARROW))
    assert all(p.requires_grad for p in encoder.parameters())
    assert all(m.training for m in encoder.train().modules() if isinstance(m, nn.BatchNorm2d))
