"""Box distillation against its equation, its bank, and its teacher, which never changes."""

import math
from dataclasses import replace

import pytest
import torch

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.networks.encoder import Encoder
from fgtrain.objectives.distillation import Bank, teacher_size
from fgtrain.settings.common import Model
from fgtrain.settings.distillation import BoxDistillConfig, DistillSettings

SETTINGS = DistillSettings(size=64, tau=0.1, weight=0.5)
CONFIG = BoxDistillConfig(model=Model(width=8), views=ViewSpec(size=32, views=1), distill=SETTINGS)


def data(views: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"views": (views, 4, 3, 32, 32), "object": (4, 3, 64, 64)}
    images = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return images | {"index": torch.tensor([0, 1, 2, 3]) + 2 * seed}


def test_the_loss_is_that_of_the_equation():
    objective = objectives.build(CONFIG, samples=10).double().train()
    with torch.no_grad():
        objective(data(seed=0), 0.0)
        objective.after_step(0.0)  # the bank holds images 0 to 3
        for parameter in objective.encoder.parameters():
            parameter.mul_(1.1)  # the student has moved away from its teacher
    student, teacher = Encoder(CONFIG.model).double().eval(), Encoder(CONFIG.model).double().eval()
    student.load_state_dict(objective.encoder.state_dict())
    teacher.load_state_dict(objective.target_encoder.state_dict())
    first, batch = data(seed=0), data(views=2, seed=1)  # images 2 to 5
    with torch.no_grad():
        bank = [x / x.norm() for x in teacher(first["object"]).pooled]
        targets = [x / x.norm() for x in teacher(batch["object"]).pooled]
        online = [[x / x.norm() for x in student(view).pooled] for view in batch["views"]]
    relations, distances = [], []
    for pooled in online:
        for i, (s, t) in enumerate(zip(pooled, targets)):
            others = [b for j, b in enumerate(bank) if j != i + 2]
            p, q = ([math.exp(float(x @ b) / 0.1) for b in others] for x in (t, s))
            p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
            relations.append(sum(a * math.log(a / b) for a, b in zip(p, q)))
            distances.append(1 - float(s @ t))
    loss, logs = objective(batch, 0.0)
    assert logs["relation"].item() == pytest.approx(sum(relations) / 8, rel=1e-9)
    assert logs["distance"].item() == pytest.approx(sum(distances) / 8, rel=1e-9)
    assert loss.item() == pytest.approx(sum(relations) / 8 + 0.5 * sum(distances) / 8, rel=1e-9)


def test_a_student_that_sees_what_its_teacher_sees_has_nothing_to_learn():
    config = replace(CONFIG, distill=replace(SETTINGS, size=32))
    objective = objectives.build(config, samples=40).double().train()
    for seed in range(3):
        batch = data(seed=seed)
        assert abs(objective(batch | {"object": batch["views"][0]}, 0.0)[0].item()) < 1e-12
        objective.after_step(0.0)
    assert (objective.bank.owners >= 0).sum() == 8


def test_the_teacher_is_the_starting_network_for_ever():
    objective = objectives.build(CONFIG, samples=40).double().train()
    start = {name: x.clone() for name, x in objective.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([x for x in objective.parameters() if x.requires_grad], 0.1)
    for step in range(2):
        loss, _ = objective(data(seed=step), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(0.5)
    teacher, student = objective.target_encoder.state_dict(), objective.encoder.state_dict()
    assert all(torch.equal(x, start[name]) for name, x in teacher.items())
    assert not torch.equal(student["conv1.weight"], start["conv1.weight"])
    assert all(torch.equal(student[name], start[name]) for name in start if "running" in name)
    assert not any(module.training for module in objective.target_encoder.modules())


def test_an_image_replaces_its_own_feature_and_one_with_the_same_row():
    bank = Bank(5, 2)
    assert not bank.others(torch.tensor([3])).any()
    bank.arrive(torch.tensor([[1.0, 0], [0, 1.0]]), torch.tensor([3, 4]))
    assert not bank.others(torch.tensor([0])).any()  # they enter with the turn
    bank.turn()
    assert bank.others(torch.tensor([3, 0])).tolist() == [[False] * 4 + [True], [False] * 3 + [True, True]]
    bank.arrive(torch.tensor([[0.6, 0.8], [0.8, 0.6]]), torch.tensor([3, 9]))
    bank.turn()
    assert bank.owners.tolist() == [-1, -1, -1, 3, 9]
    assert bank.rows[3:].tolist() == torch.tensor([[0.6, 0.8], [0.8, 0.6]]).tolist()
    bank.arrive(torch.eye(4, 2), torch.tensor([14, 2, 19, 24]))  # three of them for one row: the last one counts
    bank.turn()
    assert bank.owners.tolist() == [-1, -1, 2, 3, 24]
    assert bank.rows[[2, 4]].tolist() == [[0, 1], [0, 0]]


def test_the_bank_has_a_row_for_each_training_image_or_as_many_as_are_asked_for():
    assert len(objectives.build(CONFIG, samples=40).bank.rows) == 40
    assert len(objectives.build(replace(CONFIG, distill=replace(SETTINGS, bank=7)), samples=40).bank.rows) == 7


@pytest.mark.parametrize(
    ("backbone", "views", "teacher"),
    [("resnet18", 128, 224), ("resnet18", 224, 384), ("vit_tiny_patch16_224", 96, 160), ("resnet18", 4096, 4096)],
)
def test_the_teacher_s_view_is_larger_in_a_size_that_the_network_takes(backbone: str, views: int, teacher: int):
    config = BoxDistillConfig(model=Model(backbone), views=ViewSpec(size=views, views=1))
    assert teacher_size(Encoder(config.model), config) == teacher


def test_random_starting_weights_are_told_and_given_ones_are_not():
    assert "name trained ones with --init" in objectives.build(CONFIG, samples=40).remarks[0]
    assert not objectives.build(replace(CONFIG, init=""), samples=40).remarks  # a checkpoint brings them


def test_settings_out_of_range_are_named():
    with pytest.raises(InputError, match=r"--distill.size is 4; allowed: auto, or 8 to 4096"):
        DistillSettings(size=4)
    with pytest.raises(InputError, match=r"--distill.tau is 0; allowed: 0.001 to 1,000"):
        DistillSettings(tau=0)
    with pytest.raises(InputError, match=r"--distill.bank is 0; allowed: auto, or 1 to"):
        DistillSettings(bank=0)
    with pytest.raises(InputError, match=r"--distill.size is 100, which vit_tiny_patch16_224 cannot process"):
        objectives.build(replace(CONFIG, model=Model("vit_tiny_patch16_224"), distill=DistillSettings(size=100)), 40)
