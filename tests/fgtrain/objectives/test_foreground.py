"""Foreground against background: its answers and loss, and each mix against its equation."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from trainable import small

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.engine import lifecycle
from fgtrain.objectives import foreground
from fgtrain.settings.common import Data, Model
from fgtrain.settings.recipes import RECIPES
from fgtrain.settings.regions import ForegroundConfig, MixSettings

SIZE = 32
DEVICE = torch.device("cpu")


def build(kind: Any = "none", **more) -> Any:
    """The objective in float64 with batch norm in evaluation mode."""
    config = ForegroundConfig(
        model=Model(width=8),
        data=Data(batch_size=4),
        views=ViewSpec(size=SIZE, views=1),
        mix=MixSettings(kind, **more),
    )
    return objectives.build(config, samples=40).double().eval()


def batch(n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    views, lent = torch.randn(2, n, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return {"views": views[None], "lent": lent, "boxes": torch.tensor([4.0, 6.0, 10.0, 8.0]).expand(1, n, 4)}


def plain(objective: Any, data: dict[str, Tensor]) -> float:
    """Cross-entropy without mixing."""
    logits = objective.head(objective.encoder(torch.cat([data["views"][0], data["lent"]])).pooled)
    return float(nn.functional.cross_entropy(logits, torch.tensor([1] * 4 + [0] * 4)))


@torch.no_grad()
def test_the_loss_is_cross_entropy_with_1_for_the_set_and_0_for_the_others():
    objective, data = build(), batch()
    assert objective(data, 0.0)[0].item() == pytest.approx(plain(objective, data), abs=1e-12)
    nn.init.zeros_(objective.head.weight)
    assert objective(data, 0.0)[0].item() == pytest.approx(math.log(2), abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mixup", "cutmix", "saliencymix"])
def test_a_whole_share_leaves_the_plain_loss(kind: str, monkeypatch: pytest.MonkeyPatch):
    objective, data = build(kind), batch()
    monkeypatch.setattr(foreground, "draw_shares", lambda n, *_: torch.ones(n))
    assert objective(data, 0.0)[0].item() == pytest.approx(plain(objective, data), abs=1e-12)


@torch.no_grad()
def test_the_loss_of_mixup_is_its_equation(monkeypatch: pytest.MonkeyPatch):
    objective, data = build("mixup"), batch()
    share, other = torch.linspace(0, 1, 8), torch.tensor([5, 2, 3, 4, 6, 7, 0, 1])
    monkeypatch.setattr(foreground, "draw_shares", lambda *_: share)
    monkeypatch.setattr(foreground, "another", lambda *_: other)
    x, y = torch.cat([data["views"][0], data["lent"]]), [1] * 4 + [0] * 4
    expected = 0.0
    for i in range(8):
        s, j = float(share[i]), int(other[i])
        log_p = objective.head(objective.encoder((s * x[i] + (1 - s) * x[j])[None]).pooled).log_softmax(1)[0]
        expected -= (s * float(log_p[y[i]]) + (1 - s) * float(log_p[y[j]])) / 8
    loss, logs = objective(data, 0.0)
    assert loss.item() == pytest.approx(expected, abs=1e-7)  # shares are float32
    assert logs["mixed_classes"].item() == pytest.approx(4 / 8)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cutmix", "saliencymix"])
def test_the_loss_of_pasted_rectangles_is_its_equation(kind: str, monkeypatch: pytest.MonkeyPatch):
    """SaliencyMix pastes around the box of the image that it copies from. All other places are one spot, where
    rectangles are clipped; the weights are counts of pixels."""
    objective, data = build(kind), batch()
    share, other, spot = torch.linspace(0.1, 0.9, 8), [5, 2, 3, 4, 6, 7, 0, 1], (29.0, 13.0)
    monkeypatch.setattr(foreground, "draw_shares", lambda *_: share)
    monkeypatch.setattr(foreground, "another", lambda *_: torch.tensor(other))
    monkeypatch.setattr(foreground, "uniform_spots", lambda x: torch.tensor([spot]).repeat(len(x), 1))
    places, boxes = [spot] * 8, [(4.0, 6.0, 10.0, 8.0), (20.0, 2.0, 9.0, 12.0), (0.0, 18.0, 6.0, 14.0), (12, 12, 3, 4)]
    del data["boxes"]
    if kind == "saliencymix":
        data["boxes"] = torch.tensor([boxes])
        places[:4] = [(left + width / 2, top + height / 2) for left, top, width, height in boxes]
    x, y, expected = torch.cat([data["views"][0], data["lent"]]), [1] * 4 + [0] * 4, 0.0
    for i, j in enumerate(other):
        half = SIZE * math.sqrt(1 - float(share[i])) / 2
        left, top = (max(0, round(at - half)) for at in places[j])
        right, bottom = (min(SIZE, round(at + half)) for at in places[j])
        mixed = x[i].clone()
        mixed[:, top:bottom, left:right] = x[j, :, top:bottom, left:right]
        s = 1 - (bottom - top) * (right - left) / SIZE**2
        log_p = objective.head(objective.encoder(mixed[None]).pooled).log_softmax(1)[0]
        expected -= (s * float(log_p[y[i]]) + (1 - s) * float(log_p[y[j]])) / 8
    assert objective(data, 0.0)[0].item() == pytest.approx(expected, abs=1e-10)


def test_the_loss_is_linear_in_the_share():
    logits, y, other = torch.randn(6, 2).double(), torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([1, 1, 0, 0, 0, 1])
    zero, half, one = (
        foreground.mixed_cross_entropy(logits, y, other, torch.full((6,), s).double()) for s in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(half, (zero + one) / 2)
    torch.testing.assert_close(one, nn.functional.cross_entropy(logits, y))
    torch.testing.assert_close(zero, nn.functional.cross_entropy(logits, other))


def test_the_share_of_a_pasted_image_counts_the_pixels_that_remain():
    """Also where the rectangle is clipped at a corner; every pixel is one of the two sources' at its own place."""
    generator = torch.Generator().manual_seed(0)
    n = 200
    x = torch.rand(n, 3, SIZE, SIZE, generator=generator)
    other, share = torch.arange(n).roll(1), torch.rand(n, generator=generator)
    edges = foreground.rectangles(share, torch.rand(n, 2, generator=generator) * SIZE, SIZE)
    mixed, remains = foreground.pasted(x, other, edges)
    own, theirs = (mixed == x).all(1), (mixed == x[other]).all(1)
    assert (own ^ theirs).all()
    assert torch.equal(own.float().mean((1, 2)), remains)
    assert (remains >= share - 2 / SIZE).all()  # edges are rounded to pixels
    assert (remains > share + 2 / SIZE).any()  # clipped
    corner = foreground.rectangles(torch.tensor([0.75]), torch.tensor([[0.0, 0.0]]), SIZE)
    assert corner.tolist() == [[0, 0, SIZE // 4, SIZE // 4]]
    assert foreground.pasted(x[:1], torch.tensor([0]), corner)[1].item() == 1 - 1 / 16


def test_saliencymix_pastes_around_the_box_of_the_other_image():
    x, boxes = (
        torch.zeros(6, 3, SIZE, SIZE),
        torch.tensor([[4.0, 6.0, 10.0, 8.0], [0.0, 0.0, 0.0, 5.0], [28, 28, 4, 4]]),
    )
    torch.manual_seed(0)
    first = foreground.box_centres(boxes, x)
    second = foreground.box_centres(boxes, x)
    assert first[0].tolist() == [9, 10]
    assert first[2].tolist() == [30, 30]
    for row in (1, 3, 4, 5):  # an empty box, and lent images
        assert not torch.equal(first[row], second[row])
        assert (first[row] >= 0).all()
        assert (first[row] < SIZE).all()
    clipped = foreground.rectangles(torch.tensor([0.75]), first[2:3], SIZE)
    assert clipped.tolist() == [[22, 22, SIZE, SIZE]]


def test_every_image_has_another_one_and_shares_follow_beta():
    torch.manual_seed(0)
    for n in (2, 7, 64):
        other = foreground.another(n, DEVICE)
        assert sorted(other.tolist()) == list(range(n))
        assert (other != torch.arange(n)).all()
    drawn = foreground.draw_shares(4000, MixSettings("mixup", alpha=0.4), DEVICE)
    assert stats.kstest(drawn.numpy(), stats.beta(0.4, 0.4).cdf).pvalue > 0.001
    assert len(set(foreground.draw_shares(9, MixSettings("mixup", per="batch"), DEVICE).tolist())) == 1


def test_the_views_have_what_the_mix_needs():
    assert build().views.lent
    assert not build("cutmix").views.needs_boxes
    assert build("saliencymix").views.needs_boxes


def test_a_run_without_other_sets_is_refused_with_the_commands(drawn_set: Path, tmp_path: Path):
    config = small(drawn_set, tmp_path / "run", "foreground")
    config = replace(config, data=replace(config.data, backgrounds=()))
    with pytest.raises(InputError, match=r"foreground distinguishes .*: --data.backgrounds .* fgdata build-shards"):
        lifecycle.train(config, "foreground")
    with pytest.raises(InputError, match="--mix.alpha is 0; allowed: 0.001 to 1,000"):
        MixSettings("mixup", alpha=0)


def test_the_recipe_has_the_published_values():
    c = RECIPES["foreground-cub-r50"]()
    assert isinstance(c, ForegroundConfig)
    assert (c.optim.lr, c.optim.momentum, c.optim.weight_decay, c.epochs) == (0.1, 0.9, 1e-4, 800)
    assert replace(c.views, views=2) == ViewSpec()  # MoCo v2's
