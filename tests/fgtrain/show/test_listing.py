"""fgtrain list and the errors of a shard set without any split."""

import json
import re
import shutil
from pathlib import Path

import pytest
from paths import TINY

from fgdata.shards.manifest import signed
from fgtrain import cli
from fgtrain.settings.recipes import RECIPES
from fgtrain.show.listing import describe_set, needs


def test_a_set_without_splits_is_said_to_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(TINY, tmp_path / "set")
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    manifest = {key: value for key, value in manifest.items() if key != "maps"}
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(signed({**manifest, "splits": {}})))
    assert describe_set(tmp_path / "set")[0] == "no split"
    for words in (["run", "byol", "--device", "cpu", "--data.shards"], ["show", "views", "--shards"]):
        assert cli.main([*words, str(tmp_path / "set")]) == 2
        assert "has no split 'train'" in capsys.readouterr().err


def test_every_recipe_is_listed_with_its_kind_and_what_it_needs(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, recipe in RECIPES.items():
        config = recipe()
        row = next(i for i, line in enumerate(lines) if re.match(rf"\W*{re.escape(name)}\s", line))
        wanted = [config.kind, config.model.backbone, *([f"needs {needs(config)}"] if needs(config) else [])]
        wanted += [f"starts from {config.init}"] * bool(config.init)
        assert "; ".join(wanted) in lines[row + 1], name
    assert needs(RECIPES["box-distill"]()) == "boxes, --init WEIGHTS"
