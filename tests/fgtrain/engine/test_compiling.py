"""--compile where torch.compile cannot work: one message instead of a traceback of its code generator."""

import sys
from pathlib import Path

import pytest
import torch
from trainable import small

from fgdata.errors import InputError
from fgtrain import cli
from fgtrain.engine import lifecycle
from fgtrain.engine.compiling import check_compiler
from fgtrain.networks.encoder import Encoder
from fgtrain.runs.rundir import RunDir


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


def test_a_missing_compiler_is_named_before_the_run_has_a_folder(no_compiler, drawn_set: Path, tmp_path: Path, capsys):
    flags = ["--data.shards", str(drawn_set), "--out", str(tmp_path / "run"), "--device", "cpu", "--compile"]
    tiny = ["--data.batch-size", "8", "--model.backbone", "resnet18", "--model.width", "8", "--moco.queue", "16"]
    assert cli.main(["run", "cvsa", *flags, *tiny, "--epochs", "1"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "--compile needs a C++ compiler on cpu, and this machine has none" in error
    assert "Omit --compile" in error
    assert "apt-get install g++" in error
    assert not (tmp_path / "run").exists()


def test_which_compiler_a_device_needs(no_compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(InputError, match=r"needs a C compiler on cuda.*\(not found: gcc or clang\)"):
        check_compiler(gpu)
    check_compiler(torch.device("mps"))
    monkeypatch.setenv("CC", f"{sys.executable} -O1")
    check_compiler(gpu)
    monkeypatch.setenv("CXX", "absent-c++")
    with pytest.raises(InputError, match=r"CXX names absent-c\+\+, which was not found"):
        check_compiler(cpu)
    monkeypatch.setenv("CXX", sys.executable)
    check_compiler(cpu)


def test_a_network_that_cannot_be_compiled_is_a_failed_run(drawn_set: Path, tmp_path: Path, monkeypatch):
    """As for a compiler without the headers that it needs: found at the first step."""

    def broken(graph, inputs):
        raise RuntimeError("fatal error: Python.h: No such file or directory\nand a page of flags")

    original = Encoder.compile
    monkeypatch.setattr(Encoder, "compile", lambda self: original(self, backend=broken))
    monkeypatch.setenv("CXX", sys.executable)
    with pytest.raises(InputError, match=r"cannot compile this network .*: Python\.h[^\n]*Omit --compile"):
        lifecycle.train(small(drawn_set, tmp_path / "run", compile=True), "cvsa")
    assert RunDir(tmp_path / "run").facts["status"] == "failed"
