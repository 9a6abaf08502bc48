"""The encoder against torchvision's networks, and the moving average against steps by hand."""

import pytest
import torch
from torch import nn
from torchvision import models

from fgtrain.networks.ema import frozen_copy, move_towards
from fgtrain.networks.encoder import Encoder
from fgtrain.networks.resnet import EverySecond
from fgtrain.settings.common import Model


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_standard_encoder_is_torchvisions(name: str):
    encoder = Encoder(Model(name)).eval()  # pyright: ignore[reportArgumentType]
    theirs = getattr(models, name)().eval()
    result = theirs.load_state_dict(encoder.state_dict(), strict=False)
    assert set(result.missing_keys) == {"fc.weight", "fc.bias"}
    assert not result.unexpected_keys
    theirs.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        features = encoder(x)
        torch.testing.assert_close(features.pooled, theirs(x), rtol=0, atol=0)
    assert features.maps[3].shape == (2, encoder.channels[3], 4, 4)
    assert features.maps[4].shape == (2, encoder.dim, 2, 2)


@pytest.mark.parametrize(("name", "dim"), [("resnet18", 256), ("resnet50", 1024)])
def test_narrow_encoder_and_small_stem(name, dim: int):
    encoder = Encoder(Model(name, width=32, stem="small")).eval()
    theirs = getattr(models, name)()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = encoder(x)
    assert features.pooled.shape == (1, dim)
    assert features.maps[4].shape == (1, dim, 4, 4)
    assert set(encoder.state_dict()) <= set(theirs.state_dict())
    ours = sum(p.numel() for p in encoder.network.layer3.parameters())
    assert ours / sum(p.numel() for p in theirs.layer3.parameters()) == pytest.approx(1 / 4, rel=0.01)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_narrow_encoder_has_no_strided_convolution_that_corrupts_the_heap(name: str):
    layers = [m for m in Encoder(Model(name, width=8)).modules() if isinstance(m, nn.Conv2d) and m.in_channels < 16]
    assert layers
    assert not [m for m in layers if m.kernel_size == (1, 1) and m.stride != (1, 1)]


@pytest.mark.parametrize("side", [6, 7])
def test_every_second_position_is_stride_2(side: int):
    layer, x = EverySecond(8, 16, 1, bias=False).double(), torch.randn(2, 8, side, side, dtype=torch.float64)
    nn.init.normal_(layer.weight)
    x.requires_grad_()
    expected = nn.functional.conv2d(x, layer.weight, stride=2)
    torch.testing.assert_close(layer(x), expected)
    wanted = torch.autograd.grad(expected.square().sum(), (x, layer.weight))
    torch.testing.assert_close(torch.autograd.grad(layer(x).square().sum(), (x, layer.weight)), wanted)


def test_moving_average_matches_steps_by_hand():
    online = nn.Linear(3, 2)
    target = frozen_copy(online)
    by_hand = [p.detach().clone() for p in online.parameters()]
    for momentum in (0.9, 0.99, 0.5):
        with torch.no_grad():
            for p in online.parameters():
                p.add_(1.0)
        move_towards(target, online, momentum)
        by_hand = [momentum * t + (1 - momentum) * o.detach() for t, o in zip(by_hand, online.parameters())]
    for ours, expected in zip(target.parameters(), by_hand):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)  # one fused multiply-add of rounding
        assert not ours.requires_grad


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_initialised_blocks_start_as_the_identity(name):
    for start in (True, False):
        encoder = Encoder(Model(name, width=8, zero_init_residual=start)).eval()
        x = torch.rand(2, encoder.channels[4], 4, 4)
        assert torch.equal(encoder.network.layer4[1:](x), x) == start
