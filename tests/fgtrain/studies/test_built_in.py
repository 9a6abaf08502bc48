"""Every built-in study runs from its first stages to its table, on a small set and with a small network.

pytest -m long tests/fgtrain/studies
"""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from studies_here import run_here

from fgdata.building.build import build
from fgdata.datasets import read
from fgtrain import cli
from fgtrain.settings.recipes import RECIPES
from fgtrain.studies import declaration, record
from fgtrain.studies.declaration import Study
from fgtrain.studies.sets import SETS

SMALL = (
    *("model.width=8", "optim.warmup_epochs=0", "byol.hidden=16", "byol.dim=8", "moco.dim=8", "moco.queue=16"),
    *("simsiam.hidden=16", "simsiam.dim=8", "simsiam.bottleneck=8", "simclr.hidden=16", "simclr.dim=8"),
    *("align.hidden=16", "align.dim=8", "attend.filters=4", "lewel.hidden=16", "lewel.dim=8", "relative.hidden=16"),
    *("dino.hidden=16", "dino.bottleneck=8", "dino.dim=24", "views.local.size=32", "papn.dim=8", "pair.bank=24"),
    *("reconstruct.width=2", "reconstruct.epochs=1", "reconstruct.batch_size=8", "own_boxes.first=1"),
    *("knn.k=3", "linear.cache=true", "linear.epochs=1", "linear.fractions=[1.0, 0.5, 0.2]"),
    *("finetune.epochs=1", "finetune.rates=[0.01]", "finetune.decays=[0.0005]", "finetune.trials=1"),
)


DETECTORS = ("gt", "rbd", "gs", "vsf", "spectral-residual", "whole")


def build_sets(study: Study, home: Path) -> None:
    """Builds the sets that a study reads where they are not there yet, each of other drawn birds, 32 + 16."""
    named = [name for row in study.rows for name in row.settings.get("data.backgrounds", ())]
    named += [*(column.set for column in study.columns), *(row.set for row in study.rows if row.set)]
    for name in {*named, *(stage.set for stage in study.stages.values())}:
        if not (home / study.sets[name].path).exists():
            birds = read("drawn", classes=4, images_per_class=12, size=96, seed=list(SETS).index(name))
            build(birds, home / study.sets[name].path, saliency=DETECTORS, keep_maps=True, shard_samples=48, workers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the sets of the studies, with a file of weights."""
    home = tmp_path_factory.mktemp("studies")
    torch.manual_seed(0)
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), home / "lite0.safetensors")
    return home


def flags(study: Study) -> list[str]:
    """The study with small settings, without weights that would be downloaded."""
    rows = [row.name for row in study.rows if row.settings.get("data.detector") != "u2netp"]  # needs its network
    starts = {row.start for row in study.rows} | {RECIPES[row.recipe]().init for row in study.rows if row.recipe}
    words = ["study", study.name, "--seeds", "0", "--epochs", "2", "--views.size", "64", "--data.batch-size", "8"]
    own = study.settings.get("norm") == "hold"  # its own network, whose stages it freezes and whose statistics it keeps
    words += ["--device", "cpu", "--pictures", "--settings", *(SMALL[1:] if own else SMALL)]
    words += ["--rows", *rows] if len(rows) < len(study.rows) else []
    if own:
        return [*words, "--init", "lite0.safetensors"]
    words += ["--model.backbone", "resnet18"]
    return words + (["--init", "random"] if starts - {"", None, "random", *study.stages} else [])


@pytest.mark.long
@pytest.mark.parametrize("name", declaration.names())
def test_a_built_in_study_runs_to_its_table(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    run_here(monkeypatch)
    monkeypatch.chdir(folder)
    study = declaration.load(name)
    build_sets(study, folder)
    assert cli.main(flags(study)) == 0
    found = record.read(folder / "studies" / name)
    assert record.unmeasured(found) == []
    runnable = [row for row in found.study.rows if not row.missing]
    assert len(record.values_of(found)) >= len(runnable)
    sheets = {path.name for path in (folder / "studies" / name / "pictures").iterdir()}
    pairs = [row for row in runnable if "synth-pair" in row.recipe]
    assert len([sheet for sheet in sheets if sheet.startswith("pairs-")]) == len(pairs)
    assert "gradcam-1.png" in sheets


def test_the_papers_first_table_is_one_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "cvsa-table-1", "--dry-run"]) == 0
    text = capsys.readouterr().out
    for row in declaration.load("cvsa-table-1").rows:
        assert row.name in text
    assert "To do: 36 runs, 40 evaluations." in text
    assert "Not built yet: shards/aircraft, shards/cars, shards/cub, shards/nabirds" in text
    assert not any(tmp_path.iterdir())
