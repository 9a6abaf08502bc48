"""Supervised, rotation and relative location: their images, answers and losses against closed forms and loops."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec
from fgdata.views.crops import random_resized_crop
from fgdata.views.draws import COUNT
from fgtrain import objectives
from fgtrain.engine.needs import check_labels
from fgtrain.objectives import pretext
from fgtrain.settings import recipes
from fgtrain.settings.common import Data, Model
from fgtrain.settings.comparisons import (
    RelativeLocationConfig,
    RelativeSettings,
    RotationConfig,
    SupervisedConfig,
)

SMALL: dict[str, Any] = {"model": Model(width=8), "data": Data(batch_size=4), "views": ViewSpec(size=48, views=1)}


def build(kind: type, **more) -> Any:
    """The objective in float64 with batch norm and dropout in evaluation mode."""
    return objectives.build(kind(**SMALL | more), samples=40, classes=5).double().eval()


def batch(n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(1, n, 3, 48, 48, generator=generator, dtype=torch.float64)
    return {"views": views, "label": torch.arange(n) % 5}


@pytest.mark.parametrize(
    ("kind", "answers"), [(SupervisedConfig, 5), (RotationConfig, 4), (RelativeLocationConfig, 8)], ids=str
)
def test_a_head_of_zeros_has_the_loss_of_a_guess(kind: type, answers: int):
    objective = build(kind)
    last = objective.head[-1] if isinstance(objective.head, nn.Sequential) else objective.head
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    assert objective(batch(), 0.0)[0].item() == pytest.approx(math.log(answers), abs=1e-12)


def test_supervised_starts_from_the_published_head_and_its_gradient_is_softmax_minus_one_hot():
    objective, data = build(SupervisedConfig), batch()
    assert (objective.head.bias == 0).all()
    assert objective.head.weight.std().item() == pytest.approx(0.01, rel=0.2)  # 5 x 64 draws
    logits, y, _ = objective.compare(data)
    logits.retain_grad()
    nn.functional.cross_entropy(logits, y).backward()
    expected = (logits.detach().softmax(1) - nn.functional.one_hot(y, 5)) / 4
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected)


def test_a_supervised_step_is_that_of_a_linear_layer_in_numpy():
    """The encoder is replaced by the mean over pixels of each channel."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return type("Pooled", (), {"pooled": x.mean((2, 3))})

    objective, data = build(SupervisedConfig), batch()
    objective.encoder, objective.head = Mean(), nn.Linear(3, 5).double()
    w, b = (p.detach().numpy().copy() for p in objective.head.parameters())
    loss, _ = objective(data, 0.0)
    loss.backward()
    with torch.no_grad():
        for parameter in objective.head.parameters():
            parameter -= 0.1 * parameter.grad
    h, y = data["views"][0].mean((2, 3)).numpy(), data["label"].numpy()
    z = np.exp(h @ w.T + b)
    p = z / z.sum(1, keepdims=True)
    assert loss.item() == pytest.approx(-np.log(p[np.arange(4), y]).mean())
    p[np.arange(4), y] -= 1
    np.testing.assert_allclose(objective.head.weight.detach().numpy(), w - 0.1 * p.T @ h / 4)
    np.testing.assert_allclose(objective.head.bias.detach().numpy(), b - 0.1 * p.mean(0))


@torch.no_grad()
def test_the_order_of_the_classes_does_not_change_the_supervised_loss():
    objective, data, order = build(SupervisedConfig), batch(), torch.tensor([3, 0, 4, 1, 2])
    loss = objective(data, 0.0)[0]
    for parameter in objective.head.parameters():
        parameter[order] = parameter.clone()  # row c moves to order[c]
    assert objective(data | {"label": order[data["label"]]}, 0.0)[0].item() == pytest.approx(loss.item(), abs=1e-12)


def test_turns_are_counter_clockwise():
    view = torch.arange(4.0).reshape(1, 1, 1, 2, 2)  # 0 1 over 2 3
    x, y = pretext.turned({"views": view})
    assert x[:, 0].flatten(1).tolist() == [[0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1]]
    assert y.tolist() == [0, 1, 2, 3]
    again = x
    for _ in range(4):
        again = again.rot90(1, (2, 3))
    assert torch.equal(again, x)
    many = pretext.turned({"views": torch.randn(1, 3, 3, 8, 8)})
    assert many[1].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


