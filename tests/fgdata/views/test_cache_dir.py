"""cache_dir of a loader: used for every set that is given by its URL, refused if there is none."""

from pathlib import Path

import pytest
from object_storage import web_server
from paths import ROOT

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec, load

TINY = ROOT / "shards" / "tiny"


@pytest.mark.parametrize("options", [{}, {"backgrounds": TINY}, {"backgrounds": (ShardSet.open(TINY),)}])
def test_a_folder_that_would_keep_nothing_is_refused(options: dict, drawn_set: Path, tmp_path: Path):
    spec = ViewSpec(size=16, crop="paste")
    for given in (drawn_set, str(drawn_set), ShardSet.open(drawn_set)):
        with pytest.raises(InputError, match=r"cache_dir is '.*/tars', and no set is opened by its URL.*Omit it, or"):
            load(given, views=spec, batch_size=8, cache_dir=tmp_path / "tars", **options)
    assert not (tmp_path / "tars").exists()


def test_backgrounds_given_by_url_use_it(drawn_set: Path, tmp_path: Path):
    with web_server(TINY.parent) as web:
        options = {"views": ViewSpec(size=16, crop="paste"), "batch_size": 8, "cache_dir": tmp_path / "tars"}
        for given in (drawn_set, ShardSet.open(drawn_set)):
            with load(given, backgrounds=f"{web.address}/tiny", **options) as loader:
                assert next(iter(loader))["views"].shape[1] == 8
        assert (tmp_path / "tars").is_dir()
