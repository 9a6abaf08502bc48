"""Every method: what is trained, what the seed decides, a batch in parts and in two processes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from objective_cases import CASES, batch, double, fixed_boxes, fixed_turns, gradients, without_batch_statistics
from processes import run_two
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fgtrain import objectives
from fgtrain.networks import optim
from fgtrain.objectives import bases, insloc, looc
from fgtrain.settings.common import Optim


@pytest.fixture(autouse=True)
def without_random_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that parts of a batch, and two processes, have the turns and boxes of the whole batch."""
    monkeypatch.setattr(looc, "draw_turns", fixed_turns)
    monkeypatch.setattr(insloc, "move", fixed_boxes)


@pytest.mark.parametrize("name", CASES)
def test_only_online_weights_receive_gradients_and_targets_follow(name: str):
    objective = objectives.build(CASES[name](), samples=40, classes=3).train()
    before = {k: v.detach().clone() for k, v in objective.named_parameters()}
    loss, logs = objective(batch(name=name), 0.0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(v.ndim == 0 and not v.requires_grad for v in logs.values())
    for key, parameter in objective.named_parameters():
        assert ("target" in key) == (parameter.grad is None), key
    optimizer = optim.build(objective, Optim("sgd", momentum=0.0), objective.rates)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    objective.after_step(0.0)
    after = dict(objective.named_parameters())
    for key in (key for key, _ in objective.named_parameters() if "target_" in key):
        momentum = getattr(objective, "base", objective).momentum(0.0)
        online = after[key.replace("target_", "")]
        torch.testing.assert_close(after[key], momentum * before[key] + (1 - momentum) * online)


@pytest.mark.parametrize("name", CASES)
def test_initial_weights_depend_only_on_the_seed(name: str):
    """The encoder's, those of every head, and the queues; whatever was drawn before."""

    def initial(seed: int) -> dict[str, Tensor]:
        torch.randn(seed + 1)
        return objectives.build(replace(CASES[name](), seed=seed), samples=40, classes=3).state_dict()

    first, again, other = initial(0), initial(0), initial(1)
    assert all(torch.equal(first[k], again[k]) for k in first)
    random = [k for k, v in first.items() if v.is_floating_point() and v.unique().numel() > 2]
    assert any(k.endswith("conv1.weight") for k in random)
    assert [k for k in random if torch.equal(first[k], other[k])] == []


@pytest.mark.parametrize("name", CASES)
def test_accumulated_gradients_equal_the_batch_when_the_objective_accumulates(name: str):
    whole, parts = without_batch_statistics(CASES[name]()), without_batch_statistics(CASES[name]())
    whole(double(batch(name=name)), 0.0)[0].backward()
    for part in (slice(0, 3), slice(3, 6)):
        (parts(double(batch(name=name), part), 0.0)[0] / 2).backward()
    for objective in (whole, parts):
        objective.after_step(0.0)
    expected, accumulated = gradients(whole), gradients(parts)
    same = all(torch.allclose(accumulated[k], expected[k], rtol=1e-9, atol=1e-12) for k in expected)
    assert same == whole.accumulates
    if name in ("moco", "looc"):
        torch.testing.assert_close(parts.queue.keys, whole.queue.keys)  # of looc: the second


# ---- two processes


def run_rank(rank: int, folder: str) -> None:
    """Runs every case on this rank's half of the batch under DDP, and saves loss, gradients and queue."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    looc.draw_turns, insloc.move = fixed_turns, fixed_boxes
    bases.uses_batch = lambda *_: True  # as in training: batch norm is in evaluation mode only to be comparable
    results = {}
    for name, config in CASES.items():
        objective = without_batch_statistics(config())
        base, inputs_seen = getattr(objective, "base", objective), []
        if hasattr(base, "target_encoder"):
            base.target_encoder.register_forward_pre_hook(lambda _, inputs, log=inputs_seen: log.append(inputs[0]))
        data = double(batch(name=name), slice(3 * rank, 3 * rank + 3))
        wrapped = DistributedDataParallel(objective)  # gradients are averaged only while this object exists
        loss, _ = wrapped(data, 0.3)
        loss.backward()
        objective.after_step(0.3)
        losses = [torch.zeros_like(loss) for _ in range(2)]
        dist.all_gather(losses, loss.detach())
        queue = getattr(base, "queue", None)
        results[name] = {
            "loss": torch.stack(losses).mean(),
            "gradients": gradients(objective),
            "queue": None if queue is None else queue.keys.clone(),
            "own": any(torch.equal(x, view) for x in inputs_seen for view in data["views"]),
        }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("two")
    run_two(run_rank, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one_with_the_joined_batch(name: str, two_processes: list[dict]):
    """Batch norm is in evaluation mode, because torch's synchronised batch norm runs only on GPUs."""
    objective = without_batch_statistics(CASES[name]())
    loss, _ = objective(double(batch(name=name)), 0.3)
    loss.backward()
    objective.after_step(0.3)
    for result in (rank[name] for rank in two_processes):
        torch.testing.assert_close(result["loss"], loss.detach())
        expected = gradients(objective)
        assert result["gradients"].keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(result["gradients"][key], expected[key], msg=lambda m, key=key: f"{key}: {m}")
        if result["queue"] is not None:
            torch.testing.assert_close(result["queue"], getattr(objective, "base", objective).queue.keys)


@pytest.mark.slow
def test_keys_are_computed_on_shuffled_samples(two_processes: list[dict]):
    """The target network of a rank never receives the rank's own batch."""
    for rank in two_processes:
        assert not any(rank[name]["own"] for name in ("moco", "moco-symmetric", "moco-sinkhorn", "cvsa-moco", "looc"))
        assert rank["byol"]["own"]
