"""A batch in parts (--optim.accumulate)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainable import final, fix_batch_norm, metrics, small

from fgdata.errors import InputError
from fgdata.views import Local, ViewSpec
from fgtrain.engine import lifecycle
from fgtrain.engine.trainer import Trainer, part
from fgtrain.settings.bases import MocoSettings
from fgtrain.settings.comparisons import AttendSettings


def test_a_batch_in_parts_has_the_gradient_of_the_whole_batch(drawn_set: Path, tmp_path: Path, monkeypatch):
    """With batch norm in evaluation mode, because its statistics are those of a part."""
    join = Trainer.join

    def without_statistics(self):
        fix_batch_norm(self.objective)
        join(self)

    monkeypatch.setattr(Trainer, "join", without_statistics)
    runs = []
    for name in ("byol", "moco", "simsiam"):
        for parts in (1, 4):
            config = small(drawn_set, tmp_path / f"{name}{parts}", name)
            config = replace(config, optim=replace(config.optim, lr=1.0, accumulate=parts))
            runs.append(lifecycle.train(config, name))
        whole, parts = (metrics(run) for run in runs[-2:])
        for a, b in zip(whole, parts):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)  # float32 sums in another order
        whole, parts = (final(run)["objective"] for run in runs[-2:])
        for key in whole:
            torch.testing.assert_close(whole[key], parts[key], rtol=1e-3, atol=1e-4)


def test_a_part_has_the_same_samples_in_every_tensor():
    shapes = ViewSpec(
        size=8,
        views=3,
        masks=True,
        plain=True,
        mattes=True,
        boxes=True,
        lent=True,
        local=Local(count=2, size=8),
        object_size=8,
    ).tensors
    assert len(shapes) == 10
    n, batch = torch.arange(6), {}
    for name, shape in shapes.items():
        batch[name] = n.view([-1 if k == -1 else 1 for k in shape]).expand([6 if k == -1 else k for k in shape])
    for number in range(3):
        mine = part(batch, number, 3, shapes)
        for name, shape in shapes.items():
            own = mine[name].movedim(shape.index(-1), 0).reshape(2, -1)
            assert torch.equal(own, torch.tensor([[2 * number], [2 * number + 1]]).expand_as(own))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("simclr", {}, r"--optim\.accumulate is 2.*negatives of simclr"),
        ("synth-pair", {}, "negatives of synth-pair"),
        ("synth-pair", {"moco": MocoSettings(dim=8, targets="sinkhorn")}, "negatives of synth-pair"),
        ("moco-sinkhorn", {}, r"--moco\.targets sinkhorn assigns all keys.*or use --moco\.targets identity"),
        ("lcr", {"attend": AttendSettings(4, target="raw")}, r"raw target of lcr.*or use --attend\.target scaled"),
    ],
)
def test_a_batch_that_is_needed_as_a_whole_is_not_split(
    name: str, changes: dict, message: str, drawn_set: Path, tmp_path: Path
):
    config = replace(small(drawn_set, tmp_path / "run", name), **changes)
    with pytest.raises(InputError, match=message):
        lifecycle.train(replace(config, optim=replace(config.optim, accumulate=2)), name)
    assert not (tmp_path / "run").exists()


def test_parts_that_do_not_divide_the_batch_are_refused(drawn_set: Path, tmp_path: Path):
    optim = small(drawn_set, tmp_path).optim
    for parts in (3, 8):
        with pytest.raises(InputError, match=f"--optim.accumulate is {parts}; allowed: a divisor of .* 8"):
            replace(small(drawn_set, tmp_path), optim=replace(optim, accumulate=parts))
