"""Encoder, heads, moving averages, schedules and optimisers."""

import math

import pytest
import torch
from torch import nn
from torchvision import models

from fgtrain import methods, nets, objectives, optim
from fgtrain.config import Data, Model, Optim


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_standard_encoder_is_torchvisions(name: str):
    encoder = nets.Encoder(Model(name)).eval()  # pyright: ignore[reportArgumentType]
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
    assert features.stage3.shape == (2, encoder.channels[3], 4, 4)
    assert features.stage4.shape == (2, encoder.dim, 2, 2)


@pytest.mark.parametrize(("name", "dim"), [("resnet18", 256), ("resnet50", 1024)])
def test_narrow_encoder_and_small_stem(name, dim: int):
    encoder = nets.Encoder(Model(name, width=32, stem="small")).eval()
    theirs = getattr(models, name)()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = encoder(x)
    assert features.pooled.shape == (1, dim)
    assert features.stage4.shape == (1, dim, 4, 4)
    assert set(encoder.state_dict()) <= set(theirs.state_dict())
    ours = sum(p.numel() for p in encoder.layer3.parameters())
    assert ours / sum(p.numel() for p in theirs.layer3.parameters()) == pytest.approx(1 / 4, rel=0.01)


def test_moving_average_matches_steps_by_hand():
    online, expected = nn.Linear(3, 2), []
    target = nets.frozen_copy(online)
    by_hand = [p.detach().clone() for p in online.parameters()]
    for momentum in (0.9, 0.99, 0.5):
        with torch.no_grad():
            for p in online.parameters():
                p.add_(1.0)
        nets.move_towards(target, online, momentum)
        by_hand = [momentum * t + (1 - momentum) * o.detach() for t, o in zip(by_hand, online.parameters())]
    for ours, expected in zip(target.parameters(), by_hand):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)  # one fused multiply-add of rounding
        assert not ours.requires_grad


def test_schedules_on_paper():
    assert optim.learning_rate(0, 100, 10, 1.0) == 0
    assert optim.learning_rate(5, 100, 10, 1.0) == pytest.approx(0.5)
    assert optim.learning_rate(10, 100, 10, 1.0) == pytest.approx(1)
    assert optim.learning_rate(55, 100, 10, 1.0) == pytest.approx(0.5)
    assert optim.learning_rate(100, 100, 10, 1.0) == pytest.approx(0)
    assert optim.learning_rate(0, 10, 0, 0.3) == pytest.approx(0.3)
    assert [optim.target_momentum(p, 0.996) for p in (0, 0.5, 1)] == pytest.approx([0.996, 0.998, 1])


def test_lars_matches_its_equation_and_leaves_out_norms_and_biases():
    module = nn.Linear(4, 3)
    w, b = module.weight.detach().double().clone(), module.bias.detach().double().clone()
    optimizer = optim.build(module.named_parameters(), Optim("lars", 1.0, 0.9, 0.1, exclude_norm_and_bias=True))
    velocity = [torch.zeros_like(w), torch.zeros_like(b)]
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.5
        optimizer.zero_grad()
        (module(torch.full((2, 4), 1.0 + step)) ** 2).sum().backward()
        grads = [module.weight.grad.double(), module.bias.grad.double()]  # pyright: ignore
        decayed = grads[0] + 0.1 * w
        trust = 0.001 * w.norm() / (grads[0].norm() + 0.1 * w.norm())
        velocity[0] = 0.9 * velocity[0] + trust * decayed
        velocity[1] = 0.9 * velocity[1] + grads[1]
        w, b = w - 0.5 * velocity[0], b - 0.5 * velocity[1]
        optimizer.step()
    torch.testing.assert_close(module.weight.detach().double(), w, rtol=1e-5, atol=1e-6)  # float32 against float64
    torch.testing.assert_close(module.bias.detach().double(), b, rtol=1e-5, atol=1e-6)


def small(kind, **more):
    fields: dict = {"model": Model(width=8), "byol": methods.Byol(hidden=16, dim=8), "moco": methods.Moco(dim=8)}
    fields["align"] = methods.Align(hidden=16, dim=8, stages=(3, 4))
    return kind(**{k: v for k, v in (fields | more).items() if k in kind.__dataclass_fields__})


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(2, 6, 1, 64, 64)
    masks[..., 16:48, 8:40] = 1
    return {"views": torch.randn(2, 6, 3, 64, 64, generator=generator), "masks": masks}


KINDS = [(methods.ByolConfig, {}), (methods.MocoConfig, {}), (methods.CvsaConfig, {})]
KINDS += [(methods.CvsaConfig, {"base": "moco"}), (methods.CvsaConfig, {"align": methods.Align(hidden=16)})]


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_objective_learns_only_its_online_half(kind, more):
    config = small(kind, **more)
    objective = objectives.build(config, samples=40).train()
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    loss, logs = objective(batch(), 0.0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(v.ndim == 0 and not v.requires_grad for v in logs.values())
    for name, parameter in objective.named_parameters():
        assert ("target" in name) == (parameter.grad is None), name
    optimizer = optim.build(objective.parameter_groups(), Optim("sgd", momentum=0.0))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    objective.after_step(0.0)
    after = objective.state_dict()
    momentum = getattr(objective, "base", objective).momentum(0.0)
    for name in dict(objective.named_parameters()):
        if "target_" in name:
            online = after[name.replace("target_", "")]
            torch.testing.assert_close(after[name], momentum * before[name] + (1 - momentum) * online)


def test_objective_weights_come_from_the_seed_alone():
    first, again = (objectives.build(small(methods.CvsaConfig), samples=40).state_dict() for _ in range(2))
    other = objectives.build(small(methods.CvsaConfig, seed=1), samples=40).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["base.encoder.conv1.weight"], other["base.encoder.conv1.weight"])


def test_byol_loss_is_its_equation():
    config = small(methods.ByolConfig)
    objective = objectives.build(config, samples=40).train()
    data = batch()
    with torch.no_grad():
        loss, _ = objective(data, 0.0)
    objective = objectives.build(config, samples=40).double().train()
    predictions, targets = [], []
    with torch.no_grad():
        for view in data["views"].double():
            p = objective.predictor(objective.projector(objective.encoder(view).pooled))
            h = objective.target_projector(objective.target_encoder(view).pooled)
            predictions.append(p / p.norm(dim=1, keepdim=True))
            targets.append(h / h.norm(dim=1, keepdim=True))
    cosines = [(p * h).sum(1).mean().item() for p, h in zip(predictions, reversed(targets))]
    expected = -cosines[0] / 2 - cosines[1] / 2
    assert loss.item() == pytest.approx(expected, abs=1e-4)  # float32 batch norm over six samples against float64


def test_queue_turns_over_oldest_first():
    objective = objectives.build(
        small(
            methods.MocoConfig,
        ),
        samples=10,
    )  # auto: 8 rows
    assert objective.queue.shape == (8, 8)
    old = objective.queue.clone()
    one, two = torch.ones(6, 8), torch.full((4, 8), 2.0)
    objective.enqueue(one)
    assert torch.equal(objective.queue, torch.cat([one, old[6:]]))
    objective.enqueue(two)
    assert torch.equal(objective.queue, torch.cat([two[:2], one[2:6], two[:2]]))
    assert int(objective.cursor) == 2


def test_queue_larger_than_the_dataset_warns():
    config = methods.MocoConfig(Data(batch_size=6), model=Model(width=8), moco=methods.Moco(dim=8, queue=64))
    with pytest.warns(UserWarning, match="own negative"):
        objectives.build(config, samples=10)
