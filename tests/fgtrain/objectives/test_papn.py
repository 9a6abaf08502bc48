"""PAPN: its loss against loops written from the equation, its prototypes and its settings."""

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from torch import Tensor
from trainable import fix_batch_norm, small

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.engine.lifecycle import train
from fgtrain.evaluate.report import run_knn
from fgtrain.networks.parts import Parts
from fgtrain.networks.saved import load, load_encoder, run_export
from fgtrain.runs.checkpoint import Checkpoint
from fgtrain.settings import file
from fgtrain.settings.bases import MocoSettings
from fgtrain.settings.common import Data, Model
from fgtrain.settings.evaluations import Export, Knn
from fgtrain.settings.papn import PapnConfig, PapnSettings

MOCO = MocoSettings(dim=8, norm=True, tau=0.15)


def build(backbone: str = "resnet18", **more) -> Any:
    """The objective in float64 with batch norm in evaluation mode."""
    config = PapnConfig(
        model=Model(backbone, width=8) if backbone == "resnet18" else Model(backbone),
        data=Data(batch_size=4),
        views=ViewSpec(size=32, views=8),
        moco=MOCO,
        papn=PapnSettings(parts=3, dim=6, **more),
    )
    objective = objectives.build(config, samples=16).double().train()
    fix_batch_norm(objective)
    return objective


def views(n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, n, 3, 32, 32, generator=generator, dtype=torch.float64)


def norm(x: Tensor) -> Tensor:
    return x / (x * x).sum().sqrt()


def part_by_hand(maps: Tensor, prototypes: Tensor) -> Tensor:
    """(C, h, w), (M, C) -> (C,)."""
    total = torch.zeros(len(maps), dtype=maps.dtype)
    for p in prototypes:
        for i in range(maps.shape[1]):
            for j in range(maps.shape[2]):
                total += norm(maps[:, i, j]) @ norm(p) * maps[:, i, j] / len(prototypes)
    return total


def layers(network: Any, x: Tensor) -> list[Tensor]:
    """The maps of layer2 to layer4, layer by layer."""
    x = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
    maps = []
    for layer in (network.layer2, network.layer3, network.layer4):
        maps.append(x := layer(x))
    return maps


@torch.no_grad()
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_loss_is_its_equation(weight: float):
    objective, data = build(weight=weight), views()
    base, queue = objective.base, objective.base.queue.keys.clone()
    sides = [(base.encoder, base.projector, data[:4]), (base.target_encoder, base.target_projector, data[4:])]
    stages, wholes = [], []
    for encoder, heads, (*own, last) in sides:
        means = [layers(encoder.network, x)[level].mean((2, 3)) for level, x in enumerate(own)]
        stages.append([[norm(row) for row in heads.stages[level](x)] for level, x in enumerate(means)])
        maps = layers(encoder.network, last)
        parts = torch.stack([part_by_hand(image, objective.parts.prototypes) for image in maps[2]])
        wholes.append([norm(z) for z in heads.whole(torch.cat([*(m.mean((2, 3)) for m in maps), parts], 1))])
    align = sum(
        float((a - b).square().sum()) / 6 / 4 for x, y in zip(*stages) for a, b in zip(x, y)
    )  # mean over dimensions and images, sum over stages
    contrast = 0.0
    for q, k in zip(*wholes):
        above = math.exp(float(q @ k) / 0.15)
        contrast -= math.log(above / (above + sum(math.exp(float(q @ c) / 0.15) for c in queue))) / 4
    loss, logs = objective({"views": data}, 0.0)
    assert logs["align"].item() == pytest.approx(align, abs=1e-12)
    assert loss.item() == pytest.approx(contrast + weight * align, abs=1e-12)
    objective.after_step(0.0)
    torch.testing.assert_close(base.queue.keys[:4], torch.stack(wholes[1]))


def test_parts_have_closed_forms():
    one = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    one[0, 0, 0, 0], one[0, 1, 1, 1] = 2.0, 5.0
    parts = Parts(3, 3).double()
    parts.prototypes.data = 7 * torch.eye(3, dtype=torch.float64)  # their lengths do not count
    assert parts(one).tolist() == [[[2, 0, 0], [0, 5, 0], [0, 0, 0]]]  # other positions are orthogonal


