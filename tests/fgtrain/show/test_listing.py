"""fgtrain list and the errors of a shard set without any split."""

import json
import shutil
from pathlib import Path

import pytest
from paths import TINY

from fgdata.shards.manifest import signed
from fgtrain import cli
from fgtrain.show.listing import describe_set


def test_a_set_without_splits_is_said_to_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(TINY, tmp_path / "set")
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    manifest = {key: value for key, value in manifest.items() if key != "maps"}
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(signed({**manifest, "splits": {}})))
    assert describe_set(tmp_path / "set")[0] == "no split"
    for words in (["run", "byol", "--device", "cpu", "--data.shards"], ["show", "views", "--shards"]):
        assert cli.main([*words, str(tmp_path / "set")]) == 2
        assert "has no split 'train'" in capsys.readouterr().err
