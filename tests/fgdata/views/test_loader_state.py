"""The loader's state: resumption at every step, on other backends and numbers of ranks."""

import json
from pathlib import Path

import memory_set
import pytest
import torch
from memory_set import MemorySet, same

from fgdata.errors import InputError
from fgdata.views import Loader, ViewSpec

TINY = ViewSpec(size=16, masks=True)
SWAP = ViewSpec(size=16, crop="saliency-swap", masks=True)


def open_loader(shards: MemorySet | int, views: ViewSpec = TINY, batch_size: int = 4, **options) -> Loader:
    return memory_set.open_loader(shards, views, batch_size, **options)


@pytest.mark.parametrize("views", [TINY, SWAP])
@pytest.mark.parametrize("last_batch", ["drop", "keep"])
def test_resumption_at_every_step_gives_the_same_batches(views: ViewSpec, last_batch: str):
    shards = MemorySet(13)
    with open_loader(shards, views, last_batch=last_batch) as loader:
        states, batches = memory_set.record(loader)
    for done, state in enumerate(states):
        with open_loader(shards, views, last_batch=last_batch, threads=1) as loader:
            loader.load_state_dict(state)
            assert loader.state_dict() == state
            rest = [batch for _ in range(2) for batch in loader][: len(batches) - done]
        assert len(rest) == len(batches) - done
        assert all(same(a, b) for a, b in zip(rest, batches[done:]))


def test_state_is_portable_between_backends_and_can_rewind_a_used_loader():
    pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    with open_loader(16, SWAP) as loader, open_loader(16, SWAP, backend="dali") as other:
        running = iter(loader)
        next(running)
        state = loader.state_dict()
        rest = list(running)
        other.load_state_dict(state)
        for a, b in zip(rest, other, strict=True):
            assert torch.equal(a["index"], b["index"])
            assert torch.equal(a["masks"], b["masks"])
        loader.load_state_dict(state)
        assert all(same(a, b) for a, b in zip(rest, loader, strict=True))


def test_another_number_of_ranks_goes_on_with_the_same_batches():
    with open_loader(20) as alone:
        next(iter(alone))
        state = alone.state_dict()
        alone.load_state_dict(state)
        rest = [batch["index"] for batch in alone]
    halves = []
    for rank in (0, 1):
        with open_loader(20, batch_size=2, rank=rank, world_size=2) as loader:
            loader.load_state_dict(state)
            halves.append([batch["index"] for batch in loader])
    assert all(torch.equal(torch.cat(parts), whole) for *parts, whole in zip(*halves, rest, strict=True))
    with open_loader(20) as again:  # states of older versions: both numbers, fewer settings of views
        again.load_state_dict({**state, "loader": {**state["loader"], "batch_size": 2, "world_size": 2}})
        older = {name: value for name, value in state["loader"]["views"].items() if name not in ("solarize", "local")}
        again.load_state_dict({**state, "loader": {**state["loader"], "views": older}})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 4}),
        ("batch_size", {"batch_size": 5}),
        ("batch_size", {"world_size": 2}),
        ("views", {"views": SWAP}),
        ("last_batch", {"last_batch": "keep"}),
        ("set", {"shards": 21}),
        ("detector", {"detector": "gt"}),
    ],
)
def test_state_of_another_loader_is_refused(name: str, change: dict):
    with open_loader(20) as loader, open_loader(**{"shards": 20} | change) as other:  # pyright: ignore
        state = loader.state_dict()
        with pytest.raises(InputError, match=f"{name} was .* is .* now"):
            other.load_state_dict(state)


PASTE = {
    "rrc": ViewSpec(size=16),
    "swap": SWAP,
    "paste": ViewSpec(size=16, crop="paste"),
    "inside-box": ViewSpec(size=16, crop="inside-box"),
}


@pytest.mark.parametrize("name", PASTE)
@pytest.mark.parametrize("borrowed", [False, True])
def test_a_state_of_another_number_of_ranks_is_accepted_exactly_if_the_batches_are_the_same(
    name: str, borrowed: bool, drawn_set: Path
):
    options: dict = {"backgrounds": drawn_set} if borrowed and PASTE[name].pastes else {}
    with open_loader(20, PASTE[name], **options) as alone:
        iterator = iter(alone)
        next(iterator)
        state = json.loads(json.dumps(alone.state_dict()))
        second = next(iterator)["views"]
    halves, refused = [], set()
    for rank in (0, 1):
        with open_loader(20, PASTE[name], batch_size=2, rank=rank, world_size=2, **options) as loader:
            try:
                loader.load_state_dict(state)
            except InputError as fault:
                refused.add(str(fault))
                loader.load_state_dict(state, any_ranks=True)
            halves.append(next(iter(loader))["views"])
            older = {key: value for key, value in state["loader"].items() if key != "ranks"}
            loader.load_state_dict({**state, "loader": older})
    assert bool(refused) != torch.equal(torch.cat(halves, 1), second)
    assert all("ranks was 1 and is 2 now" in fault for fault in refused)


def test_a_state_of_something_else_is_refused():
    with (
        open_loader(8) as loader,
        pytest.raises(InputError, match="lacks batch, loader, so it is not that of a loader"),
    ):
        loader.load_state_dict({"epoch": 3})