def test_prototypes_start_orthonormal_and_both_sides_use_the_online_ones():
    objective, data = build(), {"views": views()}
    prototypes = objective.parts.prototypes
    torch.testing.assert_close(prototypes @ prototypes.T, torch.eye(3, dtype=torch.float64))
    loss, _ = objective(data, 0.0)
    loss.backward()
    assert prototypes.grad.abs().sum() > 0
    objective.base.target_encoder.parts.prototypes.fill_(1e3)
    assert objective(data, 0.0)[0].item() == loss.item()


@torch.no_grad()
def test_batch_norm_uses_the_whole_batch_also_in_one_process():
    """The authors synchronise it over their GPUs. MoCo's splits a batch of 32 in two."""
    settings = PapnConfig()
    config = replace(settings, model=Model(width=8), views=replace(settings.views, size=32))
    objective: Any = objectives.build(config, samples=4096).train()
    sizes: list[int] = []
    for encoder in (objective.base.encoder, objective.base.target_encoder):
        encoder.network.bn1.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    objective({"views": torch.randn(8, 32, 3, 32, 32)}, 0.0)
    assert sizes == [32] * 8


@torch.no_grad()
def test_evaluations_add_the_largest_of_the_parts():
    encoder = build().encoder
    features = encoder(views()[0])
    sums = [
        torch.stack([part_by_hand(image, p[None]) for p in encoder.parts.prototypes]).amax(0)
        for image in features.maps[4]
    ]
    described = encoder.describe(features)
    torch.testing.assert_close(described, torch.cat([features.pooled, torch.stack(sums)], 1))
    assert described.shape == (4, encoder.described)


def test_a_run_keeps_its_parts_and_an_export_leaves_them_out(tmp_path: Path, drawn_set: Path, capsys):
    out = tmp_path / "papn"
    train(replace(small(drawn_set, out, "papn"), epochs=1), "papn")
    encoder = load_encoder(Checkpoint.find(out))
    assert encoder.parts is not None
    assert encoder.described == 2 * encoder.dim
    run_knn(Knn(run=out, k=3, size=32, shards=drawn_set))
    run_export(Export(out, tmp_path / "lone.safetensors"))
    assert "The prototypes of parts are left out" in capsys.readouterr().out
    assert load(tmp_path / "lone.safetensors").parts is None


def test_a_stage_learns_from_its_own_view_only():
    objective, data = build(), views().requires_grad_()
    loss, logs = objective({"views": data}, 0.0)
    loss.backward()
    assert data.grad is not None
    used = [bool(g.abs().sum() > 0) for g in data.grad]
    assert used == [True] * 4 + [False] * 4  # keys have no gradient
    assert set(logs) == {"contrast", "align", "feature_std"}


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "convnext_atto"])
def test_other_networks_have_three_stages_too(backbone: str):
    objective = build(backbone)
    loss, _ = objective({"views": views(2)}, 0.0)
    loss.backward()
    assert math.isfinite(loss.item())


def test_the_views_are_the_published_ones():
    spec = PapnConfig().views
    assert spec.strength == (0.45, 0.7, 0.95, 1.0) * 2
    expected = [0.475, 0.35, 0.225, 0.2, 0.865, 0.79, 0.715, 0.2]
    assert [area[0] for area in spec.area] == pytest.approx(expected)  # pyright: ignore
    assert [area[1] for area in spec.area] == [0.7, 0.7, 0.7, 1, 1, 1, 1, 1]  # pyright: ignore


def test_the_views_survive_config_json_and_flags():
    config = PapnConfig()
    stored = json.loads(json.dumps(file.to_dict(config)))
    assert file.from_dict(stored, "config.json") == config
    given = {name: stored["views"][name] for name in ("area", "strength")}
    assert tyro.cli(ViewSpec, args=shlex.split(file.as_flags(given)), default=ViewSpec(views=8)) == config.views


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="--moco.symmetric is on; allowed: off"):
        PapnConfig(moco=MocoSettings(symmetric=True))
    with pytest.raises(InputError, match="--moco.queue is 128"):
        PapnConfig(moco=MocoSettings(queue=128))
    with pytest.raises(InputError, match="--papn.parts is 0"):
        PapnSettings(parts=0)
    with pytest.raises(InputError, match="--views.views is 2; allowed: 8"):
        PapnConfig(views=ViewSpec())
