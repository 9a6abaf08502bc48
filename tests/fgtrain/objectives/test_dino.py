"""DINO: its loss against loops and closed forms, its centre, temperatures, frozen layer and the network it keeps."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from trainable import final, fix_batch_norm, small

from fgdata.errors import InputError
from fgdata.views import Local, ViewSpec
from fgtrain import objectives
from fgtrain.engine import lifecycle
from fgtrain.networks import optim
from fgtrain.objectives.dino import cross_entropy, teacher_tau
from fgtrain.objectives.dino_head import Head
from fgtrain.settings.common import Data, Model, Optim
from fgtrain.settings.methods import SimclrConfig
from fgtrain.settings.multicrop import DinoConfig, DinoSettings
from fgtrain.settings.recipes import RECIPES

LARGE, SMALL = 48, 32


def build(model: Model | None = None, local: int = 3, **more) -> Any:
    """The objective in float64 with batch norm in evaluation mode."""
    config = DinoConfig(
        model=model or Model(width=8),
        data=Data(batch_size=4),
        views=ViewSpec(size=LARGE, local=Local(count=local, size=SMALL)),
        epochs=10,
        dino=DinoSettings(hidden=16, bottleneck=8, dim=12, **more),
    )
    objective = objectives.build(config, samples=16).double().train()
    fix_batch_norm(objective)
    return objective


def batch(n: int = 4, local: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, n, 3, LARGE, LARGE, generator=generator, dtype=torch.float64)
    small_views = torch.randn(local, n, 3, SMALL, SMALL, generator=generator, dtype=torch.float64)
    return {"views": views, "local": small_views} if local else {"views": views}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@torch.no_grad()
@pytest.mark.parametrize("local", [0, 3])
def test_the_loss_is_its_equation_in_numpy(local: int):
    objective, data = (
        build(local=local, teacher_tau_start=0.1, teacher_tau=0.3, teacher_tau_epochs=5.0),
        batch(4, local),
    )
    objective.centre.normal_(generator=torch.Generator().manual_seed(1))
    images = [*data["views"], *data.get("local", [])]
    s = [objective.network.head(objective.network.encoder(x).pooled).numpy() for x in images]
    t = [objective.target_network.head(objective.target_network.encoder(x).pooled).numpy() for x in images[:2]]
    total, terms, entropy = 0.0, 0, 0.0
    for g in range(2):
        p = softmax((t[g] - objective.centre.numpy()) / 0.18)  # two of five epochs: 0.1 + 0.4 (0.3 - 0.1)
        entropy -= (p * np.log(p)).sum(1).mean() / 2
        for v in range(len(images)):
            if v != g:
                total -= (p * np.log(softmax(s[v] / 0.1))).sum(1).mean()
                terms += 1
    loss, logs = objective(data, 0.2)
    assert terms == 2 * (1 + local)
    assert loss.item() == pytest.approx(total / terms, abs=1e-10)
    assert logs["teacher_entropy"].item() == pytest.approx(entropy, abs=1e-10)
    assert logs["divergence"].item() == pytest.approx(total / terms - entropy, abs=1e-10)


def test_eighteen_pairs_and_none_of_a_view_with_itself():
    """With ten views, each large one is compared with the nine others, and moving its own row changes nothing."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(10, 2, 5, generator=generator, dtype=torch.float64)
    p = torch.randn(2, 2, 5, generator=generator, dtype=torch.float64).softmax(2)
    pairs = [(g, v) for g in range(2) for v in range(10) if v != g]
    assert len(pairs) == 18
    expected = sum(-(p[g] * logits[v].log_softmax(1)).sum(1).mean() for g, v in pairs) / 18
    assert cross_entropy(p, logits).item() == pytest.approx(float(expected), abs=1e-12)
    one = torch.stack([p[0], torch.zeros_like(p[1])])  # only the first large view teaches
    poisoned = logits.clone()
    poisoned[0] *= 100
    torch.testing.assert_close(cross_entropy(one, poisoned), cross_entropy(one, logits))


