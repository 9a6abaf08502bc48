"""Checkpoints of other projects, written as each project does, against the features of the network they come from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain.networks import initial, published
from fgtrain.networks.encoder import Encoder
from fgtrain.settings import methods
from fgtrain.settings.common import Model

State = dict[str, torch.Tensor]


def load(file: Path, backbone: str) -> Encoder:
    config = methods.ByolConfig(model=Model(backbone), init=str(file), views=ViewSpec(size=64))
    return initial.encoder(config).eval()


def images(size: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def under(prefix: str, weights: State, shift: float = 0.0) -> State:
    return {prefix + k: v + shift if v.is_floating_point() else v.clone() for k, v in weights.items()}


@pytest.fixture(scope="module")
def vit() -> State:
    torch.manual_seed(3)
    network = timm.create_model("test_vit", num_classes=0)
    return {k: v + 0.02 * torch.randn_like(v) for k, v in network.state_dict().items()}


DINO_HEAD = {"mlp.0.weight": torch.zeros(8, 64), "last_layer.weight_v": torch.zeros(4, 8)}

OF_A_VIT: dict[str, Callable[[State], dict]] = {
    "timm, with a classifier": lambda w: {**w, "head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)},
    "dino": lambda w: {
        "student": {**under("module.backbone.", w, 1.0), **under("module.head.", DINO_HEAD)},
        "teacher": {**under("backbone.", w), **under("head.", DINO_HEAD)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
    },
    "ibot": lambda w: {
        "student": {**under("module.backbone.", w, 1.0), **under("module.head.", DINO_HEAD)},
        "teacher": {
            **under("backbone.", w),
            "backbone.masked_embed": torch.zeros(1, 64),
            **under("head.", DINO_HEAD),
            "head.last_layer2.weight_v": torch.zeros(4, 8),
        },
    },
    "dinov2, in training": lambda w: {
        "model": {
            **under("student.backbone.", w, 1.0),
            **under("student.dino_head.", DINO_HEAD),
            **under("teacher.backbone.", {**w, "mask_token": torch.zeros(1, 64)}),
            **under("teacher.dino_head.", DINO_HEAD),
        }
    },
    "mae": lambda w: {
        "model": {
            **w,
            "mask_token": torch.zeros(1, 1, 32),
            "decoder_pos_embed": torch.zeros(1, 101, 32),
            "decoder_embed.weight": torch.zeros(32, 64),
            "decoder_blocks.0.norm1.weight": torch.zeros(32),
            "decoder_blocks.0.attn.qkv.weight": torch.zeros(96, 32),
        },
        "epoch": 799,
    },
    "moco v3": lambda w: {
        "arch": "vit_small",
        "state_dict": {
            **under("module.base_encoder.", {**w, "head.0.weight": torch.zeros(8, 64)}),
            **under("module.momentum_encoder.", w, 1.0),
            "module.predictor.0.weight": torch.zeros(4, 4),
        },
    },
    "lightly": lambda w: {"state_dict": {**under("student_backbone.vit.", w), **under("student_head.", DINO_HEAD)}},
    "solo-learn": lambda w: {"state_dict": {**under("backbone.", w), **under("momentum_backbone.", w, 1.0)}},
    "openmixup": lambda w: {"meta": {}, "state_dict": {**under("backbone.", w), "head.fc.weight": torch.zeros(3, 64)}},
    "compiled under DDP": lambda w: {"model": under("module._orig_mod.", w)},
}


@pytest.mark.parametrize("layout", OF_A_VIT)
def test_a_vit_of_another_project_has_the_features_of_its_source(layout: str, vit: State, tmp_path: Path):
    source = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    source.load_state_dict(vit)
    torch.save(OF_A_VIT[layout](vit), tmp_path / "a.pth")
    encoder = load(tmp_path / "a.pth", "test_vit")
    with torch.no_grad():
        torch.testing.assert_close(encoder(images()).pooled, source(images()))
    count = len(vit)
    assert f"{count} of {count} tensors" in encoder.origin
    assert ("the teacher" in encoder.origin) == (layout in ("dino", "ibot", "dinov2, in training"))


def test_position_embeddings_of_another_grid_are_resized_and_said(vit: State, tmp_path: Path):
    from timm.layers import resample_abs_pos_embed

    larger = {**vit, "pos_embed": torch.randn(1, 1 + 14 * 14, 64)}
    save_file(larger, tmp_path / "a.safetensors")
    encoder = load(tmp_path / "a.safetensors", "test_vit")
    expected = resample_abs_pos_embed(larger["pos_embed"], [10, 10], num_prefix_tokens=1)
    torch.testing.assert_close(encoder.state_dict()["pos_embed"], expected)
    assert "resized to this network: pos_embed" in encoder.origin


@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov3", "resnet"])
def test_weights_saved_by_transformers_have_its_features(kind: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    common = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "patch_size": 16}
    if kind == "vit":
        backbone, size = "vit_tiny_patch16_224", 224
        network = transformers.ViTModel(transformers.ViTConfig(**common, intermediate_size=768, layer_norm_eps=1e-6))
    elif kind == "dinov2":
        backbone, size = "vit_small_patch14_dinov2", 518  # the two resize position embeddings differently
        sizes = {**common, "hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
        network = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    elif kind == "dinov3":
        backbone, size = "vit_small_patch16_dinov3_qkvb", 64
        sizes = {**common, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
        network = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**sizes, num_register_tokens=4))
    else:
        backbone, size = "resnet18", 64
        sizes = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
        network = transformers.ResNetModel(transformers.ResNetConfig(**sizes, layer_type="basic"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01 * torch.randn_like(parameter)  # no bias or scale is 0 or 1
    network.eval().save_pretrained(tmp_path)
    config = methods.ByolConfig(
        model=Model(backbone), init=str(tmp_path / "model.safetensors"), views=ViewSpec(size=size)
    )
    encoder = initial.encoder(config).eval()
    x = images(size)[:1]
    with torch.no_grad():
        ours, theirs = encoder(x), network(x)
    last = theirs.last_hidden_state
    if kind == "resnet":
        torch.testing.assert_close(ours.maps[4], last, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.pooled, theirs.pooler_output[:, :, 0, 0], rtol=1e-4, atol=1e-4)
    else:
        prefix = 5 if kind == "dinov3" else 1
        tokens = last[:, prefix:].transpose(1, 2).unflatten(2, ours.maps[4].shape[2:])
        torch.testing.assert_close(ours.maps[4], tokens, rtol=1e-3, atol=1e-3)  # float32 through twelve blocks
        if kind != "dinov3":  # timm pools DINOv3 over its patches
            torch.testing.assert_close(ours.pooled, last[:, 0], rtol=1e-3, atol=1e-3)
    assert "transformers' names" in encoder.origin


def test_biases_that_the_network_lacks_are_not_dropped_in_silence(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
    network = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**sizes, num_register_tokens=4))
    network.save_pretrained(tmp_path / "zero")
    assert load(tmp_path / "zero" / "model.safetensors", "vit_small_patch16_dinov3")
    with torch.no_grad():
        network.model.layer[0].attention.q_proj.bias += 1
    network.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="larger than the encoder.*blocks.0.attn.qkv.bias"):
        load(tmp_path / "other" / "model.safetensors", "vit_small_patch16_dinov3")


def test_names_of_nobody_load_by_order_if_every_shape_fits(tmp_path: Path):
    torch.manual_seed(2)
    source = timm.create_model("test_efficientnet", num_classes=0).eval()
    counter = ".num_batches_tracked"
    renamed = {f"_layer{i}{counter * k.endswith(counter)}": v for i, (k, v) in enumerate(source.state_dict().items())}
    torch.save({**renamed, "_fc.weight": torch.zeros(3, 256)}, tmp_path / "a.pth")
    encoder = load(tmp_path / "a.pth", "test_efficientnet")
    with torch.no_grad():
        torch.testing.assert_close(encoder(images()).pooled, source(images()))
    assert "matched by order and shape" in encoder.origin
    assert "ignored: _fc.weight" in encoder.origin
    torch.save(dict(reversed(list(renamed.items()))), tmp_path / "b.pth")
    with pytest.raises(InputError, match="does not fit the encoder, a test_efficientnet"):
        load(tmp_path / "b.pth", "test_efficientnet")


def test_nan_is_refused_by_the_name_in_the_file(vit: State, tmp_path: Path):
    bad = vit["blocks.1.mlp.fc1.weight"].clone()
    bad[0, 0] = torch.nan
    torch.save({"teacher": under("backbone.", {**vit, "blocks.1.mlp.fc1.weight": bad})}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="backbone.blocks.1.mlp.fc1.weight has 1 of"):
        load(tmp_path / "a.pth", "test_vit")


@pytest.mark.parametrize("init", ["timm:test_vit.r160_in1k", "hf-hub:timm/test_vit.r160_in1k"])
def test_weights_that_cannot_be_downloaded_say_what_to_do(init: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = "https://[^ ]*/timm/test_vit.r160_in1k/resolve/main/model.safetensors"
    with pytest.raises(
        InputError, match=f"{file} could not be loaded.*HF_HUB_OFFLINE is set.*not in the cache.*--init"
    ):
        initial.encoder(methods.ByolConfig(model=Model("test_vit"), init=init, views=ViewSpec(size=64)))


@pytest.mark.parametrize("init", ["timm:test_vit.r160_in1k", "hf-hub:timm/test_vit.r160_in1k"])
def test_a_hub_that_does_not_answer_is_asked_once_and_silently(
    init: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    from huggingface_hub import constants, utils

    asked = []

    def refuse(address: str, **_: Any) -> None:
        asked.append(address)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(utils, "get_session", lambda: SimpleNamespace(head=refuse))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(utils._http.time, "sleep", lambda _: pytest.fail("a request was repeated"))
    with pytest.raises(
        InputError, match=r"could not be loaded \(no connection: .*Name or service not known, and it is"
    ):
        initial.encoder(methods.ByolConfig(model=Model("test_vit"), init=init, views=ViewSpec(size=64)))
    assert asked == [constants.ENDPOINT]
    assert not caplog.records
    assert not constants.HF_HUB_OFFLINE, "only in the block"


def test_settings_are_checked_before_weights_are_downloaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(published, "find", lambda *_: pytest.fail("the weights were looked for"))
    config = methods.ByolConfig(model=Model("test_vit"), init="timm:test_vit.r160_in1k", views=ViewSpec(size=64))
    for change in ({"freeze_stages": 99}, {"views": ViewSpec(size=65)}):
        with pytest.raises(InputError, match="allowed: "):
            initial.encoder(replace(config, **change))


@pytest.mark.parametrize(
    ("init", "backbone", "message"),
    [
        ("imagenet", "convnext_atto", "torchvision has no convnext_atto.*--init timm:convnext_atto"),
        ("imagenet-v2", "resnet18", "no IMAGENET1K_V2 weights for resnet18; allowed: imagenet"),
        ("timm:resnet19", "resnet18", "timm .* has no resnet19"),
        ("timm:resnet18.a9", "resnet18", "timm has no weights of this name.*list_pretrained.'resnet18"),
        ("timm:coatnet_0_224", "resnet18", "timm has no weights of this name.*list_pretrained.'coatnet_0_224"),
    ],
)
def test_published_weights_that_do_not_exist_are_refused(init: str, backbone: str, message: str):
    with pytest.raises(InputError, match=message):
        initial.encoder(methods.ByolConfig(model=Model(backbone), init=init))
