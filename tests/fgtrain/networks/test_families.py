"""Every family of networks behind the one contract, against timm's own forward pass. timm's test networks are small."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain.evaluate import cam
from fgtrain.networks import initial, optim
from fgtrain.networks.ema import frozen_copy
from fgtrain.networks.encoder import Encoder
from fgtrain.networks.norm import batch_norms
from fgtrain.settings import methods
from fgtrain.settings.common import Model, Optim

CONVOLUTIONAL = ["test_resnet", "test_convnext", "test_efficientnet", "test_nfnet", "test_byobnet"]
OF_TOKENS = ["test_vit", "test_vit2", "test_vit3"]


def images(size: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *OF_TOKENS])
def test_features_are_those_of_timm(name: str):
    encoder = Encoder(Model(name)).eval()
    theirs = timm.create_model(name, num_classes=0, **({"dynamic_img_size": True} if name in OF_TOKENS else {})).eval()
    theirs.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        features, expected = encoder(images()), theirs(images())
        (last,) = theirs.forward_intermediates(
            images(), indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
    torch.testing.assert_close(features.pooled, expected)
    torch.testing.assert_close(features.maps[4], last)
    sides = {level: side for level, side in ((3, 4), (4, 4 if name in OF_TOKENS else 2)) if level in features.maps}
    assert {level: tuple(each.shape) for level, each in features.maps.items()} == {
        level: (2, encoder.channels[level], side, side) for level, side in sides.items()
    }
    assert features.pooled.shape == (2, encoder.dim)
    assert (3 in features.maps) == (name in CONVOLUTIONAL)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3", "convnext_atto"])
def test_shapes_of_published_networks_are_measured_without_their_weights(name: str):
    from fgtrain.networks.architecture import measure

    shape = measure(Model(name))
    theirs = timm.get_pretrained_cfg(name)
    assert theirs is not None
    assert (
        shape.dim == {"swin_tiny_patch4_window7_224": 768, "vit_small_patch16_dinov3": 384, "convnext_atto": 320}[name]
    )
    assert shape.fits(Model(name), 96)


def test_mean_and_std_of_the_network_enter_the_views():
    encoder = Encoder(Model("test_vit"))
    config = timm.get_pretrained_cfg("test_vit")
    assert config is not None
    assert encoder.normalised(ViewSpec(size=64)).mean == tuple(config.mean) == (0.5, 0.5, 0.5)
    assert encoder.evaluation_view(64).std == (0.5, 0.5, 0.5)
    own = ViewSpec(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert encoder.normalised(own) == own
    assert encoder.evaluation_view(64).mean == (0.1, 0.2, 0.3)


def test_imagenets_mean_counts_as_not_given_and_a_tag_or_a_fourth_digit_sets_it():
    """As docs/networks.md says."""
    imagenet, encoder = ViewSpec(), Encoder(Model("test_vit"))
    given = ViewSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert encoder.normalised(given).mean == (0.5, 0.5, 0.5)
    nearly = ViewSpec(mean=(0.4851, 0.456, 0.406))
    assert encoder.normalised(nearly) == nearly
    with torch.device("meta"):
        tagged = Encoder(Model("vit_small_patch16_224.dino"))
    assert (tagged.mean, tagged.std) == (imagenet.mean, imagenet.std)


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (Model("vit_tiny_patch16_224"), 100, "--views.size is 100, which vit_tiny_patch16_224 .*allowed: 96, 112"),
        (Model("beit_base_patch16_224"), 100, "which beit_base_patch16_224 cannot process; allowed: 224"),
        (Model("resnet19"), 64, "resnet19 is not a network of timm .*similar names: .*resnet18"),
        (Model("convnext_atto.nothing"), 64, "convnext_atto.nothing"),
        (Model("test_vit", width=8), 64, "--model.width is 8.*resnet18 and resnet50 only.*test_vit: 64"),
        (Model("test_vit", stem="small"), 64, "--model.stem is small"),
        (Model("resnet18", drop_path=0.1), 64, "--model.drop-path is 0.1.*allowed with --model.backbone resnet18: 0"),
        (Model("vgg11", drop_path=0.1), 64, "--model.drop-path is 0.1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(model: Model, size: int, message: str):
    with pytest.raises(InputError, match=message):
        Encoder(model).check_size(size)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_frozen_stages_keep_their_weights_and_the_rest_moves(name: str):
    config = methods.ByolConfig(model=Model(name), freeze_stages=2, views=ViewSpec(size=64))
    encoder = initial.encoder(config)
    before = {k: v.clone() for k, v in encoder.network.state_dict().items() if v.is_floating_point()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    encoder(images()).pooled.square().mean().backward()
    optimizer.step()
    kept = {encoder.groups.label(k) for k, p in encoder.network.named_parameters() if torch.equal(p, before[k])}
    moved = {encoder.groups.label(k) for k, p in encoder.network.named_parameters() if not torch.equal(p, before[k])}
    assert {"stem", "stage 1", "stage 2"} <= kept
    assert not moved & {"stem", "stage 1", "stage 2"}
    assert "stage 3" in moved
    frozen = set(encoder.groups.up_to(2))
    statistics = [k for k in before if "running" in k and k.rpartition(".")[0] + ".weight" in frozen]
    assert all(torch.equal(encoder.network.state_dict()[k], before[k]) for k in statistics)


def test_held_batch_norm_uses_and_keeps_the_initial_statistics(tmp_path):
    torch.manual_seed(0)
    start = Encoder(Model("test_efficientnet"))
    start.train()(images())  # statistics that are not those of a new network
    torch.save(start.state_dict(), tmp_path / "start.pth")
    config = methods.ByolConfig(
        model=Model("test_efficientnet"), init=str(tmp_path / "start.pth"), norm="hold", views=ViewSpec(size=64)
    )
    held = initial.encoder(config).train()
    target = frozen_copy(held).train()
    with torch.no_grad():
        for network in (held, target):
            torch.testing.assert_close(network(images()).pooled, start.eval()(images()).pooled)
    assert all(torch.equal(v, start.state_dict()[k]) for k, v in target.state_dict().items())
    trained = initial.encoder(replace(config, norm="train")).train()
    assert not torch.allclose(trained(images()).pooled, held(images()).pooled)


def test_layer_decay_is_a_power_of_the_distance_from_the_last_block():
    class Objective(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.predictor = Encoder(Model("test_vit")), nn.Linear(4, 4)

    objective = Objective()
    settings = Optim("adamw", weight_decay=0.1, exclude_norm_and_bias=True, layer_decay=0.5)
    optimizer = optim.build(objective, settings, {})
    optim.set_rates(optimizer, 0, 10, 0, 1.0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    network = objective.encoder.network
    named = dict(network.named_parameters())
    for block in range(6):  # of six
        assert rate[id(named[f"blocks.{block}.attn.qkv.weight"])] == 0.5 ** (6 - block)
    assert rate[id(named["patch_embed.proj.weight"])] == 0.5**7
    assert rate[id(named["cls_token"])] == 0.5**7
    assert rate[id(named["norm.weight"])] == 0.5
    assert rate[id(objective.predictor.weight)] == 1.0
    without = {name for name, p in named.items() if decay[id(p)] == 0}
    assert {"cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias"} <= without
    assert "blocks.0.attn.qkv.weight" not in without
    assert decay[id(objective.predictor.bias)] == 0


@pytest.mark.parametrize(
    ("name", "stage", "by_mean"),
    [("test_resnet", "layer4", True), ("test_efficientnet", "blocks.4", False), ("test_vit", "blocks.5", False)],
)
def test_grad_cam_of_every_family_is_the_equation_on_its_grid(name: str, stage: str, by_mean: bool):
    """The derivatives by finite differences: the network runs again from a stage whose tensor was changed."""
    torch.manual_seed(0)
    encoder = Encoder(Model(name)).eval()
    assert cam.pools_by_mean(encoder, 64) == by_mean
    encoder, layer = encoder.double(), nn.Linear(encoder.dim, 3).double()
    x, classes, tokens = images().double(), torch.tensor([2, 0]), name in OF_TOKENS
    maps, predicted = cam.explain(encoder, layer, x, classes)
    captured, _, as_maps = encoder.last_stage(x)
    captured = captured.detach()

    channels = as_maps(captured).shape[1]

    def scores(tensor: torch.Tensor) -> torch.Tensor:
        """(channels * 2, ...) tensors of the stage -> (channels, 2) scores of the two images' classes."""
        module = encoder.network.get_submodule(stage)
        hook = (
            module.register_forward_pre_hook(lambda *_: (tensor,))
            if tokens
            else module.register_forward_hook(lambda *_: tensor)
        )
        with hook, torch.no_grad():
            pooled = encoder(x.repeat(channels, 1, 1, 1)).pooled
        return layer(pooled).gather(1, classes.repeat(channels)[:, None])[:, 0].view(channels, 2)

    # The mean derivative over positions is the derivative along equal steps at all of them, but the class token's.
    direction = torch.zeros(channels, *captured.shape, dtype=torch.float64)
    for channel in range(channels):
        direction[(channel, slice(None), slice(1, None), channel) if tokens else (channel, slice(None), channel)] = 1
    direction, start, step = direction.flatten(0, 1), captured.repeat(channels, *[1] * (captured.ndim - 1)), 1e-4
    slope = (scores(start + step * direction) - scores(start - step * direction)) / (2 * step)
    weighted = torch.einsum("cb,bchw->bhw", slope / maps[0].numel(), as_maps(captured).double())
    torch.testing.assert_close(maps.double(), weighted.clamp(min=0), rtol=1e-3, atol=1e-6)  # maps are float32
    assert maps.shape == ((2, 4, 4) if tokens else (2, 2, 2))
    with torch.no_grad():
        assert torch.equal(predicted, layer(encoder(x).pooled).argmax(1))


def test_batch_norm_is_found_in_every_family():
    assert any(True for _ in batch_norms(Encoder(Model("test_efficientnet"))))
    assert not any(True for _ in batch_norms(Encoder(Model("test_vit"))))
    assert not any(True for _ in batch_norms(Encoder(Model("test_convnext"))))
