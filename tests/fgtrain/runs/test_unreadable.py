"""Files that the system cannot read: the message is the system's, never that the file is damaged or must go.

Reading /proc/self/mem at its beginning fails with EIO, as reading from a broken disk does.
"""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainable import small

from fgdata.errors import InputError
from fgtrain import cli
from fgtrain.engine import lifecycle
from fgtrain.evaluate.records import read_records
from fgtrain.networks import weights
from fgtrain.networks.saved import load_encoder
from fgtrain.objectives.decoder import Decoder, restore
from fgtrain.runs import state
from fgtrain.runs.checkpoint import WEIGHTS, Checkpoint
from fgtrain.runs.files import raise_system_error
from fgtrain.runs.rundir import RunDir

BROKEN = Path("/proc/self/mem")
EIO = os.strerror(errno.EIO)
needs_proc = pytest.mark.skipif(not BROKEN.exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def trained(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lifecycle.train(small(drawn_set, tmp_path_factory.mktemp("runs") / "whole", "byol"), "byol")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def last(run: Path) -> Path:
    return run / "checkpoints" / "0000008"


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "config": ("config.json", lambda run: RunDir(run).config()),
    "facts": ("run.json", lambda run: RunDir(run).facts),
    "metrics": ("metrics.jsonl", lambda run: RunDir(run).cut_metrics(3)),
    "results": ("results.jsonl", lambda run: read_records(run / "results.jsonl")),
    "state": ("checkpoints/0000008/state.pt", lambda run: state.load_state(last(run))),
    "checkpoint": (f"checkpoints/0000008/{WEIGHTS}", Checkpoint.find),
    "init": ("init.pth", lambda run: weights.read(run / "init.pth")),
    "init of a run": (f"checkpoints/0000008/{WEIGHTS}", lambda run: weights.read(run)),
    "init.safetensors": ("init.safetensors", lambda run: weights.read(run / "init.safetensors")),
    "decoder": ("decoder.safetensors", lambda run: Decoder(8, 32, 2, 0).load(run / "decoder.safetensors")),
    "warm-up": ("warm.pt", lambda run: restore(run / "warm.pt", 2, *[None] * 3)),  # pyright: ignore
}


@needs_proc
@pytest.mark.parametrize("reader", READERS)
def test_a_disk_that_fails_is_not_called_damage(reader: str, run: Path):
    name, read = READERS[reader]
    file = run / name
    file.unlink(missing_ok=True)
    file.symlink_to(BROKEN)
    with pytest.raises(InputError, match=EIO) as error:
        read(run)
    message = str(error.value)
    assert name in message
    assert "may be intact" in message
    assert not any(word in message for word in ("damaged", "truncated", "rm ", "not an encoder", "Restore"))


@needs_proc
def test_a_disk_that_fails_while_weights_are_loaded(run: Path):
    """After the header was read: the file is replaced between the two."""
    checkpoint = Checkpoint.find(run)
    checkpoint.file.unlink()
    checkpoint.file.symlink_to(BROKEN)
    with pytest.raises(InputError, match=f"{EIO}.*may be intact"):
        load_encoder(checkpoint)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_too_little_memory_is_not_called_damage(error: Exception, run: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise error

    torch.save({"a": torch.zeros(3)}, run / "init.pth")
    monkeypatch.setattr(torch, "load", fail)
    for read in (lambda: state.load_state(last(run)), lambda: weights.read(run / "init.pth")):
        with pytest.raises(InputError, match="not enough memory.*may be intact"):
            read()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EACCES])
def test_the_systems_error_is_found_behind_a_librarys(number: int):
    """zipfile raises BadZipFile while it handles the error; safetensors states only its number, in a text."""
    for fault in (OSError(number, os.strerror(number)), OSError(f"something (os error {number})")):
        try:
            try:
                raise fault
            except OSError:
                raise ValueError("not a zip file")  # noqa: B904
        except ValueError as error:
            with pytest.raises(InputError, match=f"state.pt cannot be read: {os.strerror(number)}"):
                raise_system_error("state.pt", error)


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "x"), OSError(errno.EINVAL, "x")])
def test_other_errors_are_left_to_the_reader(error: Exception):
    raise_system_error("state.pt", error)


def test_a_folder_of_checkpoints_without_permission_is_not_called_empty(run: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(path: object) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    assert state.complete_checkpoints(run / "none") == []
    monkeypatch.setattr(state.os, "listdir", fail)
    with pytest.raises(PermissionError, match="checkpoints"):
        Checkpoint.find(run)


@needs_proc
def test_a_run_that_cannot_be_read_hides_no_other(run: Path, trained: Path, capsys: pytest.CaptureFixture[str]):
    line = ["eval", "knn", str(trained), "--device", "cpu", "--k", "5"]
    assert cli.main(line) == 0
    (run / "run.json").unlink()
    (run / "run.json").symlink_to(BROKEN)
    capsys.readouterr()
    assert cli.main(["compare", str(run), str(trained)]) == 2
    printed = capsys.readouterr()
    assert str(trained) in printed.out
    assert f"run.json cannot be read: {EIO}" in printed.err