@torch.no_grad()
def test_turning_the_batch_shifts_the_answers():
    """For any network: the same 4 B images in another order."""
    objective, data = build(RotationConfig).train(), batch()  # in training mode: batch norm sees the same images
    turned = {"views": data["views"].rot90(1, (3, 4))}
    logits, y, _ = objective.compare(data)
    shifted = nn.functional.cross_entropy(logits, (y - 1) % 4)
    assert objective(turned, 0.0)[0].item() == pytest.approx(shifted.item(), abs=1e-9)


def test_rotation_has_the_gradient_of_four_calls_without_batch_statistics():
    objective, data = build(RotationConfig), batch()
    objective(data, 0.0)[0].backward()
    ours = {name: p.grad.clone() for name, p in objective.named_parameters()}
    objective.zero_grad()
    for r in range(4):
        logits = objective.head(objective.encoder(data["views"][0].rot90(r, (2, 3))).pooled)
        (nn.functional.cross_entropy(logits, torch.full((4,), r)) / 4).backward()
    for name, parameter in objective.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-9, atol=1e-12)


def coordinates(n: int, size: int) -> Tensor:
    """(1, n, 3, S, S) whose pixels hold their row, column and sample."""
    row, column = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return torch.stack([torch.stack([row, column, torch.full_like(row, i)]) for i in range(n)])[None]


