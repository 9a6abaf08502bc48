"""Batches made in a separate process: the same ones and the same states, errors, and how either process ends."""

import errno
import gc
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_set import MemorySet, open_loader, record, same
from paths import ROOT

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import Loader, Local, ViewSpec, load, loader, process
from fgdata.views.reading import WINDOW

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process for the loader needs Linux")

MANY = ViewSpec(
    size=48, crop="saliency-swap", masks=True, plain=True, boxes=True, lent=True, local=Local(count=2, size=32)
)


def both(*words, **options) -> tuple[Loader, Loader]:
    """A loader, and one with the same arguments and a process."""
    return open_loader(*words, **options), open_loader(*words, process=True, **options)


@pytest.mark.parametrize("at", ["receiving", "mapping"])
def test_too_many_open_files_are_not_reported_as_lack_of_memory(drawn_set: Path, at: str, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    if at == "receiving":  # what Linux gives a process without room for the descriptor
        monkeypatch.setattr(process.socket, "recv_fds", lambda channel, *_: (channel.recv(1), [], 0, None))
    else:
        monkeypatch.setattr(process.mmap, "mmap", refuse)
    with (
        load(drawn_set, views=ViewSpec(size=64), batch_size=8, threads=1, process=True) as batches,
        pytest.raises(InputError, match=r"Too many open files \(.*ulimit -n.*or omit process") as caught,
    ):
        next(iter(batches))
    assert "memory" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threads", "dali"])
def test_batches_states_and_resumption_are_those_without_it(drawn_set: Path, backend: str):
    """Second of two ranks; batches of other sizes at the end of an epoch; backgrounds, local crops and lent views."""
    if backend == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    options = {"rank": 1, "world_size": 2, "last_batch": "keep", "backgrounds": ROOT / "shards" / "tiny", "box": True}
    plain, child = both(ShardSet.open(drawn_set), MANY, 5, backend=backend, **options)
    with plain, child:
        assert (len(child), child.samples, child.tensors) == (len(plain), plain.samples, plain.tensors)
        states, batches = record(plain)
        assert len({len(batch["index"]) for batch in batches}) == 2
        own_states, own = record(child)  # it has all of them, so none of their memory is used twice
        assert own_states == states
        assert all(same(a, b) and all(t.is_contiguous() for t in b.values()) for a, b in zip(batches, own, strict=True))
        assert {name: t.dtype for name, t in own[0].items()} == {name: t.dtype for name, t in batches[0].items()}
        for done in (1, len(child), 0):
            child.load_state_dict(json.loads(json.dumps(states[done])))
            rest = [batch for _ in range(2 - states[done]["epoch"]) for batch in child]
            assert all(same(a, b) for a, b in zip(rest, batches[done:], strict=True))


def test_eight_bit_batches_of_images_in_memory_with_boxes_that_are_set_between_and_within_epochs():
    """The loader with a process is not closed: its process ends with it."""
    boxes = np.random.default_rng(0).uniform(0.2, 0.5, (4, 40, 4))
    spec = ViewSpec(size=64, crop="contrastive", crop_box="given", masks=True)
    plain, child = both(40, spec, 8, cache="ram", output="uint8")
    with plain:
        for turn in range(4):
            for number, (a, b) in enumerate(zip(plain, child, strict=True)):
                assert b["views"].dtype == torch.uint8
                assert same(a, b)
                assert same(plain.finish(a), child.finish(b))
                if number == 2 and turn == 2:
                    plain.set_boxes(boxes[turn]), child.set_boxes(boxes[turn])
            assert plain.state_dict() == child.state_dict()
            if turn < 2:
                plain.set_boxes(boxes[turn]), child.set_boxes(boxes[turn])
        state = child.state_dict()
        child.set_boxes(boxes[3])
        with pytest.raises(InputError, match="other boxes"):
            child.load_state_dict(state)
        with pytest.raises(InputError, match="The boxes have shape"):
            child.set_boxes(boxes[3, :3])
    ended = child._maker._child
    del child
    gc.collect()
    assert ended.returncode == 0


def test_errors_before_the_first_batch():
    shards, messages = MemorySet(8), []
    for option in (False, True):
        with pytest.raises(InputError, match="no saliency maps") as error:
            open_loader(shards, ViewSpec(size=16, crop="matte-paste"), detector="rbd", process=option)
        messages.append(str(error.value))
    assert messages[0] == messages[1]

    class Local(MemorySet):
        pass

    with pytest.raises(InputError, match="process is set, and the shard set cannot be sent"):
        open_loader(Local(8), ViewSpec(size=16), process=True)


def test_errors_memory_stop_signals_and_the_end_of_the_process():
    plain, child = both(MemorySet(40, broken=37), ViewSpec(size=64), 4, shuffle=False)
    messages, pid = [], child._maker._child.pid
    for one in (plain, child):
        with pytest.raises(InputError, match="bird-37 of split") as error:
            list(one)
        messages.append(re.sub("0x[0-9a-f]+", "", str(error.value)))  # a MemorySet has an address in its name
    assert messages[0] == messages[1]
    plain.close()
    start = {"epoch": 0, "batch": 0, "loader": child.state_dict()["loader"]}
    with child:
        for _ in range(4):
            child.load_state_dict(start)
            batch = list(itertools.islice(child, 8))[-1]
        views = batch["views"].clone()
        # A list of nine, three in preparation, one with this test, two that are announced as free later: of 32 batches.
        assert len(child._maker._blocks) <= 9 + WINDOW + 3
        for number in process.STOPS:
            os.kill(pid, number)
        child.load_state_dict(start)
        iterator = iter(child)
        assert len([next(iterator) for _ in range(5)]) == 5
        assert "memfd:fgdata-views" in (maps := Path(f"/proc/{pid}/maps").read_text())
        assert "/dev/shm" not in maps
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(InputError, match=r"ended \(signal 9\).*memory ran out.*--data.process"):
            list(iterator)
        with pytest.raises(InputError, match="signal 9"):
            next(iter(child))
    with pytest.raises(RuntimeError, match="closed"):
        next(iter(child))
    assert torch.equal(batch["views"], views)


PARENT = """
import sys, time
from fgdata.views import ViewSpec, load
with load(sys.argv[1], views=ViewSpec(size=64), batch_size=8, threads=1, process=True) as loader:
    batches = iter(loader)
    kept = next(batches)
    print(loader._maker._child.pid, flush=True)
    time.sleep(600)
"""


def test_it_ends_when_its_parent_is_killed(drawn_set: Path):
    command = [sys.executable, "-c", PARENT, str(drawn_set)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.is_dir()
        parent.kill()
    deadline = time.monotonic() + 60
    while child.is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_dir()


def test_on_a_gpu_the_process_makes_eight_bit_batches(monkeypatch: pytest.MonkeyPatch):
    class Found(Exception):
        pass

    def found(job, device):
        raise Found(job.backend, job.output, device.type)

    monkeypatch.setattr(loader, "find_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(process, "MakerProcess", found)
    with pytest.raises(Found) as job:
        load(MemorySet(8), views=ViewSpec(size=16), batch_size=4, process=True)  # type: ignore[arg-type]
    assert job.value.args == ("threads", "uint8", "cuda")
    with pytest.raises(InputError, match="process is set, and DALI on a GPU"):
        load(MemorySet(8), views=ViewSpec(size=16), batch_size=4, backend="dali", process=True)  # type: ignore[arg-type]


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(InputError, match="process is set, which needs Linux"):
        open_loader(8, ViewSpec(size=16), process=True)
