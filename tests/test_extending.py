"""docs/extending.md: its three files are written to a folder and its commands are run there, as a reader would."""

import csv
import importlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import DOCS, python_block

from fgdata import cli as fgdata_cli
from fgdata import datasets, plugins, saliency, selection
from fgdata.building.build import build
from fgdata.errors import InputError
from fgdata.images import encode_jpeg
from fgtrain import cli as fgtrain_cli
from fgtrain.settings import methods, recipes

PAGE = DOCS / "extending.md"
TABLES = {
    "DATASETS": datasets.DATASETS,
    "DETECTORS": saliency.DETECTORS,
    "ENCODERS": selection.ENCODERS,
    "METHODS": methods.METHODS,
    "RECIPES": recipes.RECIPES,
}
PROGRAMS = {"fgdata": fgdata_cli.main, "fgtrain": fgtrain_cli.main}


def code(name: str) -> str:
    """The Python block of the page whose first line names the file."""
    return python_block(PAGE, f"# {name}")


def commands(heading: str) -> list[list[str]]:
    """The commands in a section of the page."""
    section = PAGE.read_text("utf-8").split(f"\n## {heading}")[1].split("\n## ")[0]
    return [shlex.split(line) for line in section.splitlines() if line.startswith(("    fgdata ", "    fgtrain "))]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes what loading plug-ins changes in this process."""
    tables = {kind: dict(table) for kind, table in TABLES.items()}
    monkeypatch.setattr(plugins, "_modules", {})
    monkeypatch.setattr(plugins, "_providers", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(plugins.VARIABLE, "")
    before = set(sys.modules)
    yield
    saliency.open_once.cache_clear()
    for name in {"photos", "contrast", "vicreg", "mine", "empty", "broken"} & (set(sys.modules) - before):
        del sys.modules[name]
    for kind, table in TABLES.items():
        table.clear()
        table.update(tables[kind])


def write_photos(folder: Path) -> None:
    """Sixteen images of two species, and photos.csv with a box for all but one."""
    (folder / "photos").mkdir()
    with (folder / "photos" / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "species", "box"])
        for i in range(16):
            pixels = np.full((48, 64, 3), 90, np.uint8)
            pixels[8:40, 10 + i : 40 + i] = (250 - 100 * (i % 2), 10 * i, 10)
            (folder / "photos" / f"{i:02}.jpg").write_bytes(encode_jpeg(pixels, 90))
            rows.writerow([f"{i:02}.jpg", ("wren", "robin")[i // 8], f"{10 + i} 8 30 32"])


def test_the_three_examples_of_the_page_work_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path)
    for name in ("photos.py", "contrast.py", "vicreg.py"):
        Path(name).write_text(code(name))
    words = [*commands("A dataset"), *commands("A detector"), *commands("A method")]
    assert len(words) == 8
    monkeypatch.setattr("fgdata.building.build.run_jobs", lambda f, jobs, **_: map(f, jobs))  # a worker takes seconds
    for program, *rest in words:
        plugins._modules.clear()  # each command is a separate process
        assert PROGRAMS[program](rest) == 0, rest
    said = "".join(capsys.readouterr())
    assert "spectral-residual" in said  # the list of detectors
    assert "fgtrain eval knn runs/vicreg --untrained --k 12 --plugin vicreg.py" in said
    assert "fgtrain run cvsa --data.shards shards/photos --data.batch-size 8" in said
    manifest = json.loads(Path("shards/photos/manifest.json").read_text())
    assert list(manifest["plugins"]) == ["photos.py", "contrast.py"]
    assert manifest["detectors"]["contrast"] == {"version": 1, "tau": 0.75}
    assert manifest["splits"]["test"]["samples"] == 4
    assert list(json.loads(Path("runs/vicreg/run.json").read_text())["plugins"]) == ["vicreg.py"]


def test_the_pages_reader_names_the_line_of_a_wrong_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path)
    Path("photos.py").write_text(code("photos.py"))
    for box in ("1 2 3", "1 2 x 4", "1 2 0 4"):
        rows = Path("photos/photos.csv").read_text().splitlines()
        Path("photos/photos.csv").write_text("\n".join([*rows[:2], f"01.jpg,wren,{box}", *rows[3:]]))
        assert fgdata_cli.main(commands("A dataset")[0][1:]) == 2
        assert f"photos.csv, line 3: '01.jpg,wren,{box}'" in capsys.readouterr().err
        plugins._modules.clear()


def test_vicreg_is_the_published_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Eq. 1 to 6 of the paper as loops in float64."""
    (tmp_path / "vicreg.py").write_text(code("vicreg.py"))
    monkeypatch.syspath_prepend(tmp_path)
    vicreg = importlib.import_module("vicreg")
    z = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = [sum(z[b, j] for b in range(6)) / 6 for j in range(4)]
    c = [[sum((z[b, i] - mean[i]) * (z[b, j] - mean[j]) for b in range(6)) / 5 for j in range(4)] for i in range(4)]
    expected = sum(c[i][j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    assert float(vicreg.covariance(z)) == pytest.approx(float(expected), rel=1e-9)
    hinges = [max(0.0, 1 - float(c[j][j] + 1e-4) ** 0.5) for j in range(4)]
    assert float(vicreg.hinge(z)) == pytest.approx(sum(hinges) / 4 / 2, rel=1e-9)


MINE = """
from fgtrain.settings.methods import ByolConfig
from typing import ClassVar
class Mine(ByolConfig):
    method: ClassVar[str] = "mine"
METHODS = {"mine": Mine}
"""


def test_a_run_asks_for_its_plugin_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"method": "mine"}')
    (run / "run.json").write_text('{"name": "mine", "plugins": {"lib/mine.py": "0"}}')
    asks = "runs/mine needs the plug-in lib/mine.py: add --plugin lib/mine.py to the command."
    for words in (
        ["compare", "runs/mine"],
        ["run", "mine", "--resume"],
        ["run", "mine", "--out", "runs/mine", "--resume"],
    ):
        assert fgtrain_cli.main(words) == 2
        assert asks in capsys.readouterr().err
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_text(MINE)
    assert fgtrain_cli.main(["--plugin", "lib/mine.py", "compare", "runs/mine"]) == 2
    assert "runs/mine has no results yet" in capsys.readouterr().err


def test_a_build_asks_for_the_plugin_of_its_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path)
    Path("photos.py").write_text(code("photos.py"))
    plugins.load(["photos"], {"DATASETS": datasets.DATASETS})  # a module in the working folder
    set_path = Path("shards/photos")
    build(datasets.read("photos", tmp_path / "photos"), set_path, saliency=("gt",), workers=1)
    plugins._modules.clear()
    assert fgdata_cli.main(["build-shards", "--dataset", "photos", "--root", "photos"]) == 2
    assert "shards/photos needs the plug-in photos: add --plugin photos" in capsys.readouterr().err
    assert fgdata_cli.main(["check", "shards/photos"]) == 0  # reading needs none


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["--plugin"], "", "takes the name of a module"),
        (["--plugin", "nowhere"], "", "there is no module nowhere in"),
        (["--plugin=gone.py"], "", "there is no such file"),
        (["--plugin", "empty"], "X = 1", "defines none of DATASETS, DETECTORS, ENCODERS, METHODS, RECIPES"),
        (["--plugin", "broken.py"], "import nothing_of_that_name", "nothing_of_that_name"),
        (["--plugin", "broken.py"], "1 / 0", "ZeroDivisionError"),
        (["--plugin", "mine.py"], "DETECTORS = {'rbd': 1}", "adds 'rbd' to DETECTORS, but this program already has"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(words, content, message, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if content:
        name = words[1].removesuffix(".py")
        Path(f"{name}.py").write_text(content)
    assert fgdata_cli.main(["list", *words]) == 2
    assert message in capsys.readouterr().err


def test_entry_points_of_installed_packages_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fgdata.detectors]\nmine = mine:ROW\n[fgtrain.methods]\nbad = mine:GONE\n")
    (tmp_path / "mine.py").write_text(
        "from fgdata.saliency import DetectorRow\nROW = DetectorRow('mine', 'a detector of mine')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert fgdata_cli.main(["list"]) == 0
    assert "a detector of mine" in capsys.readouterr().out
    assert fgtrain_cli.main(["list"]) == 2
    assert "The plug-in bad of the package mine cannot be loaded: AttributeError" in capsys.readouterr().err


def test_take_splits_the_flag_from_the_words():
    words = ["build-shards", "--plugin", "a.py", "--dataset", "x", "--plugin=b"]
    assert plugins.take(words) == (["build-shards", "--dataset", "x"], ["a.py", "b"])
    with pytest.raises(InputError, match="takes the name"):
        plugins.take(["list", "--plugin", "--help"])
    assert os.environ[plugins.VARIABLE] == ""