def test_patches_are_slices_and_their_answers_are_their_directions():
    torch.manual_seed(0)
    view = coordinates(3, 48)
    x, y = pretext.neighbours({"views": view}, patch=10)
    assert x.shape == (27, 3, 10, 10)
    assert y.tolist() == [i for i in range(8) for _ in range(3)]
    corners = x[:, :2, 0, 0].long().reshape(9, 3, 2)
    for cell in range(9):
        for sample in range(3):
            top, left = corners[cell, sample].tolist()
            assert torch.equal(x[3 * cell + sample], view[0, sample, :, top : top + 10, left : left + 10])
            assert (cell // 3) * 16 <= top <= (cell // 3) * 16 + 6
            assert (cell % 3) * 16 <= left <= (cell % 3) * 16 + 6
    assert len({tuple(c) for c in (corners % 16).reshape(-1, 2).tolist()}) > 9  # each patch has its own place
    signs = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    pairs = pretext.Pairs()(x[:, :2].mean((2, 3)))  # centres of neighbour and of the middle patch
    for (dy, dx, my, mx), answer in zip(pairs.tolist(), y.tolist()):
        assert tuple(int(round(d / 16)) for d in (dy - my, dx - mx)) == signs[answer]  # noqa: RUF046


def test_every_place_in_a_cell_is_equally_likely_for_a_patch():
    """A patch of 10 in a cell of 16 has rows and columns 0 to 6."""
    torch.manual_seed(0)
    x, _ = pretext.neighbours({"views": coordinates(300, 48)}, patch=10)
    for axis in (0, 1):
        for places in (x[:, axis, 0, 0].long() % 16).reshape(9, 300):
            assert stats.chisquare(np.bincount(places, minlength=7)).pvalue > 0.001


def test_the_head_of_relative_location_starts_as_published():
    """OpenMixup's neck of pairs, and its classifier."""
    _, hidden, norm, _, dropout, last = build(RelativeLocationConfig).head
    assert (tuple(hidden.weight.shape), tuple(last.weight.shape)) == ((4096, 2 * 64), (8, 4096))
    for layer, bias in ((hidden, 0.1), (last, 0.0)):
        assert layer.weight.mean().item() == pytest.approx(0, abs=1e-4)  # the standard error is at most 3e-5
        assert layer.weight.std().item() == pytest.approx(0.005, rel=0.02)
        torch.testing.assert_close(layer.bias, torch.full_like(layer.bias, bias), atol=1e-8, rtol=0)
    assert (norm.momentum, dropout.p) == (0.003, 0.5)


def test_a_mirrored_view_swaps_the_answers_of_left_and_right():
    places = torch.randint(7, (2, 9, 2), generator=torch.Generator().manual_seed(0))
    swapped = [2, 1, 0, 5, 4, 3, 8, 7, 6]
    mirrored = torch.stack([places[0][swapped], 6 - places[1][swapped]])
    x = torch.randn(2, 3, 48, 48)
    theirs = pretext.cut(x.flip(3), mirrored, 16, 10).unflatten(0, (9, 2))
    assert torch.equal(theirs.flip(-1), pretext.cut(x, places, 16, 10).unflatten(0, (9, 2))[swapped])


@torch.no_grad()
def test_encoding_nine_patches_equals_encoding_sixteen():
    objective, data = build(RelativeLocationConfig, relative=RelativeSettings(hidden=16)), batch()
    torch.manual_seed(0)
    logits, y, _ = objective.compare(data)
    torch.manual_seed(0)
    patches = pretext.neighbours(data, RelativeSettings().side(48))[0].unflatten(0, (9, 4))
    neighbours = [objective.encoder(patches[i]).pooled for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    centres = [objective.encoder(patches[4]).pooled for _ in range(8)]
    both = torch.cat([torch.cat(pair, 1) for pair in zip(neighbours, centres)])
    torch.testing.assert_close(objective.head[1:](both), logits)
    assert y.tolist() == [i for i in range(8) for _ in range(4)]


@pytest.mark.parametrize("image", [(500, 500), (500, 375), (375, 500), (640, 360)])
def test_relative_location_cuts_its_square_at_random_places(image: tuple[int, int]):
    """Also of photographs of 4:3 and 16:9, where a square of a larger share would not fit."""
    spec = recipes.RECIPES["relative-location"]().views.of(0)
    draws = np.random.default_rng(0).random((300, COUNT))
    crops = random_resized_crop(np.tile(image, (300, 1)), draws, spec)
    assert len(np.unique(crops[:, :2], axis=0)) > 150
    assert np.median(crops[:, 2:].prod(1)) < 0.75 * np.prod(image)
    assert (crops[:, 2:].prod(1) > 0.49 * np.prod(image)).all()


def test_the_side_of_a_patch():
    assert [RelativeSettings().side(size) for size in (255, 224, 96, 64, 32)] == [64, 56, 24, 16, 8]
    with pytest.raises(InputError, match="--relative.patch is 90; allowed: at most 85, a third of --views.size 255"):
        RelativeLocationConfig(views=ViewSpec(size=255, views=1), relative=RelativeSettings(patch=90))
    vit = {"model": Model("vit_tiny_patch16_224"), "views": ViewSpec(size=288, views=1)}
    config = RelativeLocationConfig(**vit, relative=RelativeSettings(patch=90))
    with pytest.raises(InputError, match=r"--relative.patch is 90.*vit_tiny_patch16_224.*allowed: 80, 96"):
        objectives.build(config, samples=40)


def test_a_method_takes_as_many_views_as_it_says():
    for kind in (SupervisedConfig, RotationConfig, RelativeLocationConfig):
        with pytest.raises(InputError, match=rf"--views.views is 2; allowed: 1, the views.* {kind.method} takes"):
            kind(views=ViewSpec())


def test_a_set_without_labels_is_refused(drawn_set):
    shards = ShardSet.open(drawn_set)
    check_labels(SupervisedConfig(), shards)
    for classes, found in (((), "no classes"), (("all",), "1 class")):
        shards.classes = classes
        with pytest.raises(
            InputError, match=f"supervised learns from labels, but .* has {found}. .*build-shards --dataset folder"
        ):
            check_labels(SupervisedConfig(), shards)
        check_labels(RotationConfig(), shards)


def test_settings_are_refused():
    for values, message in (
        ({"hidden": 0}, "--relative.hidden is 0"),
        ({"patch": 0}, "--relative.patch is 0; allowed: auto, or 1 to 4,096"),
        ({"dropout": 1.0}, "--relative.dropout is 1.0; allowed: 0 to 0.99"),
    ):
        with pytest.raises(InputError, match=message):
            replace(RelativeSettings(), **values)
