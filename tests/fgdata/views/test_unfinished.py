"""8-bit batches: finished they are the views of the same loader with float32, for every kind of view; nothing else
changes. And their way to a GPU, on a simulated one."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any

import memory_set
import numpy as np
import pytest
import torch
from memory_set import MemorySet, same

from fgdata.errors import InputError
from fgdata.views import Loader, Local, ViewSpec, reference, unfinished
from fgdata.views.delivery import Delivery
from fgdata.views.geometry import compute

CROPS = ("rrc", "saliency-swap", "contrastive", "inside-box", "paste", "object", "centre")
SPECS = {crop: ViewSpec(size=32, crop=crop, masks=True, plain=True) for crop in CROPS}  # type: ignore[arg-type]
SPECS["every tensor"] = ViewSpec(
    size=40, masks=True, boxes=True, plain=True, lent=True, local=Local(count=2, size=24, inside_box=True),
    blur=(1.0, 0.0), solarize=(0.0, 1.0), strength=(1.0, 0.5), object_size=16,
)  # fmt: skip
SPECS["evaluation"] = ViewSpec.evaluation(32)
SPECS["widest blur"] = ViewSpec(size=8, blur=1.0, sigma=(40.0, 50.0), views=3)


def open_loader(views: ViewSpec, shards: Any = None, **options: Any) -> Loader:
    own = shards or MemorySet(10, side=(30, 120))
    behind = {"backgrounds": [MemorySet(7)]} if views.lent else {}
    return memory_set.open_loader(own, views, 5, **{"detector": "rbd", "box": True} | behind | options)


@pytest.mark.parametrize("name", SPECS)
def test_finished_they_are_the_views_of_a_float32_loader(name: str):
    spec = SPECS[name]
    levels = 255 * torch.tensor(spec.std)[:, None, None]
    with open_loader(spec) as plain, open_loader(spec, output="uint8") as loader:
        for expected, raw in zip(plain, loader, strict=True):
            declared = {name: tuple(5 if n == -1 else n for n in shape) for name, shape in loader.tensors.items()}
            assert {name: tuple(tensor.shape) for name, tensor in raw.items()} == declared
            finished = loader.finish(raw)
            assert finished.keys() == expected.keys()
            for tensor in expected.keys() - {"views", "local", "lent", "object"}:
                torch.testing.assert_close(finished[tensor], expected[tensor], rtol=0, atol=1e-5)
            for tensor in expected.keys() & {"views", "local", "lent", "object"}:
                error = levels * (finished[tensor] - expected[tensor]).abs()
                blurred = raw[f"{tensor}.sigma"] > 0
                # `threads` rounds the blurred view to 8 bits, and OpenCV its weights; the jitter amplifies that by up
                # to 1.4^3, and solarisation has a step of one level. Without blur only the order of additions differs.
                assert error[blurred].numel() == 0 or error[blurred].max() < 5
                assert error[~blurred].numel() == 0 or error[~blurred].max() < (1.01 if spec.solarize else 1e-3)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.34, 2.0, 4.4])
def test_a_view_against_the_reference(sigma: float):
    """Exactly the equations: nothing is rounded after the resize."""
    spec = ViewSpec(size=20, blur=1.0, solarize=0.5, flip=0.5, sigma=(0.1, 50.0), grayscale=0.0)
    n, rng = 6, np.random.default_rng(0)
    view = rng.integers(0, 256, (n, 20, 20, 3), dtype=np.uint8)
    sizes, boxes = np.full((n, 2), 20), np.tile(np.float32([0, 0, 1, 1]), (n, 1))
    shot = compute(spec, sizes, boxes, np.arange(n), seed=0, epoch=0, batch=0, view=0)
    shot.sigma[:], shot.source[:], shot.place[:] = sigma, [0, 0, 20, 20], [0, 0, 20, 20]
    assert len(set(shot.flip)) == len(set(shot.solarize)) == 2
    own = [torch.from_numpy(getattr(shot, name)) for name in unfinished.DRAWS]
    ends = torch.full((3, 1, 1), 1 / 255), torch.zeros(3, 1, 1)
    got = unfinished.finish(torch.from_numpy(view), *own, *ends, unfinished.blur_radius(spec), True).numpy()
    levels = ViewSpec(size=20, mean=(0, 0, 0), std=(1, 1, 1))
    for i in range(n):
        expected = reference.view(view[i].astype(float), shot, i, levels)
        far = np.abs(expected - 0.5) > 1e-3  # solarisation has a step at 128
        assert np.abs(got[i] - expected)[far].max() < 1e-5


def test_8_bit_batches_resume_and_nothing_else_changes():
    spec = ViewSpec(size=16, crop="saliency-swap", masks=True)
    with open_loader(spec, output="uint8") as loader, open_loader(spec) as plain:
        states, batches = memory_set.record(loader)
        assert states == memory_set.record(plain)[0]  # either may resume the other's position
    with open_loader(spec, output="uint8", threads=1, cache="ram") as again:
        again.load_state_dict(states[1])
        rest = [batch for _ in range(2) for batch in again][: len(batches) - 1]
    assert all(same(a, b) for a, b in zip(rest, batches[1:], strict=True))
    assert batches[0]["views"].dtype == torch.uint8


def test_what_is_refused():
    with pytest.raises(InputError, match="output is 'uint8', which needs the backend threads"):
        open_loader(SPECS["rrc"], output="uint8", backend="dali")
    with pytest.raises(InputError, match="output is 'int4'; allowed: float32, uint8"):
        open_loader(SPECS["rrc"], output="int4")


# On a GPU


def test_it_compiles_into_one_graph():
    """Without code for a GPU: a step that torch.compile cannot follow would be an error here."""
    spec = SPECS["every tensor"]
    with open_loader(spec, output="uint8") as loader:
        batch = next(iter(loader))
        expected = loader.finish(batch)
    draws = [batch[f"local.{name}"] for name in unfinished.DRAWS]
    ends, radius = [torch.ones(3, 1, 1)] * 2, unfinished.blur_radius(spec.shots["local"])
    compiled = torch.compile(unfinished.finish, backend="eager", fullgraph=True)
    arguments = (batch["local"], *draws, *ends, radius, False)
    assert torch.equal(compiled(*arguments), unfinished.finish(*arguments))
    assert expected["local"].is_contiguous()


def test_a_compiler_that_fails_is_replaced_with_a_warning(monkeypatch: pytest.MonkeyPatch):
    def broken() -> Callable:
        raise RuntimeError("Cannot find a working triton installation\nmore")

    monkeypatch.setattr(unfinished, "_compile", broken)
    with open_loader(SPECS["rrc"], output="uint8") as loader:
        batch = next(iter(loader))
        finisher = unfinished.Finisher(SPECS["rrc"], compiled=True)
        with pytest.warns(RuntimeWarning, match="torch.compile does not run here .Cannot find a working triton"):
            finished = finisher(batch)
        assert same(finished, loader.finish(batch))
        assert same(finished, finisher(batch))  # without another warning


class Stream:
    """A GPU's stream, or an event of one."""

    def __init__(self, *_: Any):
        self.waited: list[Any] = []

    def record_event(self) -> "Stream":
        return Stream()

    def wait_event(self, event: Any) -> None:
        self.waited.append(event)


def test_the_next_batch_is_delivered_ahead_of_the_step(monkeypatch: pytest.MonkeyPatch):
    own, finished = Stream(), []
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: own)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: recorded.append(stream))
    recorded: list[Any] = []

    def finish(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        finished.append(int(batch["index"]))
        return batch

    delivery = Delivery(torch.device("cuda"), finish)
    one, two, three, four = (Future() for _ in range(4))
    for i, future in enumerate((one, two, three)):
        future.set_result({"index": torch.tensor(i)})
    delivery.take(one)
    delivery.start(two)
    assert finished == [0, 1]  # the second one before it is asked for
    delivery.take(two)
    assert finished == [0, 1]
    delivery.start(three)
    delivery.take(one)  # after load_state_dict or set_boxes another batch is the next one
    assert finished == [0, 1, 2, 0]
    delivery.start(four)  # not complete
    assert finished == [0, 1, 2, 0]
    four.set_exception(InputError("damaged"))
    delivery.start(four)
    with pytest.raises(InputError, match="damaged"):
        delivery.take(four)
    assert len(own.waited) == 3
    assert recorded == [own] * 3
