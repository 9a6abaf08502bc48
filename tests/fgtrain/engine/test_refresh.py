"""Boxes from the network's own maps: from a map to a box, when they are found, and that a resumed run has the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from trainable import final, metrics, same, small, stop_at_step

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec, load
from fgtrain.engine import lifecycle
from fgtrain.engine.refresh import Refresh, active_boxes
from fgtrain.networks.encoder import Encoder
from fgtrain.objectives import bases
from fgtrain.settings.common import Config, Model, OwnBoxes
from fgtrain.settings.recipes import RECIPES

OWN = ViewSpec(size=32, crop="contrastive", crop_box="given")
CPU = torch.device("cpu")


def config(shards: Path, out: Path, name: str = "contrastive-crop-own", **machine) -> Config:
    """Four steps per epoch; boxes after epochs 1 and 2 of three."""
    settings = replace(small(shards, out, name, **machine), views=OWN, model=Model(width=8, stem="small"), epochs=3)
    return replace(settings, own_boxes=OwnBoxes(first=1, every=1, threshold=0.5))


def box_by_loops(maps: Tensor, size: int, threshold: float) -> list[float]:
    """(C, h, w) -> the box, pixel by pixel. Bilinear: the map's value at a pixel's centre, its border continued."""
    heat = maps.double().sum(0).numpy()
    if heat.max() == heat.min():
        return [0.0, 0.0, 1.0, 1.0]
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    rows, columns = [], []
    for y in range(size):
        for x in range(size):
            v = np.clip((y + 0.5) * heat.shape[0] / size - 0.5, 0, heat.shape[0] - 1)
            u = np.clip((x + 0.5) * heat.shape[1] / size - 0.5, 0, heat.shape[1] - 1)
            i, j = int(v), int(u)
            below, right = min(i + 1, heat.shape[0] - 1), min(j + 1, heat.shape[1] - 1)
            top = heat[i, j] * (1 - u + j) + heat[i, right] * (u - j)
            bottom = heat[below, j] * (1 - u + j) + heat[below, right] * (u - j)
            if top * (1 - v + i) + bottom * (v - i) > threshold:
                rows.append(y)
                columns.append(x)
    if not rows:
        return [0.0, 0.0, 1.0, 1.0]
    left, upper = min(columns), min(rows)
    return [left / size, upper / size, (max(columns) + 1 - left) / size, (max(rows) + 1 - upper) / size]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_a_box_is_that_of_the_loops(threshold: float):
    maps = torch.rand(6, 1, 5, 6, generator=torch.Generator().manual_seed(0)) ** 20
    expected = [box_by_loops(m, 30, threshold) for m in maps]
    torch.testing.assert_close(active_boxes(maps, 30, threshold).tolist(), expected)
    assert len({*map(tuple, expected)}) > 2


def test_closed_forms_of_a_box():
    """One active cell of 7 x 7, the fourth: the box goes from pixel 83 to 140 of 224, by hand. A constant map, and a
    threshold that nothing exceeds, give the whole image."""
    one = torch.zeros(1, 2, 7, 7)
    one[0, :, 3, 3] = 5
    box = active_boxes(one, 224, 0.1)[0] * 224
    assert box.tolist() == pytest.approx([83, 83, 58, 58])
    moved = active_boxes(one.roll(2, 3), 224, 0.1)[0] * 224
    assert moved.tolist() == pytest.approx([147, 83, 58, 58])
    last = active_boxes(one.roll(3, 3), 224, 0.1)[0]
    assert (last[0] + last[2]).item() == pytest.approx(1)  # up to the far edge
    for maps in (torch.full((1, 2, 7, 7), 3.0), torch.zeros(1, 2, 7, 7), torch.ones(1, 4, 1, 1)):
        assert active_boxes(maps, 224, 0.1).tolist() == [[0, 0, 1, 1]]
    assert active_boxes(one, 224, 0.99).tolist() == [[0, 0, 1, 1]]  # no pixel is at the cell's centre


def test_the_epochs_after_which_boxes_are_found_are_the_published_ones():
    settings = replace(RECIPES["contrastive-crop-own-cub-r50"](), init=None)
    assert (settings.views.crop_alpha, settings.epochs) == (0.6, 100)
    shards: ShardSet = None  # pyright: ignore[reportAssignmentType]
    due = [epoch for epoch in range(1, 101) if Refresh(settings, shards, CPU).is_due(epoch)]
    assert due == [20, 40, 60, 80]
    later = replace(settings, own_boxes=OwnBoxes(first=30, every=50, threshold=0.1))
    assert [epoch for epoch in range(1, 101) if Refresh(later, shards, CPU).is_due(epoch)] == [30, 80]
    encoder = Encoder(Model(width=8))
    assert Refresh(settings, shards, CPU).remarks(encoder) == []
    (remark,) = Refresh(replace(settings, epochs=20), shards, CPU).remarks(encoder)
    assert "--own-boxes.first 20 is not below --epochs 20" in remark
    (remark,) = Refresh(replace(settings, views=OWN), shards, CPU).remarks(encoder)
    assert "has a single position at --views.size 32" in remark


@pytest.mark.parametrize("backend", ["threads", "dali"])
def test_the_boxes_are_those_of_each_image_encoded_alone(backend: str, drawn_set: Path, tmp_path: Path):
    torch.manual_seed(0)
    encoder, settings = Encoder(Model(width=8)).train(), config(drawn_set, tmp_path)
    settings = replace(settings, views=replace(OWN, size=64), machine=replace(settings.machine, backend=backend))
    shards = ShardSet.open(drawn_set)
    found = Refresh(settings, shards, CPU).find(encoder)
    assert encoder.training
    views = replace(encoder.evaluation_view(64), plain=True)
    with load(shards, views=views, batch_size=1, shuffle=False, backend="threads") as loader, torch.no_grad():
        encoder.eval()
        alone = torch.cat([active_boxes(encoder(batch["plain"]).maps[4], 64, 0.5) for batch in loader])
    assert found.shape == (32, 4)
    assert len(found.unique(dim=0)) > 4
    if backend == "threads":
        assert torch.equal(found, alone)
    else:  # pixels differ by up to a level of 8 bits, which may move an edge by a pixel, or rarely add a distant place
        close = ((found - alone).abs() <= 1.01 * 2 / 64).all(1)
        assert close.sum() >= 29


@pytest.fixture(scope="module")
def undisturbed(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lifecycle.train(config(drawn_set, tmp_path_factory.mktemp("own") / "whole"), "contrastive-crop-own")


@pytest.mark.parametrize("stop_at", [4, 6])
def test_a_resumed_run_is_bitwise_the_undisturbed_one(stop_at: int, undisturbed: Path, drawn_set: Path, tmp_path: Path):
    """Stopped at the end of the epoch after which the boxes are found, and within the next."""
    settings = config(drawn_set, tmp_path / "parts")
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(patch, stop_at)
        run = lifecycle.train(settings, "contrastive-crop-own")
    assert final(run)["step"] == stop_at
    assert final(run)["boxes"].shape == (32, 4)
    run = lifecycle.train(replace(settings, machine=replace(settings.machine, resume=True)), "contrastive-crop-own")
    assert metrics(run) == metrics(undisturbed)
    a, b = final(run), final(undisturbed)
    assert [k for k in b if not same(a[k], b[k])] == []


def test_a_run_reports_its_boxes_and_crops_by_them(
    undisturbed: Path, drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    boxes = final(undisturbed)["boxes"]
    areas = [line for line in metrics(undisturbed) if "box_area" in line]
    assert [line["step"] for line in areas] == [4, 8]
    assert areas[-1]["box_area"] == pytest.approx(boxes[:, 2:].double().prod(1).mean().item())
    log = (undisturbed / "log.txt").read_text()
    assert "epoch 1  own boxes: " in log
    assert "epoch 3  own boxes" not in log
    # The last epoch's views are those of a loader with these boxes.
    seen: list[Tensor] = []
    compare = bases.Moco.compare

    def watched(self, views, progress, local=None):
        seen.append(views.clone())
        return compare(self, views, progress, local)

    monkeypatch.setattr(bases.Moco, "compare", watched)
    lifecycle.train(config(drawn_set, tmp_path / "again"), "contrastive-crop-own")
    with load(drawn_set, views=OWN, batch_size=8, seed=0) as loader:
        loader.set_boxes(boxes.numpy())
        assert not all(torch.equal(a, b["views"]) for a, b in zip(seen[:4], loader))  # whole images
        iter(loader)
        for _ in loader:
            pass
        for ours, theirs in zip(seen[8:], loader):
            assert torch.equal(ours, theirs["views"])


def test_any_method_finds_its_boxes(drawn_set: Path, tmp_path: Path):
    """Here the teacher of DINO, with local crops."""
    settings = config(drawn_set, tmp_path / "run", "dino")
    local = small(drawn_set, tmp_path, "dino").views.local
    run = lifecycle.train(replace(settings, epochs=2, views=replace(OWN, local=local)), "dino")
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    assert final(run)["boxes"].shape == (32, 4)


def test_settings_are_refused():
    for values, message in (
        ({"first": 0}, "--own-boxes.first is 0; allowed: 1 to"),
        ({"every": 0}, "--own-boxes.every is 0"),
        ({"threshold": 1.0}, "--own-boxes.threshold is 1.0; allowed: 0 to 0.99"),
    ):
        with pytest.raises(InputError, match=message):
            OwnBoxes(**values)  # pyright: ignore
