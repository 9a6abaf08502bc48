"""Two processes on the CPU with gloo: communication, and training that equals one process on the joined batch."""

import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_two
from safetensors.torch import load_file
from trainable import assert_same_training, final, joined, metrics, same, small, without_batch_statistics

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec
from fgtrain import objectives, parallel
from fgtrain.engine import lifecycle, refresh, trainer
from fgtrain.objectives import decoder
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Config, Model, OwnBoxes

METHODS = ("moco", "byol", "simsiam", "simclr", "cvsa", "synth-pair", "dino")


def boxed(shards: Path, out: Path, **machine) -> Config:
    """Settings of a run that finds boxes after its first two epochs of three."""
    config = small(shards, out, "contrastive-crop-own", **machine)
    views = ViewSpec(size=32, crop="contrastive", crop_box="given")
    model, boxes = Model(width=8, stem="small"), OwnBoxes(first=1, every=1, threshold=0.5)
    return replace(config, views=views, model=model, own_boxes=boxes, epochs=3)


def watch_boxes(patch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The boxes that this process gets from now on."""
    found, find = [], refresh.Refresh.find

    def watched(self, encoder):
        found.append(find(self, encoder))
        return found[-1]

    patch.setattr(refresh.Refresh, "find", watched)
    return found


def stopped_at(patch: pytest.MonkeyPatch, stop_at: int, rank: int) -> None:
    step = trainer.Trainer.train_step

    def signalled(self, batch):
        step(self, batch)
        if self.step == stop_at and parallel.rank() == rank:
            os.kill(os.getpid(), signal.SIGUSR1)

    patch.setattr(trainer.Trainer, "train_step", signalled)


def error_of(config: Config) -> str:
    """The error message of a process, or its exit status if another process reports the error."""
    try:
        lifecycle.train(config, "cvsa")
    except InputError as error:
        return str(error)
    except SystemExit as end:
        return f"exit {end.code}"
    return "trained"


def communicate() -> dict[str, Any]:
    """The result of every function of fgtrain.parallel in this process."""
    own = torch.arange(6.0).reshape(3, 2) + 10 * parallel.rank()
    shuffled, order = parallel.shuffle(own, torch.Generator().manual_seed(3))
    rows = own.clone().requires_grad_()
    weight = torch.arange(6.0)[:, None]
    (weight * parallel.gather_with_grad(rows)).sum().backward()
    return {
        "gather": parallel.gather(own),
        "with_grad": parallel.gather_with_grad(own),
        "gradient": rows.grad,
        "shuffled": shuffled,
        "unshuffled": parallel.unshuffle(shuffled, order),
        "collect": parallel.collect(parallel.rank()),
        "any": [parallel.any_of(False), parallel.any_of(parallel.rank() == 1)],
    }


def nan_at(patch: pytest.MonkeyPatch, step: int, rank: int) -> None:
    train_step = trainer.Trainer.train_step

    def with_nan(self, batch):
        if self.step + 1 == step and parallel.rank() == rank:
            batch = {**batch, "views": batch["views"] * float("nan")}
        train_step(self, batch)

    patch.setattr(trainer.Trainer, "train_step", with_nan)


def warmed_up(shards: Path, out: Path) -> dict[str, torch.Tensor]:
    """The weights of a decoder after its warm-up, of features that do not depend on the batch."""
    config = small(shards, out, "synth-pair")
    out.mkdir(exist_ok=True)
    objective: Any = objectives.build(config, 32, 4).train()
    with pytest.MonkeyPatch.context() as patch:
        norm = torch.nn.modules.batchnorm._BatchNorm
        patch.setattr(norm, "train", lambda self, mode=True: torch.nn.Module.train(self, False))
        arguments = RunDir(out), ShardSet.open(shards), torch.device("cpu")
        objective.prepare(*arguments, lambda _: None, lambda: False)
    return objective.decoder.state_dict()


def one_of_two(rank: int, ports: list[int], shards: Path, out: Path) -> None:
    """What each of the two processes runs; its results are saved as `out`/results<rank>.pt."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)

    def run(config: Config, name: str) -> str:
        os.environ["MASTER_PORT"] = str(ports.pop())
        return error_of(config) if name == "error" else str(lifecycle.train(config, name))

    os.environ["MASTER_PORT"] = str(ports.pop())
    with parallel.group("cpu"):
        results = communicate() | {"decoder": warmed_up(shards, out / "warm")}
    with pytest.MonkeyPatch.context() as patch:
        without_batch_statistics(patch)
        for name in METHODS:
            run(joined(shards, out / name, name), name)
        config = joined(shards, out / "in-parts", "byol")
        run(replace(config, optim=replace(config.optim, accumulate=2)), "byol")
    run(small(shards, out / "whole"), "cvsa")
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(patch, 5, rank=1)
        run(small(shards, out / "parts"), "cvsa")
    if rank == 0:
        shutil.copytree(out / "parts", out / "stopped", symlinks=True)
    run(small(shards, out / "parts", resume=True), "cvsa")
    with pytest.MonkeyPatch.context() as patch:
        results["boxes"] = watch_boxes(patch)
        run(boxed(shards, out / "boxes-whole"), "contrastive-crop-own")
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(patch, 6, rank=1)
        run(boxed(shards, out / "boxes-parts"), "contrastive-crop-own")
    run(boxed(shards, out / "boxes-parts", resume=True), "contrastive-crop-own")
    with pytest.MonkeyPatch.context() as patch:
        nan_at(patch, 5, rank=1)
        run(small(shards, out / "nan"), "cvsa")
    odd = small(shards, out / "odd")
    results["odd"] = run(replace(odd, data=replace(odd.data, batch_size=9)), "error")
    results["left"] = not torch.distributed.is_initialized()
    torch.save(results, out / f"results{rank}.pt")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def two(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the runs and results of two processes."""
    out = tmp_path_factory.mktemp("two")
    run_two(one_of_two, free_ports(20), drawn_set, out)
    return out


@pytest.mark.slow
def test_values_are_ordered_by_rank_and_shuffling_is_undone(two: Path):
    own = [torch.arange(6.0).reshape(3, 2), torch.arange(6.0).reshape(3, 2) + 10]
    both = torch.cat(own)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    for rank in (0, 1):
        results = torch.load(two / f"results{rank}.pt")
        rows = slice(3 * rank, 3 * rank + 3)
        assert torch.equal(results["gather"], both)
        assert torch.equal(results["with_grad"], both)
        # each process has the same loss, so a row gets its gradient twice; DDP's mean over the processes halves it
        assert torch.equal(results["gradient"], 2 * torch.arange(6.0)[rows, None].expand(3, 2))
        assert torch.equal(results["shuffled"], both[order][rows])
        assert torch.equal(results["unshuffled"], own[rank])
        assert results["collect"] == [0, 1]
        assert results["any"] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("run", [*(m for m in METHODS if m != "synth-pair"), "in-parts"])
def test_two_processes_train_as_one_on_the_joined_batch(
    run: str, two: Path, drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    without_batch_statistics(monkeypatch)
    name = "byol" if run == "in-parts" else run
    lifecycle.train(joined(drawn_set, tmp_path / "run", name), name)
    assert_same_training(two / run, tmp_path / "run")


@pytest.mark.slow
def test_synthesized_pairs_train_over_two_processes(two: Path):
    """Each process draws its own noise, so the curve is not that of one process; this tests only that they train."""
    assert [line["step"] for line in metrics(two / "synth-pair")] == [3, 6, 8]


@pytest.mark.slow
def test_both_processes_warm_up_the_decoder_as_one_on_the_joined_batch(two: Path, drawn_set: Path, tmp_path: Path):
    first, second = (torch.load(two / f"results{rank}.pt")["decoder"] for rank in (0, 1))
    assert same(first, second)
    assert same(first, load_file(two / "warm" / decoder.FILE))
    alone = warmed_up(drawn_set, tmp_path / "alone")
    # Float32 sums in another order. Adam moves a weight whose gradient is almost zero by up to its rate in every step.
    apart = torch.cat([(first[name] - alone[name]).abs().flatten() for name in first])
    assert apart.quantile(0.95) < 1e-5
    assert apart.max() < 4 * 1e-4


@pytest.mark.slow
def test_a_loss_of_one_process_that_is_not_finite_is_left_out_by_both(two: Path):
    state = final(two / "nan")
    assert state["left_out"] == [5]
    assert all(value == value for line in metrics(two / "nan") for value in line.values())  # none is NaN
    assert all(v.isfinite().all() for v in state["objective"].values())


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_the_resumed_run_is_bitwise_the_undisturbed_one(two: Path):
    assert "Stopped at step 5" in (two / "parts" / "log.txt").read_text()
    assert metrics(two / "parts") == metrics(two / "whole")
    ours, theirs = final(two / "parts"), final(two / "whole")
    assert [k for k in theirs if not same(ours[k], theirs[k])] == []
    assert len(theirs["ranks"]) == 2


@pytest.mark.slow
def test_both_processes_find_the_same_boxes_and_a_resumed_run_too(two: Path):
    """Each encodes half of the images; after the stop, both have the batch-norm statistics of the first one."""
    first, second = (torch.load(two / f"results{rank}.pt")["boxes"] for rank in (0, 1))
    assert [len(boxes) for boxes in first] == [32, 32]
    assert same(first, second)
    assert not torch.equal(first[0], first[1])
    ours, theirs = final(two / "boxes-parts"), final(two / "boxes-whole")
    assert same(theirs["boxes"], first[1])
    assert [k for k in theirs if not same(ours[k], theirs[k])] == []


@pytest.mark.slow
def test_an_error_of_both_processes_is_reported_once(two: Path):
    errors = [torch.load(two / f"results{rank}.pt")["odd"] for rank in (0, 1)]
    assert "--data.batch-size is 9" in errors[0]
    assert "2 processes" in errors[0]
    assert errors[1] == "exit 2"
    assert not (two / "odd").exists()


@pytest.mark.slow
def test_an_error_of_both_processes_ends_their_group(two: Path):
    assert [torch.load(two / f"results{rank}.pt")["left"] for rank in (0, 1)] == [True, True]


@pytest.mark.slow
def test_a_run_of_two_processes_is_resumed_by_one_and_says_so(two: Path, drawn_set: Path, tmp_path: Path, capsys):
    shutil.copytree(two / "stopped", tmp_path / "run", symlinks=True)
    lifecycle.train(small(drawn_set, tmp_path / "run", resume=True), "cvsa")
    assert "with 1 process instead of 2" in " ".join(capsys.readouterr().out.split())