def test_closed_forms_of_the_loss():
    constant = torch.zeros(6, 3, 4096, dtype=torch.float64)
    assert cross_entropy(constant[:2].softmax(2), constant).item() == pytest.approx(math.log(4096), abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(1, 1, 7, generator=generator, dtype=torch.float64)
    logits = row.expand(4, 3, 7)
    one_hot = nn.functional.one_hot(torch.tensor(2), 7).double().expand(2, 3, 7)
    assert cross_entropy(one_hot, logits).item() == pytest.approx(-float(row.log_softmax(2)[0, 0, 2]), abs=1e-12)
    p = row.softmax(2)
    entropy = -float((p * p.log()).sum())
    assert cross_entropy(p.expand(2, 3, 7), logits).item() == pytest.approx(entropy, abs=1e-12)


@torch.no_grad()
def test_the_centre_moves_after_the_step_towards_the_mean_of_the_teacher():
    objective, data = build(), batch()
    mean = objective.target_network(data["views"])[1].mean((0, 1))
    objective.network.requires_grad_(False)
    for step in range(1, 4):
        before = objective.centre.clone()
        objective(data, 0.0)
        assert torch.equal(objective.centre, before)
        objective.target_network.load_state_dict(objective.network.state_dict())
        objective.after_step(0.0)
        torch.testing.assert_close(objective.centre, (1 - 0.9**step) * mean)


def test_the_teacher_gets_no_gradient_and_is_the_network_that_is_kept():
    objective = build()
    objective(batch(), 0.5)[0].backward()
    assert all(p.grad is None for p in objective.target_network.parameters())
    assert objective.centre.grad is None
    assert all(p.grad is not None for p in objective.network.parameters())
    assert objective.encoder is objective.target_network.encoder


def test_the_last_layer_stays_in_the_first_epoch():
    objective, data = build(), batch()
    optimizer = optim.build(objective, Optim(weight_decay=0.01), objective.rates)
    for group in optimizer.param_groups:
        group["lr"] = 0.1

    def directions() -> Tensor:
        return nn.functional.normalize(objective.network.head.last.weight.detach().clone(), dim=1)

    start, first = directions(), objective.network.head.mlp[0].weight.detach().clone()
    for progress, moves in ((0.0, False), (0.099, False), (0.1, True)):
        optimizer.zero_grad()
        objective(data, progress)[0].backward()
        optimizer.step()
        assert torch.allclose(directions(), start, rtol=0, atol=1e-14) != moves
    assert not torch.allclose(objective.network.head.mlp[0].weight, first)


def test_the_head_is_the_published_one():
    torch.manual_seed(0)
    head = Head(512, DinoSettings())
    layers = [m for m in head.mlp if isinstance(m, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(2048, 512), (2048, 2048), (256, 2048)]
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert (layer.bias == 0).all()
    x = torch.randn(3, 512)
    reference = nn.utils.parametrizations.weight_norm(nn.Linear(256, 4096, bias=False))
    reference.parametrizations.weight.original1.data.copy_(head.last.weight)  # pyright: ignore
    reference.parametrizations.weight.original0.data.fill_(1)  # pyright: ignore
    torch.testing.assert_close(head(x), reference(nn.functional.normalize(head.mlp(x), dim=1)))


def test_batch_norm_in_the_head_is_that_of_its_two_hidden_layers():
    kinds = [type(layer).__name__ for layer in Head(8, DinoSettings(hidden=16, bottleneck=4, dim=6, norm=True)).mlp]
    assert kinds == ["Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d", "GELU", "Linear"]
    torch.manual_seed(0)
    plain, norm = (Head(512, DinoSettings(norm=norm)).mlp for norm in (False, True))
    x = 5 + torch.rand(64, 512)  # alike features, as of an untrained network
    alike, apart = (nn.functional.normalize(mlp(x), dim=1).mean(0).norm().item() for mlp in (plain, norm))
    assert alike > 0.99
    assert apart < 0.5


def test_uniform_outputs_of_an_epoch_are_reported_once():
    objective, lines = build(), []
    objective.after_epoch(1, None, lines.append)
    assert lines == []  # no step
    objective(batch(), 0.0)
    objective.after_epoch(2, None, lines.append)
    assert lines == []
    for epoch in (3, 4):
        nn.init.zeros_(objective.target_network.head.mlp[-1].weight)  # every vector is 0, every output alike
        objective(batch(), 0.0)
        objective.after_epoch(epoch, None, lines.append)
    (line,) = lines
    assert line.startswith("epoch 3  dino: in this epoch the teacher's outputs were nearly uniform")
    assert "entropy 2.48 of at most 2.48" in line  # ln 12
    assert "--dino.norm" in line


def test_a_step_that_is_left_out_neither_warns_nor_hides_a_warning():
    objective, lines = build(), []
    objective(batch(), 0.0)
    objective.entropies.append(torch.tensor(torch.nan))
    objective.after_epoch(1, None, lines.append)
    objective.entropies = [torch.tensor(torch.nan)]
    objective.after_epoch(2, None, lines.append)
    assert lines == []
    nn.init.zeros_(objective.target_network.head.mlp[-1].weight)
    objective(batch(), 0.0)
    objective.entropies.append(torch.tensor(torch.nan))
    objective.after_epoch(3, None, lines.append)
    assert len(lines) == 1


def test_temperature_of_the_teacher():
    warm = DinoSettings(teacher_tau_start=0.04, teacher_tau=0.07, teacher_tau_epochs=30.0)
    assert [teacher_tau(warm, epoch) for epoch in (0, 15, 30, 80)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert teacher_tau(DinoSettings(teacher_tau=0.05), 0.0) == 0.05


def test_each_size_is_one_forward_pass():
    objective, sizes = build(), []
    objective.network.encoder.register_forward_pre_hook(lambda _, x: sizes.append(tuple(x[0].shape)))
    objective(batch(), 0.0)
    assert sizes == [(8, 3, LARGE, LARGE), (12, 3, SMALL, SMALL)]


def test_a_vit_takes_both_sizes_and_its_teacher_has_no_stochastic_depth():
    objective = build(Model("test_vit2", drop_path=0.2))
    data = batch()
    first, again = (objective.target_network(data["views"])[1] for _ in range(2))
    assert torch.equal(first, again)
    torch.manual_seed(0)
    assert not torch.equal(objective.network(data["views"])[1], objective.network(data["views"])[1])
    assert math.isfinite(objective(data, 0.5)[0].item())


def test_the_weights_of_the_run_are_the_teachers(drawn_set: Path, tmp_path: Path):
    run = lifecycle.train(small(drawn_set, tmp_path / "run", "dino"), "dino")
    state, kept = final(run)["objective"], load_file(run / "checkpoints" / "last" / "encoder.safetensors")
    assert torch.equal(kept["conv1.weight"], state["target_network.encoder.conv1.weight"])
    assert not torch.equal(kept["conv1.weight"], state["network.encoder.conv1.weight"])


def test_weight_decay_follows_a_cosine():
    settings = Optim("adamw", weight_decay=0.04, weight_decay_end=0.4, exclude_norm_and_bias=True)
    optimizer = optim.build(nn.Linear(2, 2), settings, {})
    for progress, expected in ((0.0, 0.04), (0.5, 0.22), (1.0, 0.4)):
        optim.set_decay(optimizer, progress, settings)
        assert sorted(g["weight_decay"] for g in optimizer.param_groups) == pytest.approx([0, expected])
    optim.set_decay(optimizer, 0.5, replace(settings, weight_decay_end=None))
    assert max(g["weight_decay"] for g in optimizer.param_groups) == 0.04


def test_the_recipe_has_the_published_values():
    c = RECIPES["dino-cub-r50"]()
    assert isinstance(c, DinoConfig)
    d, o, v = c.dino, c.optim, c.views
    assert (d.hidden, d.bottleneck, d.dim, d.ema, d.centre, d.freeze_epochs) == (2048, 256, 65536, 0.996, 0.9, 1)
    assert (d.tau, d.teacher_tau, d.teacher_tau_start) == (0.1, 0.04, 0.04)
    assert (o.lr, o.momentum, o.weight_decay, o.warmup_epochs, o.clip, o.clip_by) == (
        0.03,
        0.9,
        1e-4,
        10,
        3,
        "parameter",
    )
    assert (v.area, v.saturation, v.blur, v.solarize) == ((0.14, 1), 0.2, (1, 0.1), (0, 0.2))
    assert (v.local.count, v.local.size, v.local.area, v.local.blur) == (8, 96, (0.05, 0.14), 0.5)
    assert (RECIPES["dino-vit"]().views.area, RECIPES["dino-vit"]().views.local.area) == ((0.4, 1), (0.05, 0.4))


def test_settings_are_refused():
    for values, message in (
        ({"dim": 1}, "--dino.dim is 1; allowed: 2 to 1,000,000"),
        ({"hidden": 0}, "--dino.hidden is 0"),
        ({"ema": 1.1}, "--dino.ema is 1.1; allowed: 0 to 1"),
        ({"teacher_tau": 0.0}, "--dino.teacher-tau is 0.0; allowed: 0.001 to 1,000"),
        ({"freeze_epochs": -1.0}, "--dino.freeze-epochs is -1.0"),
    ):
        with pytest.raises(InputError, match=message):
            DinoSettings(**values)  # pyright: ignore
    with pytest.raises(InputError, match="--views.local.count is 2; allowed: 0; only byol, dino and moco learn from"):
        SimclrConfig(views=ViewSpec(local=Local(count=2)))
    vit = DinoConfig(model=Model("vit_tiny_patch16_224"), views=ViewSpec(local=Local(count=2, size=90)))
    with pytest.raises(InputError, match=r"--views.local.size is 90.*vit_tiny_patch16_224.*allowed: 80, 96"):
        objectives.build(vit, samples=40)
