"""Grad-CAM against numerical derivatives and a closed form; training curves; the pictures of both commands."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import cli
from fgtrain.engine import lifecycle
from fgtrain.evaluate import cam
from fgtrain.networks.encoder import Encoder
from fgtrain.settings import common, methods
from fgtrain.settings.common import Model
from fgtrain.settings.pictures import Curves
from fgtrain.show import curves, gradcam


@pytest.fixture(scope="module")
def runs(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one epoch of a narrow network."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        lifecycle.train(
            methods.ByolConfig(
                data=common.Data(drawn_set, batch_size=16),
                views=ViewSpec(size=64),
                model=Model(width=8),
                byol=methods.ByolSettings(hidden=16, dim=8),
                epochs=2,
                seed=seed,
                machine=common.Machine(out=folder / f"byol-{seed}", device="cpu", threads=2, log_every=1),
            ),
            "byol",
        )
        for seed in (0, 1)
    ]


def test_grad_cam_equals_its_equations_with_numerical_derivatives():
    """The score is cubic in the maps, so central differences are exact to step^2."""
    torch.manual_seed(0)
    activation = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    mixing = torch.randn(3, 4, 4, dtype=torch.float64)

    def score(a: torch.Tensor) -> torch.Tensor:
        return (mixing * (a**3 + a)).sum((1, 2, 3)) + a.mean((2, 3)).prod(1)

    leaf = activation.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(leaf).sum(), leaf)
    ours = cam.grad_cam(activation, gradient)
    step = 1e-4
    for b in range(2):
        weighted = torch.zeros(4, 4, dtype=torch.float64)
        for k in range(3):
            slopes = []
            for y in range(4):
                for x in range(4):
                    up, down = activation.clone(), activation.clone()
                    up[b, k, y, x] += step
                    down[b, k, y, x] -= step
                    slopes.append((score(up)[b] - score(down)[b]) / (2 * step))
            weighted += torch.stack(slopes).mean() * activation[b, k]
        assert torch.allclose(ours[b], weighted.clamp(min=0), atol=1e-6)
    assert (ours >= 0).all()
    assert (ours > 0).any()


def test_grad_cam_of_a_linear_layer_on_pooled_maps_is_the_class_activation_map():
    """score = w . mean of A, so d score / d A_k = w_k / (H W) everywhere: Grad-CAM = relu(w . A) / (H W)."""
    torch.manual_seed(0)
    encoder = Encoder(Model("resnet18", width=8))
    layer = nn.Linear(encoder.dim, 5)
    x, classes = torch.randn(3, 3, 96, 96), torch.tensor([4, 0, 2])
    maps, predicted = cam.explain(encoder, layer, x, classes)
    with torch.no_grad():
        features = encoder(x)
        expected = torch.einsum("bn,bnhw->bhw", layer.weight[classes], features.maps[4]).relu() / 9
        assert torch.allclose(maps, expected, atol=1e-6)
        assert torch.equal(predicted, layer(features.pooled).argmax(1))
    assert encoder.network.conv1.weight.grad is None


def test_the_picture_is_warm_where_the_map_is_high():
    grey = np.full((60, 90, 3), 128, np.uint8)
    cam = np.zeros((6, 9), np.float32)
    cam[2, 7] = 3.0
    picture = np.asarray(gradcam.overlaid(grey, cam)).astype(int)
    assert picture.shape == (149, 224, 3)  # the longer side is CELL pixels
    y, x = int(149 * 2.5 / 6), int(224 * 7.5 / 9)
    assert picture[y, x, 0] > picture[y, x, 2] + 50
    assert picture[75, 20, 2] > picture[75, 20, 0] + 50


def test_two_runs_are_drawn_side_by_side(runs: list[Path], capsys: pytest.CaptureFixture[str]):
    assert cli.main(["show", "gradcam", *map(str, runs), "--rows", "2"]) == 0
    printed = capsys.readouterr().out
    assert "maps of 2 x 2" in printed
    assert "try a larger --size" in printed
    assert all(f"byol-{seed}, step 4: " in printed for seed in (0, 1))
    sheet = np.asarray(Image.open(runs[0] / "gradcam.png"))
    assert sheet.shape[1] > 3 * gradcam.CELL
    assert cli.main(["show", "gradcam", str(runs[0]), "--rows", "17"]) == 2
    assert "--rows is 17; allowed: 1 to 16" in capsys.readouterr().err
    assert cli.main(["show", "gradcam"]) == 2


@pytest.mark.parametrize("what", ["views", "gradcam", "curves"])
def test_a_picture_that_cannot_be_written_is_named(what: str, runs: list[Path], tmp_path: Path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "p.png").mkdir()
    rows = [] if what == "curves" else ["--rows", "2"]
    assert cli.main(["show", what, str(runs[0]), *rows, "--out", str(taken / "p.png")]) == 2
    assert f"{taken / 'p.png'} is a folder. Name a file: --out FILE" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in taken.iterdir()] == ["p.png"]


def test_curves_have_every_metric_and_skip_missing_values(tmp_path: Path):
    lines = [
        {"step": 1, "epoch": 0.5, "loss": 2.0, "lr": 0.1},
        {"step": 2, "epoch": 1.0, "loss": 1.0, "lr": 0.05},
        {"step": 2, "epoch": 1.0, "knn": 0.3},
        {"step": 3, "epoch": 1.5, "loss": float("nan"), "lr": 0.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "ep')
    assert curves.curves(tmp_path) == {
        "loss": ([0.5, 1.0], [2.0, 1.0]),
        "lr": ([0.5, 1.0, 1.5], [0.1, 0.05, 0.0]),
        "knn": ([1.0], [0.3]),
    }
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        curves.curves(tmp_path / "nowhere")


def test_curves_of_two_runs_have_a_panel_per_figure_and_a_line_per_run(runs: list[Path], capsys):
    figure = curves.draw({path.name: curves.curves(path) for path in runs}, ["loss", "lr"], {})
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["loss", "lr"]
    assert [len(panel.lines) for panel in figure.axes] == [2, 2]
    values = [json.loads(line)["loss"] for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    assert figure.axes[0].lines[1].get_ydata().tolist() == values
    assert cli.main(["show", "curves", *map(str, runs)]) == 0
    assert np.asarray(Image.open(runs[0] / "curves.png")).shape[1] > 1000
    assert cli.main(["show", "curves", str(runs[0]), "--figures", "los"]) == 2
    assert "--figures is los; allowed: loss" in capsys.readouterr().err


def test_curves_without_matplotlib_name_the_install_command(runs: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        curves.draw_curves(Curves(tuple(runs)))
