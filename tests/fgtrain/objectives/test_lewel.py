"""LEWEL: its maps, pooled embeddings and loss against loops and closed forms."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainable import fix_batch_norm

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.networks.encoder import Features
from fgtrain.objectives import lewel
from fgtrain.settings.common import Data, Model
from fgtrain.settings.comparisons import LewelConfig, LewelSettings

SMALL: dict[str, Any] = {"model": Model(width=8), "data": Data(batch_size=4), "views": ViewSpec(size=96)}


def build(config: LewelConfig | None = None, **settings) -> Any:
    """The objective in float64 with batch norm in evaluation mode; maps of 3 x 3."""
    config = config or LewelConfig(**SMALL, lewel=LewelSettings(hidden=16, dim=8, **settings))
    objective = objectives.build(config, samples=40).double().train()
    fix_batch_norm(objective)
    return objective


def batch(n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"views": torch.randn(2, n, 3, 96, 96, generator=generator, dtype=torch.float64)}


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def head(module: nn.Module, x: Tensor) -> Tensor:
    """A head at one position: (B, inputs) -> (B, outputs)."""
    return module(x[..., None])[..., 0]


def test_pooling_is_a_loop_over_groups_and_maps():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64)
    w = torch.rand(2, 8, 5, generator=generator, dtype=torch.float64)
    found = lewel.pool(x, w, heads=4)
    assert found.shape == (2, 12, 2)
    for b in range(2):
        for c in range(12):
            group = c // 3
            for j in range(2):
                expected = sum(float(x[b, c, p] * w[b, 2 * group + j, p]) for p in range(5))
                assert found[b, c, j].item() == pytest.approx(expected)


def test_a_map_of_one_position_picks_its_pixel():
    x, w = torch.randn(1, 6, 4), torch.eye(4)[None]
    assert torch.equal(lewel.pool(x, w, heads=1), x)


class Given(nn.Module):
    """An encoder whose last map is the view itself."""

    def forward(self, x: Tensor) -> Features:
        return Features({4: x}, x.mean((2, 3)))


def test_a_constant_map_is_flat_and_every_embedding_is_the_pooled_feature():
    objective = build(heads=2)
    x = torch.randn(3, 64, 1, 1, dtype=torch.float64).expand(3, 64, 2, 3)
    seen = []
    _, _, w, pooled = objective.embed(Given(), objective.projector, seen.append, x)
    torch.testing.assert_close(w, torch.full_like(w, 1 / 6))
    torch.testing.assert_close(seen[0], pooled[..., None].expand(3, 64, 4))
    assert lewel.entropy(w).item() == pytest.approx(1)


def test_a_small_scale_picks_the_largest_position():
    objective = build()
    objective.settings = SimpleNamespace(**vars(objective.settings) | {"scale": 1e-6})  # below what a setting may be
    x = torch.randn(2, 64, 3, 3, dtype=torch.float64)
    _, _, w, _ = objective.embed(Given(), objective.projector, nn.Identity(), x)
    m = objective.projector(x.flatten(2))
    unit = m / m.norm(dim=1, keepdim=True)
    torch.testing.assert_close(w, nn.functional.one_hot(unit.argmax(2), 9).double())
    assert lewel.entropy(w).item() == pytest.approx(0, abs=1e-6)


def test_the_order_of_the_positions_does_not_matter():
    objective, order = build(), torch.randperm(9)
    x = torch.randn(2, 64, 9, dtype=torch.float64)
    networks = (Given(), objective.projector, objective.object_projector)
    z, o, w, _ = objective.embed(*networks, x.unflatten(2, (3, 3)))
    z_2, o_2, w_2, _ = objective.embed(*networks, x[..., order].unflatten(2, (3, 3)))
    torch.testing.assert_close(z_2, z)
    torch.testing.assert_close(o_2, o)
    torch.testing.assert_close(w_2, w[..., order])


@torch.no_grad()
def test_the_loss_is_its_equation():
    objective, views = build(weight=0.3), batch()["views"]
    z, o, z_target, o_target = [], [], [], []
    for prefix, zs, os in (("", z, o), ("target_", z_target, o_target)):
        encoder, g, g_obj = (getattr(objective, prefix + n) for n in ("encoder", "projector", "object_projector"))
        for view in views:
            features = encoder(view)
            x = features.maps[4].flatten(2)
            zs.append(head(g, features.pooled))
            m = torch.stack([head(g, x[..., p]) for p in range(9)], 2)
            m = m / m.norm(dim=1, keepdim=True)
            w = m.exp() / m.exp().sum(2, keepdim=True)
            v = torch.zeros(4, 64, 2, dtype=torch.float64)
            for c in range(64):
                for j in range(2):
                    v[:, c, j] = (x[:, c] * w[:, 2 * (c // 16) + j]).sum(1)
            os.append(torch.stack([head(g_obj, v[..., j]) for j in range(2)], 2))
    expected = 0.0
    for a, b in ((0, 1), (1, 0)):
        p = head(objective.predictor, z[a])
        expected -= 0.7 / 2 * sum(cosine(p[i], z_target[b][i]) for i in range(4)) / 4
        for j in range(2):
            p = head(objective.object_predictor, o[a][..., j])
            expected -= 0.3 / 2 * sum(cosine(p[i], o_target[b][i, :, j]) for i in range(4)) / 8
    assert objective({"views": views}, 0.0)[0].item() == pytest.approx(expected, abs=1e-10)


def test_without_aligned_embeddings_it_is_byol_with_this_projector():
    objective, data = build(weight=0.0), batch()
    loss, logs = objective(data, 0.0)
    assert torch.equal(loss.detach(), logs["contrast"])
    loss.backward()
    assert all(p.grad.abs().sum() == 0 for p in objective.object_predictor.parameters())
    assert all(p.grad is None for name, p in objective.named_parameters() if "target_" in name)


def test_the_projector_normalises_the_pooled_feature_and_all_positions_together():
    """One batch norm over B x (1 + P) rows, in training mode."""
    objective = build().train()
    x = torch.randn(4, 64, 3, 3, dtype=torch.float64)
    seen = []
    objective.projector[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    objective.embed(Given(), objective.projector, nn.Identity(), x)
    assert seen == [(4, 16, 10)]
    assert [type(m).__name__ for m in objective.projector] == ["Conv1d", "BatchNorm1d", "ReLU", "Conv1d"]
    assert all(m.bias is None for m in objective.modules() if isinstance(m, nn.Conv1d))


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_other_networks_fit(name: str):
    config = LewelConfig(**SMALL | {"model": Model(name)}, lewel=LewelSettings(hidden=16, dim=8))
    objective = build(config)
    objective(batch(2), 0.0)[0].backward()
    online = [p for n, p in objective.named_parameters() if "target_" not in n]
    assert all(p.grad is not None for p in online)


def test_networks_and_settings_that_do_not_fit_are_refused():
    with pytest.raises(
        InputError, match=r"test_efficientnet, whose pooled feature has \d+ channels .* lewel needs equal"
    ):
        objectives.build(LewelConfig(model=Model("test_efficientnet")), samples=40)
    config = LewelConfig(**SMALL | {"model": Model(width=9)})  # 72 channels
    assert objectives.build(config, samples=40).encoder.dim == 72
    with pytest.raises(InputError, match="--lewel.heads is 16; allowed: a divisor of 72, the channels of resnet18"):
        objectives.build(replace(config, lewel=LewelSettings(heads=16)), samples=40)
    for values, message in (
        ({"heads": 3}, "--lewel.heads is 3; allowed: a divisor of --lewel.dim 256"),
        ({"scale": 0.0}, "--lewel.scale is 0.0"),
        ({"weight": 1.5}, "--lewel.weight is 1.5"),
        ({"ema": 2.0}, "--lewel.ema is 2.0"),
        ({"dim": 0}, "--lewel.dim is 0"),
    ):
        with pytest.raises(InputError, match=message):
            replace(LewelSettings(), **values)
