"""A run on the URL of a set is the run on its folder, with copies of the tars kept for the next one."""

from dataclasses import replace
from pathlib import Path

from object_storage import web_server
from paths import ROOT
from trainable import metrics, small

from fgdata.shards.manifest import read_manifest
from fgdata.stores.place import Url
from fgdata.views import ViewSpec
from fgtrain.cli import main
from fgtrain.engine.lifecycle import train
from fgtrain.settings.file import from_dict, to_dict


def test_backgrounds_behind_a_url_are_kept_beside_a_set_of_this_machine(drawn_set: Path, tmp_path: Path):
    with web_server(ROOT / "shards") as web:
        config = small(drawn_set, tmp_path / "run", "moco")
        data = replace(config.data, backgrounds=(Url(f"{web.address}/tiny"),), cache_dir=tmp_path / "tars")
        train(replace(config, data=data, epochs=1, views=ViewSpec(size=32, crop="paste")), "moco")
        assert (tmp_path / "tars").is_dir()


def test_training_on_a_url(drawn_set: Path, tmp_path: Path):
    here = small(drawn_set, tmp_path / "here", "moco")
    train(here, "moco")
    with web_server(drawn_set.parent) as web:
        url = Url(f"{web.address}/drawn")
        tars = read_manifest(drawn_set)["splits"]["train"]["shards"]
        data = replace(here.data, shards=url, cache_dir=tmp_path / "tars")
        there = replace(here, data=data, machine=replace(here.machine, out=tmp_path / "there"))
        assert from_dict(to_dict(there), "config.json") == there
        train(there, "moco")
        assert metrics(tmp_path / "there") == metrics(tmp_path / "here")
        kept = {path.name for path in (tmp_path / "tars").iterdir()}  # as many as the run had time for, and no part
        assert kept <= {"lock", *(f"{shard['sha256']}.tar" for shard in tars)}
        assert main(["eval", "knn", str(tmp_path / "there"), "--device", "cpu"]) == 0  # on the URL in run.json
