"""The set that is used when none is named."""

import pytest

from fgdata.errors import InputError
from fgtrain.place import open_shards


def test_without_a_name_only_a_manifest_that_exists_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards" / "gone").mkdir(parents=True)
    (tmp_path / "shards" / "gone" / "manifest.json").symlink_to("nowhere")
    with pytest.raises(InputError, match="No shard set was named"):
        open_shards(None)
