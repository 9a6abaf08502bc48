"""Training steps and evaluations on a simulated GPU: tensors that have shapes, devices and types, but no values.

Tests that tensors of one operation are on one device, that a generator is on the device it draws for, and that no step
waits for the GPU by reading a value or copying from memory that is not pinned. Does not test values, kernels, the
backward pass (gradients are zeros), NCCL or torch.compile. Of DALI it only tests that its graph for a GPU has no
constant there, because an operator fails if it mixes one with a number on the CPU.
"""

import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trainable import small

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import Local, ViewSpec, opening, unfinished
from fgtrain.engine import lifecycle, monitor
from fgtrain.engine.guard import Guard
from fgtrain.engine.trainer import Trainer
from fgtrain.evaluate import cam, finetune, knn, linear, localization, probe
from fgtrain.networks import optim
from fgtrain.networks.encoder import Encoder
from fgtrain.objectives import decoder, loading
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Model
from fgtrain.settings.evaluations import Finetune
from fgtrain.settings.recipes import RECIPES

CUDA = torch.device("cuda", 0)
METHODS = (
    *("moco", "simsiam", "byol", "simclr", "cvsa", "cvsa-moco", "synth-pair"),
    *("supervised", "rotation", "relative-location", "looc", "lcr", "lcr-byol", "sam", "lewel"),
    *(
        "moco-sinkhorn",
        "synth-pair-simsiam",
        "dino",
        "foreground-mixup",
        "foreground-saliencymix",
        "insloc",
        "papn",
        "box-distill",
    ),
)


