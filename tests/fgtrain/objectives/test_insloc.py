"""InsLoc: RoIAlign and the loss against closed forms, anchors, boxes, and the order of shuffled keys."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou
from trainable import fix_batch_norm

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.objectives import insloc
from fgtrain.settings.bases import MocoSettings
from fgtrain.settings.common import Data, Model
from fgtrain.settings.methods import MocoConfig
from fgtrain.settings.recipes import RECIPES
from fgtrain.settings.regions import InslocConfig, InslocSettings

SIZE = 64
SMALL: dict[str, Any] = {"model": Model(width=8), "data": Data(batch_size=4), "moco": MocoSettings(dim=8)}


def build(**more) -> Any:
    """The objective in float64 with batch norm in evaluation mode."""
    config = InslocConfig(views=ViewSpec(size=SIZE, crop="paste"), insloc=InslocSettings(**more), **SMALL)
    return evaluated(objectives.build(config, samples=16))


def evaluated(objective: Any) -> Any:
    objective = objective.double().train()
    fix_batch_norm(objective)
    return objective


def batch(n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, n, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    start = torch.rand(2, n, 2, generator=generator) * 20
    return {"views": views, "boxes": torch.cat([start, 30 + start], 2)}


class Identity(nn.Module):
    """An encoder whose stage 3 is its input and whose stage 4 is that map."""

    def __init__(self) -> None:
        super().__init__()
        self.network: Any = self
        self.to_stage3 = self.from_stage3 = self.forward_head = lambda x: x


def test_a_region_of_a_ramp_is_the_ramp_at_the_bins_centres():
    column = torch.arange(16.0, dtype=torch.float64) + 0.5  # the centre of each cell
    ramp = column.expand(1, 3, 16, 16)
    box = torch.tensor([[3.0, 4.0, 11.0, 12.0]], dtype=torch.float64)
    out = insloc.region(Identity(), ramp, box, 4)
    torch.testing.assert_close(out[0, 0, 0], torch.tensor([4.0, 6.0, 8.0, 10.0], dtype=torch.float64))
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))


def test_the_whole_view_in_as_many_bins_as_cells_is_the_map_itself():
    x = torch.rand(2, 3, 7, 7, dtype=torch.float64)
    whole = torch.tensor([[0.0, 0.0, 7.0, 7.0]], dtype=torch.float64).expand(2, 4)
    torch.testing.assert_close(insloc.region(Identity(), x, whole, "auto"), x, rtol=0, atol=0)
    large, whole = torch.rand(1, 3, 16, 16), torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    assert insloc.region(Identity(), large, whole, "auto").shape[2:] == (14, 14)


@torch.no_grad()
def test_whole_views_give_the_loss_of_moco(monkeypatch: pytest.MonkeyPatch):
    objective, data = build(bins="auto"), batch()
    data["boxes"] = torch.tensor([0.0, 0.0, SIZE, SIZE]).expand(2, 4, 4)
    monkeypatch.setattr(insloc, "move", lambda boxes, *_: boxes)
    moco = evaluated(objectives.build(MocoConfig(views=ViewSpec(size=SIZE), **SMALL), samples=16))
    moco.load_state_dict(objective.base.state_dict())
    assert objective(data, 0.0)[0].item() == pytest.approx(moco(data, 0.0)[0].item(), abs=1e-12)


@torch.no_grad()
def test_the_loss_contrasts_the_moved_region_of_the_query_with_the_region_of_the_key(monkeypatch: pytest.MonkeyPatch):
    objective, data = build(bins=3), batch()
    moved = torch.tensor([[5.0, 6.0, 40.0, 50.0]], dtype=torch.float64).expand(4, 4)
    monkeypatch.setattr(insloc, "move", lambda *_: moved)
    base, key_boxes = objective.base, insloc.corners(data["boxes"][1])
    loss, logs = objective(data, 0.0)
    expected, rows = 0.0, []
    for i in range(4):
        x_q, x_k = data["views"][:, i : i + 1]
        q = base.projector(insloc.region(base.encoder, x_q, moved[i : i + 1], 3))[0]
        k = base.target_projector(insloc.region(base.target_encoder, x_k, key_boxes[i : i + 1], 3))[0]
        q, k = q / q.norm(), k / k.norm()
        scores = torch.cat([(q @ k)[None], base.queue.keys @ q]) / 0.2
        expected -= float(scores.log_softmax(0)[0]) / 4
        rows.append(k)
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    overlap = box_iou(moved, insloc.corners(data["boxes"][0])).diagonal().mean()
    assert logs["overlap"].item() == pytest.approx(float(overlap))
    objective.after_step(0.0)
    torch.testing.assert_close(base.queue.keys[:4], torch.stack(rows))


@torch.no_grad()
def test_keys_of_a_batch_in_parts_are_returned_in_order():
    """With batch norm in parts the samples are shuffled, images and boxes alike."""
    config = InslocConfig(
        views=ViewSpec(size=SIZE, crop="paste"),
        **SMALL | {"moco": MocoSettings(dim=8, norm_splits=2)},
    )
    objective = objectives.build(config, samples=16).double().train()
    data = batch()
    seen: list[Tensor] = []
    whole = objective.base.target_encoder.network.to_stage3
    boxes = insloc.corners(data["boxes"][1])
    objective.base.target_encoder.network.to_stage3 = lambda x: seen.append(x) or whole(x)
    k = objective.key(data["views"][1], boxes, 0.3)
    assert [len(x) for x in seen] == [2, 2]
    shuffled = torch.cat(seen)
    order = [int((shuffled == x).flatten(1).all(1).nonzero()) for x in data["views"][1]]
    assert order != [0, 1, 2, 3]
    by_hand = torch.empty_like(k)
    for part in (slice(0, 2), slice(2, 4)):
        members = [order.index(i) for i in range(4)[part]]
        features = insloc.region(objective.base.target_encoder, data["views"][1][members], boxes[members], "auto")
        z = objective.base.target_projector(features)
        by_hand[members] = z / z.norm(dim=1, keepdim=True)
    torch.testing.assert_close(k, by_hand)


def test_anchors_are_the_published_ones_at_256_pixels():
    """Height over width, as mmdetection defines its ratios: the set of five is not symmetric."""
    every = insloc.anchors(256)
    shape = every[:, 2:] - every[:, :2]
    assert len(every) == 5120
    assert sorted({round(float(area) ** 0.5) for area in shape.prod(1)}) == [32, 64, 128, 256]
    assert sorted({round(float(h / w), 4) for w, h in shape}) == [0.5, 0.75, 1.0, 1.5, 2.0]
    centres = (every[:, 2:] + every[:, :2]) / 2
    assert sorted({round(float(x)) for x in centres[:, 0]}) == list(range(0, 256, 16))


def test_the_query_box_is_a_random_anchor_that_overlaps_the_pasted_crop():
    torch.manual_seed(0)
    every, box = insloc.anchors(256), torch.tensor([[40.0, 50.0, 200.0, 180.0]])
    iou = box_iou(box, every)[0]
    eligible = (iou > 0.5).nonzero()[:, 0].tolist()
    draws = 200 * len(eligible)
    drawn = insloc.move(box.expand(draws, 4), every, 0.5)
    counts = {i: int((drawn == every[i]).all(1).sum()) for i in eligible}
    assert sum(counts.values()) == draws  # and none other
    chi_square = sum((count - 200) ** 2 / 200 for count in counts.values())
    freedom = len(eligible) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5
    clipped = drawn.clamp(0, 256)
    assert (box_iou(box, clipped) > 0.5).all()  # clipping raises the IoU with a box inside the view


def test_a_box_without_such_an_anchor_gets_the_best_one():
    every, tiny = insloc.anchors(256), torch.tensor([[101.0, 77.0, 109.0, 90.0]])
    best = box_iou(tiny, every)[0].argmax()
    assert torch.equal(insloc.move(tiny, every, 0.5)[0], every[best])


def test_recipe_and_refused_settings():
    c = RECIPES["insloc"]()
    assert (c.views.size, c.views.crop, c.views.area, c.views.aspect) == (256, "paste", (0.2, 1), (0.5, 2))
    assert (c.optim.lr, c.optim.nesterov, c.optim.weight_decay) == (0.03, True, 1e-4)
    for settings, message in (
        ({"views": ViewSpec()}, "--views.crop is rrc; allowed: paste"),
        ({"model": Model("convnext_tiny")}, "--model.backbone is convnext_tiny; allowed: resnet18 and resnet50"),
        ({"moco": MocoSettings(symmetric=True)}, "--moco.symmetric is on; allowed: off"),
    ):
        with pytest.raises(InputError, match=message):
            InslocConfig(**settings)
    with pytest.raises(InputError, match="--insloc.bins is 0; allowed: auto, or 1 to 128"):
        InslocSettings(bins=0)
    with pytest.raises(InputError, match="--insloc.iou is 1; allowed: 0 to 0.99"):
        InslocSettings(iou=1)
