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


@pytest.mark.parametrize("name", ["potato", "meta", "cuda:x", "cpu:1", "cuda ", ""])
def test_a_name_that_is_no_device_is_answered_with_those_that_are(name: str):
    with pytest.raises(InputError, match=f"^--device is {name}; allowed: auto, cpu, cuda, cuda:N, mps.$"):
        place.pick_device(name)


@pytest.mark.parametrize("name", ["auto", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_half_precision_is_for_gpus(name: str, device: str):
    if (name, device) == ("fp16", "cpu"):
        with pytest.raises(InputError, match="--precision is fp16.*allowed on a CPU: auto, fp32, bf16"):
            place.pick_precision(name, torch.device(device))
    else:
        assert place.pick_precision(name, torch.device(device)) in (
            {"fp32", "bf16", "fp16"} if name == "auto" else {name}
        )