class Watch(TorchDispatchMode):
    """Refuses what fake tensors allow: tensors of two devices in one operation, and a generator of another device.
    Records the operations that wait for the GPU."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name == "_local_scalar_dense":  # .item(), bool(), float()
            self.waits += [name] * (tensors[0].device == CUDA)
            return {torch.bool: True, torch.int64: 1}.get(tensors[0].dtype, 1.0)
        out = func(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if name in ("_to_copy", "copy_"):
            blocks = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            self.waits += [name] * (blocks and {x.device for x in tensors + made} == {CUDA, torch.device("cpu")})
            return out
        if name in ("mm", "addmm", "bmm", "baddbmm", "convolution"):
            assert len({x.dtype for x in tensors}) == 1, f"{name} of {[x.dtype for x in tensors]}"
        devices = {x.device for x in tensors if x.ndim}
        assert len(devices) < 2 or name in ("index", "index_put_"), f"{name} of {devices}"
        for generator in (x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Generator)):
            assert generator.device.type == made[0].device.type, f"{name} on {made[0].device} by {generator.device}"
        index = args[1] if name in ("index", "index_put_") else ()
        masks = any(x is not None and (x.dtype == torch.bool or x.device != args[0].device) for x in index)
        self.waits += [name] * ((masks and args[0].device == CUDA) or name == "nonzero")
        return out


@contextmanager
def simulated_gpu() -> Iterator[Watch]:
    """Inside it tensors have no values, and those on `cuda` need no GPU."""

    def backward(self: Tensor) -> None:
        for leaf in leaves(self):
            leaf.grad = torch.zeros_like(leaf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        patch.setattr(Tensor, "backward", backward)
        patch.setattr(Tensor, "numpy", lambda self: np.zeros(self.shape))
        patch.setattr(nn.Module, "to", lambda self, *to, **_: to_gpu(self) if CUDA in to else self)
        patch.setattr(torch.autograd, "grad", lambda _, inputs, **__: [*map(torch.zeros_like, tree_leaves(inputs))])
        with FakeTensorMode(allow_non_fake_inputs=False), Watch() as watch:
            yield watch


def leaves(loss: Tensor) -> list[Tensor]:
    """The parameters that a loss was computed from."""
    parameters, visited, left = [], set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in visited:
            visited.add(node)
            parameters += [x] if (x := getattr(node, "variable", None)) is not None else []
            left += [before for before, _ in node.next_functions]
    return parameters


def fake(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA)


def to_gpu(module: nn.Module) -> Any:
    """Moves parameters and buffers, like `.to`, which does not support modules of fake tensors."""
    for part in module.modules():
        for name, x in part._parameters.items():
            part._parameters[name] = None if x is None else nn.Parameter(fake(x), x.requires_grad)
        for name, x in part._buffers.items():
            part._buffers[name] = None if x is None else fake(x)
    return module


class Batches(list[dict[str, Tensor]]):
    """A replacement for a loader."""

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def batches(_: Any = None, *, views: ViewSpec, **__: Any) -> Batches:
    """Two batches of 8 samples, as from a loader."""
    batch = {}
    for name, shape in views.tensors.items():
        dtype = torch.long if name in ("label", "index") else torch.float32
        batch[name] = torch.empty([8 if n == -1 else n for n in shape], dtype=dtype, device=CUDA)
    return Batches([batch, batch])


@contextmanager
def on_gpu(shards: Path, out: Path, name: str) -> Iterator[tuple[Trainer, Watch]]:
    """A trainer whose objective, optimiser and arithmetic are on the simulated GPU."""
    trainer = Trainer(small(shards, out, name), RunDir(out), ShardSet.open(shards), torch.device("cpu"))
    with trainer.loader, simulated_gpu() as watch:
        trainer.device, objective = CUDA, to_gpu(trainer.objective)
        trainer.optimizer = optim.build(objective, trainer.config.optim, objective.rates)
        trainer.guard = Guard(objective, trainer.optimizer)
        trainer.autocast = torch.autocast("cuda", torch.bfloat16)
        yield trainer, watch


def test_faults_are_detected():
    with simulated_gpu() as watch:
        here, there = torch.empty(3, device=CUDA), torch.empty(3)
        faults = [
            lambda: here + there,
            lambda: torch._foreach_add_([here], [there]),  # pyright: ignore
            lambda: torch.randn(3, device=CUDA, generator=torch.Generator()),
            lambda: here[None] @ here[:, None].bfloat16(),
        ]
        for fault in faults:
            with pytest.raises((RuntimeError, AssertionError)):
                fault()
        assert watch.waits == []
        there.to(CUDA, non_blocking=True)
        assert watch.waits == []
        there.to(CUDA)
        here.sum().item()
        assert watch.waits == ["_to_copy", "_local_scalar_dense"]


@pytest.mark.parametrize("method", METHODS)
def test_step_stays_on_the_gpu_and_never_waits_for_it(method: str, drawn_set: Path, tmp_path: Path):
    with on_gpu(drawn_set, tmp_path, method) as (trainer, watch):
        for batch in batches(views=trainer.objective.views):
            trainer.train_step(batch)
        assert watch.waits == []
        assert trainer.check().keys() >= {"loss", "feature_std", "lr"}
        assert {x.device for x in trainer.objective.state_dict().values()} == {CUDA}


def test_warm_up_of_the_decoder_waits_once_an_epoch(drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with on_gpu(drawn_set, tmp_path, "synth-pair") as (trainer, watch):
        monkeypatch.setattr(loading, "load", batches)
        pair = trainer.objective
        decoder.warm_up(
            pair.decoder, pair.encoder, pair.config, trainer.run, trainer.shards, CUDA, lambda _: None, lambda: False
        )
        assert watch.waits.count("_local_scalar_dense") == 0
        assert watch.waits.count("_to_copy") == pair.config.reconstruct.epochs == 1


def test_evaluations_stay_on_one_device(drawn_set: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (finetune, probe):
        monkeypatch.setattr(module, "load", batches)
    shards, size, model = ShardSet.open(drawn_set), 32, Model(width=8)
    classes, stated = len(shards.classes), [np.ones((1, 4))] * 2
    fit, tuning = finetune.Fit(rate=0.1, decay=0.0, seed=0, search=True), Finetune(Path(), epochs=1)
    with simulated_gpu() as watch:
        features, labels, _ = probe.embed(Encoder(model), shards, "test", ViewSpec.evaluation(size), CUDA)
        knn.knn_predict(features, labels, features, 3, 0.07, classes)
        network = finetune.fine_tune(Encoder(model), shards, size, CUDA, fit, tuning)
        assert {x.device for x in network.parameters()} == {CUDA}
        finetune.accuracy(network, shards, "test", size, CUDA)
        students = [linear.Student(labels > 0, rate, features.shape[1], classes, 0) for rate in (1.0, 0.1)]
        layers = linear.Layers(students, linear.PROTOCOLS["cvsa"], CUDA)
        watch.waits.clear()
        layers.step(fake(features[:8].expand(2, 8, -1)), fake(labels[:8].expand(2, 8)), 0.5)
        assert watch.waits == []
        assert {x.device for x in (students[1].weight, students[1].bias)} == {CUDA}
        monkeypatch.setattr(localization, "probe_layer", lambda *_: to_gpu(nn.Linear(features.shape[1], classes)))
        for by_mean in (True, False):
            monkeypatch.setattr(localization, "pools_by_mean", lambda *_, by_mean=by_mean: by_mean)
            localization.activation_maps(Encoder(model), shards, size, CUDA, 0, stated)
        x, truth = torch.empty(8, 3, size, size, device=CUDA), torch.empty(8, dtype=torch.long, device=CUDA)
        found, _ = cam.explain(network.encoder, network.head, x, truth)
        assert found.device == CUDA


@pytest.mark.parametrize("spec", [ViewSpec(masks=True, plain=True), ViewSpec(local=Local(count=2), solarize=0.1)])
def test_8_bit_batches_are_finished_on_the_gpu_without_waiting_for_it(spec: ViewSpec):
    finisher = unfinished.Finisher(spec)
    kinds = {"flip": torch.bool, "solarize": torch.bool, "index": torch.long, "masks": torch.int32}
    with simulated_gpu() as watch:
        finisher._scale, finisher._offset = torch.empty(3, 1, 1), torch.empty(3, 1, 1)
        batch = {}
        for name, shape in unfinished.shapes(spec).items():
            kind = torch.uint8 if shape[-1] == 3 and "." not in name else kinds.get(name.split(".")[-1], torch.float32)
            batch[name] = torch.empty([4 if n == -1 else n for n in shape], dtype=kind, device=CUDA)
        finished = finisher(batch)
        assert watch.waits == []
        assert {x.device for x in finished.values()} == {CUDA}
        assert {name: tuple(x.shape) for name, x in finished.items()} == {
            name: tuple(4 if n == -1 else n for n in shape) for name, shape in spec.tensors.items()
        }


def test_data_wait_is_the_time_from_the_last_step_to_the_next_batch(monkeypatch: pytest.MonkeyPatch):
    class Mark:
        def elapsed_time(self, _: "Mark") -> float:
            return 500.0  # milliseconds

    monkeypatch.setattr(monitor, "_mark", lambda _: Mark())
    watched = monitor.Monitor(None, step=0, total=1, steps_per_epoch=1)
    with watched.waiting(CUDA):
        watched.since -= 5
    assert watched.rates()["data_wait"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    "spec",
    [
        ViewSpec(plain=True),
        ViewSpec(crop="saliency-swap"),
        ViewSpec(crop="paste"),
        ViewSpec(crop="matte-paste", mattes=True),
        ViewSpec(crop="matte-paste", matte_grey=True),
        ViewSpec.evaluation(),
        ViewSpec(lent=True, local=Local(count=2), solarize=(0, 0.2)),
    ],
)
def test_dali_graph_for_a_gpu_has_no_constants_on_it(spec: ViewSpec):
    pytest.importorskip("nvidia.dali")
    from fgdata.views.dali_graph import graph

    pipeline = graph(spec, True, False, batch_size=2, device_id=0)
    pipeline._build_graph()
    made = [output for operator in pipeline._ops for output in operator.outputs]  # pyright: ignore
    assert [output.name for output in made if output.device == "gpu" and "Constant" in output.name] == []
    assert {output.device for output in pipeline._graph_outputs} == {"gpu"}  # pyright: ignore


class Broken:
    """A DALI that is built for a newer driver."""

    def __init__(self, *_: Any, **__: Any):
        raise RuntimeError("CUDA driver version is insufficient\nmore")


def test_a_dali_that_does_not_run_is_replaced_by_threads_with_a_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(opening, "_has_dali", lambda: True)
    monkeypatch.setattr("fgdata.views.dali.Dali", Broken)
    with pytest.warns(RuntimeWarning, match="DALI does not run here .CUDA driver version is insufficient.*threads"):
        _, backend = opening.start(ViewSpec(), 4, "auto", 1, CUDA, world_size=1, other_sets=False)
    backend.close()
    with pytest.raises(RuntimeError, match="insufficient"):
        opening.start(ViewSpec(), 4, "dali", 1, CUDA, world_size=1, other_sets=False)


@pytest.mark.parametrize(
    "fault",
    [
        ImportError("libnvjpeg.so.13: cannot open shared object file: No such file or directory"),
        ModuleNotFoundError("No module named 'nvidia.nvjpeg'", name="nvidia.nvjpeg"),
        OSError("libnvjpeg.so.13: cannot open shared object file: No such file or directory"),
    ],
)
def test_a_dali_that_cannot_be_imported_is_replaced_by_threads_with_the_cause(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
):
    def fail(name: str) -> None:
        raise fault

    lacking = types.ModuleType("nvidia.dali")
    monkeypatch.setattr(lacking, "__getattr__", fail, raising=False)
    for name in ("dali", "dali_graph"):
        monkeypatch.delitem(sys.modules, f"fgdata.views.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", lacking)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(opening, "_has_dali", lambda: True)
    with pytest.warns(RuntimeWarning, match=f"DALI does not run here .{fault}.; the views are computed by threads"):
        _, backend = opening.start(ViewSpec(), 4, "auto", 1, CUDA, world_size=1, other_sets=False)
    backend.close()
    kind = InputError if isinstance(fault, ImportError) else OSError
    with pytest.raises(kind, match=f"{fault}"):
        opening.start(ViewSpec(), 4, "dali", 1, CUDA, world_size=1, other_sets=False)


def test_a_dali_that_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch):
    for name in ("dali", "dali_graph"):
        monkeypatch.delitem(sys.modules, f"fgdata.views.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="NVIDIA DALI, which is not installed: pip install nvidia-dali-cuda130"):
        opening.start(ViewSpec(), 4, "dali", 1, CUDA, world_size=1, other_sets=False)


def test_the_thread_of_dali_uses_the_gpu_of_its_loader(monkeypatch: pytest.MonkeyPatch):
    """The current device belongs to a thread, and that of a new one is the first GPU."""
    pytest.importorskip("nvidia.dali")
    from fgdata.views import dali

    used = []
    monkeypatch.setattr(dali, "graph", lambda *_, **__: type("Pipeline", (), {"build": lambda self: None})())
    monkeypatch.setattr(dali.Dali, "_prime", lambda _: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: used.append((threading.current_thread(), device)))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    second = torch.device("cuda", 1)
    for device in (second, torch.device("cuda")):  # set_device refuses one without a number
        used.clear()
        backend = dali.Dali(ViewSpec(), 4, 1, device, other_sets=False)
        backend.close()
        assert used == [(backend._thread, second)]


def test_no_batch_waits_for_a_thread_of_dali_that_has_ended(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("nvidia.dali")
    from fgdata.views import dali

    def refuse(_: torch.device) -> None:
        raise ValueError("no such device")

    monkeypatch.setattr(dali, "graph", lambda *_, **__: type("Pipeline", (), {"build": lambda self: None})())
    monkeypatch.setattr(dali.Dali, "_prime", lambda _: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "set_device", refuse)
    backend = dali.Dali(ViewSpec(), 4, 1, torch.device("cuda", 1), other_sets=False)
    futures = [Future(), Future()]
    for future in futures:
        backend.submit(0, lambda: pytest.fail("not computed"), future)
    for future in futures:
        with pytest.raises(ValueError, match="no such device"):
            future.result(timeout=60)
    backend.close()


@pytest.mark.parametrize("device", [CUDA, torch.device("cpu")])
def test_a_training_on_a_gpu_lets_cudnn_choose_its_convolutions(device: torch.device, monkeypatch: pytest.MonkeyPatch):
    class Begun(Exception):
        pass

    def begin(**_: Any) -> None:
        raise Begun

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", device != CUDA)
    monkeypatch.setattr(lifecycle.parallel, "group", lambda _: nullcontext(device))
    monkeypatch.setattr(lifecycle, "StopSignals", begin)
    with pytest.raises(Begun):
        lifecycle.train(RECIPES["simclr"](), "simclr")
    assert torch.backends.cudnn.benchmark == (device == CUDA)
