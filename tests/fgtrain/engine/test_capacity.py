"""Settings that need more memory than there is are refused before anything is allocated."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainable import small

from fgdata import cores
from fgdata.errors import InputError
from fgtrain import objectives
from fgtrain.engine import capacity, lifecycle
from fgtrain.settings import methods, recipes
from fgtrain.settings.common import Config, Data, Optim

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["byol", "moco", "simsiam", "simclr", "cvsa", "synth-pair"])
@pytest.mark.parametrize(("optimiser", "copies"), [("sgd", 2), ("adamw", 3)])
def test_the_sum_is_that_of_the_real_objective(name: str, optimiser: str, copies: int, monkeypatch):
    """Weights and buffers once, gradients once, one or two averages of the optimiser, and the views, in float32."""
    config: Config = replace(small(Path(), Path(), name), optim=Optim(name=optimiser))  # pyright: ignore
    real = objectives.build(config, samples=32)
    parameters = sum(p.numel() * (1 + copies * p.requires_grad) for p in real.parameters())
    batch = [torch.zeros(2, 8, 3, 32, 32), torch.zeros(8), torch.zeros(8)]  # views, labels, indices
    batch += {"cvsa": [torch.zeros(2, 8, 1, 32, 32)], "synth-pair": [torch.zeros(8, 3, 32, 32)]}.get(name, [])
    need = 4 * parameters + sum(tensor.nbytes for tensor in (*real.buffers(), *batch))
    monkeypatch.setattr(capacity, "available_memory", lambda _: need)
    capacity.check_memory(config, 32, CPU)
    monkeypatch.setattr(capacity, "available_memory", lambda _: need - 1)
    with pytest.raises(InputError, match="of memory"):
        capacity.check_memory(config, 32, CPU)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        (
            "moco",
            {"moco": methods.MocoSettings(queue=10**12, dim=128)},
            r"512,0\d\d.* GB .*queue.keys \(1,000,000,000,000 x 128\)",
        ),
        ("synth-pair", {"pair": methods.PairSettings(bank=10**12)}, r"bank \(1,000,000,000,000 x 64\)"),
        (
            "cvsa",
            {"align": methods.AlignSettings(hidden=10**6, dim=10**6)},
            r"aligners.4.* \(1,000,000 x 1,000,000 x 1 x 1\)",
        ),
        ("byol", {"byol": methods.ByolSettings(hidden=10**6, dim=10**6)}, r"GB of it for p\w+or"),
        ("moco", {"moco": methods.MocoSettings(queue=1 << 40, dim=10**6)}, "2.63 bytes|GB .*queue"),
    ],
)
def test_huge_sizes_name_the_tensor_and_both_amounts(
    name: str, change: dict, named: str, drawn_set: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
):
    config = replace(small(drawn_set, tmp_path / "run", name), **change)
    with pytest.raises(InputError, match=named) as error:
        lifecycle.train(config, name)
    assert "Lower" in str(error.value)
    assert not recwarn.list
    assert not (tmp_path / "run").exists()


def test_a_batch_that_no_machine_holds_is_named():
    config = replace(small(Path(), Path(), "byol"), data=Data(batch_size=10**9))
    with pytest.raises(
        InputError, match=r"24,576\.0 GB of it for the views of a batch \(2 x 1,000,000,000 x 3 x 32 x 32\)"
    ):
        capacity.check_memory(config, 10**9, CPU)
    capacity.check_memory(config, 32, CPU)  # a batch larger than the split is another error


def test_an_objective_that_cannot_be_built_without_memory_is_not_checked(monkeypatch: pytest.MonkeyPatch):
    def build(*_: object) -> None:
        torch.zeros(1).item()  # impossible on the meta device

    monkeypatch.setattr(objectives, "build", build)
    capacity.check_memory(recipes.byol(), 32, CPU)


def test_the_limit_is_the_lowest_that_the_system_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "self")
    machine = capacity.available_memory(CPU)
    assert machine > 1 << 20
    job = tmp_path / "cgroup" / "jobs" / "job7"
    job.mkdir(parents=True)
    (tmp_path / "self").write_text("1:name=systemd:/x\n0::/jobs/job7\n")
    for file, content, expected in (
        (job / "memory.max", "max\n", machine),
        (job.parent / "memory.max", "900000\n", 900_000),  # that of the group above counts too
        (job / "memory.max", "800000\n", 800_000),
        (tmp_path / "cgroup" / "memory.max", "700000\n", 700_000),  # a container sees its own as the root
    ):
        file.write_text(content)
        assert capacity.available_memory(CPU) == expected
