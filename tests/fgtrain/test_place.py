"""The set that is used when none is named, and the threads of torch."""

import pytest
import torch

from fgdata.errors import InputError
from fgtrain import place
from fgtrain.place import open_shards


def test_without_a_name_only_a_manifest_that_exists_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards" / "gone").mkdir(parents=True)
    (tmp_path / "shards" / "gone" / "manifest.json").symlink_to("nowhere")
    with pytest.raises(InputError, match="No shard set was named"):
        open_shards(None)


@pytest.mark.parametrize(
    ("cores", "variable", "wanted"), [(3, "", [3]), (8, "", []), (9, "", []), (3, "OMP_NUM_THREADS", [])]
)
def test_torch_gets_no_more_threads_than_the_cpu_quota_allows(
    monkeypatch, cores: int, variable: str, wanted: list[int]
):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "8")
    given: list[int] = []
    monkeypatch.setattr(place, "available_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    place.pick_device("cpu")
    assert given == wanted
