"""Damaged, hostile and unusual weights files: each is loaded, or is one InputError that says what to do."""

import argparse
import io
import json
import os
import re
import shlex
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fgdata.errors import InputError
from fgtrain import cli
from fgtrain.networks import initial, saved
from fgtrain.networks.encoder import Encoder
from fgtrain.networks.weights import read
from fgtrain.runs.rundir import RunDir
from fgtrain.settings import methods
from fgtrain.settings.common import Model

NARROW = Model(width=8)
ABOUT = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "1", "method": "byol"}


def load(path: Path) -> Encoder:
    return initial.encoder(methods.ByolConfig(model=NARROW, init=str(path)))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        load(path)
    return str(raised.value)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return dict(Encoder(NARROW).state_dict())


def under(prefix: str, weights: dict, shift: float = 0.0) -> dict:
    return {prefix + k: v + shift if v.is_floating_point() else v for k, v in weights.items()}


PAIRS: dict[str, Callable[[dict, dict], dict]] = {  # (online, average) -> checkpoint
    "dino, teacher first": lambda o, a: {"teacher": under("backbone.", a), "student": under("module.backbone.", o)},
    "timm": lambda o, a: {"state_dict_ema": a, "state_dict": o},
    "moco": lambda o, a: {"state_dict": {**under("module.encoder_k.", a), **under("module.encoder_q.", o)}},
    "byol": lambda o, a: {**under("target_encoder.net.", a), **under("online_encoder.net.", o)},
    "solo-learn": lambda o, a: {"state_dict": {**under("momentum_backbone.", a), **under("backbone.", o)}},
    "swa": lambda o, a: {"averaged_model": under("module.", a), "model": o},
    "nested": lambda o, a: {"model": {"ema": a, "net": o}},
}


@pytest.mark.parametrize("layout", PAIRS)
def test_online_network_is_preferred_to_its_average(layout: str, weights: dict, tmp_path: Path):
    online = {k: v for k, v in weights.items() if k != "layer4.1.bn2.bias"}  # fits, with one tensor fewer
    torch.save(PAIRS[layout](online, under("", weights, 1.0)), tmp_path / "a.pth")
    encoder = load(tmp_path / "a.pth")
    assert torch.equal(encoder.network.conv1.weight, weights["conv1.weight"])
    assert encoder.initial is not None
    assert encoder.initial["sha256"] in encoder.origin
    assert f"'{encoder.initial['table'] or encoder.initial['prefix']}'" in encoder.origin


def test_average_alone_is_used_and_reported(weights: dict, tmp_path: Path):
    torch.save({"teacher": weights}, tmp_path / "a.pth")
    assert "in 'teacher'" in (origin := load(tmp_path / "a.pth").origin)
    assert "moving average" in origin


@pytest.mark.parametrize("legacy", [False, True])
def test_harmless_objects_of_other_projects_are_read(legacy: bool, weights: dict, tmp_path: Path):
    extra = {"args": argparse.Namespace(out=Path("x")), "best": np.float64(61.2), "rng": np.random.RandomState(0)}
    extra["rng"] = extra["rng"].get_state()  # pyright: ignore[reportAttributeAccessIssue]
    content = {**extra, "state_dict": under("module._orig_mod.layers.", weights)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(load(tmp_path / "a.pth").network.conv1.weight, weights["conv1.weight"])


def test_every_flipped_bit_in_a_checked_file_is_refused_or_harmless(weights: dict, tmp_path: Path):
    """Files with checksums: a run's encoder and torch's zip archives."""
    network = Encoder(NARROW)
    network.load_state_dict(weights)
    ours = RunDir(tmp_path / "run").save_checkpoint(1, network, ABOUT, {}, keep=1) / "encoder.safetensors"
    torch.save(weights, tmp_path / "a.pth")
    random = np.random.default_rng(0)
    for file in (ours, tmp_path / "a.pth"):
        original, damaged = file.read_bytes(), tmp_path / f"damaged{file.suffix}"
        refused = 0
        for position in random.integers(0, len(original), 25):
            content = bytearray(original)
            content[position] ^= 1 << int(random.integers(8))
            damaged.write_bytes(content)
            try:
                loaded = load(damaged).state_dict()
            except InputError:
                refused += 1
            else:
                assert all(torch.equal(loaded[k], v) for k, v in weights.items())
        assert refused >= 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(value: float, weights: dict, tmp_path: Path):
    bad = weights["layer2.0.bn1.running_var"].clone()
    bad[3] = value
    torch.save(under("net.", {**weights, "layer2.0.bn1.running_var": bad}), tmp_path / "a.pth")
    message = refusal(tmp_path / "a.pth")
    assert "net.layer2.0.bn1.running_var has 1 of 16 values that are not finite" in message
    assert "earlier checkpoint" in message


CONVERTED = {
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "complex": lambda x: x.to(torch.complex64),
    "int8": lambda x: x.to(torch.int8),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_tensors_that_are_not_dense_and_real_are_refused(kind: str, weights: dict, tmp_path: Path):
    torch.save({**weights, "conv1.weight": CONVERTED[kind](weights["conv1.weight"])}, tmp_path / "a.pth")
    assert re.search(rf"conv1.weight is a .*{kind}.*allowed: dense", refusal(tmp_path / "a.pth"))


def test_printed_command_extracts_the_weights(weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a whole model, of a checkpoint with one inside, and of TorchScript. The shell runs the first command; the
    others run here, because an import of torch takes seconds."""
    from torchvision.models import resnet18

    network = resnet18()
    torch.save(network, tmp_path / "it's whole.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), tmp_path / "script.pt")
    torch.save({"model": network, "opt": torch.optim.SGD(network.parameters(), 0.1)}, tmp_path / "inside.ckpt")
    for name in ("it's whole.pth", "script.pt", "inside.ckpt"):
        command = refusal(tmp_path / name).splitlines()[-1]
        if "'" in name:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            subprocess.run(
                command, shell=True, cwd=tmp_path, check=True, capture_output=True, env=os.environ | {"PATH": path}
            )
        else:
            python, flag, code, *arguments = shlex.split(command)
            assert (python, flag) == ("python", "-c")
            with monkeypatch.context() as patch, warnings.catch_warnings(action="ignore"):
                patch.chdir(tmp_path)
                patch.setattr(sys, "argv", [flag, *arguments])
                exec(code, {})
        (result,) = tmp_path.glob("*-weights.pth")
        encoder = initial.encoder(methods.ByolConfig(init=str(result)))
        assert torch.equal(encoder.network.conv1.weight, network.conv1.weight)
        result.unlink()


def pickled(path: Path, content: bytes) -> None:
    """A file of torch.save with `content` as its pickle."""
    buffer = io.BytesIO()
    torch.save({}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, content if name.endswith("data.pkl") else source.read(name))


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a/data.pkl", bytes(1 << 20))


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo.pth": (os.mkfifo, "not a regular file"),
    "device.pth": (lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
    "empty.pth": (lambda p: p.touch(), "is empty"),
    "compressed.pth": (compressed, "compressed"),
    "code.pth": (lambda p: pickled(p, b"\x80\x02cposix\nsystem\nX\x01\x00\x00\x00x\x85R."), "posix.system"),
    "bytes.pth": (lambda p: pickled(p, b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."), "bytearray"),
    "objects.pth": (lambda p: pickled(p, b"\x80\x02" + b"}" * 2_000_001 + b"."), "too many Python objects"),
    "length.safetensors": (lambda p: p.write_bytes(safetensors({}, length=1 << 62)), "truncated or damaged"),
    "range.safetensors": (lambda p: p.write_bytes(safetensors({"a": ONE}, b"12")), "not a complete safetensors"),
    "overlap.safetensors": (lambda p: p.write_bytes(safetensors({"a": ONE, "b": ONE}, b"1234")), "not a complete"),
    "dtype.safetensors": (
        lambda p: p.write_bytes(safetensors({"a": {**ONE, "dtype": "X"}}, b"1234")),
        "not a complete",
    ),
    "brackets.safetensors": (lambda p: p.write_bytes(safetensors(b'{"a":' * 100_000)), "not a complete"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_one_clear_error(name: str, tmp_path: Path):
    write, expected = HOSTILE[name]
    write(tmp_path / name)
    message = refusal(tmp_path / name)
    assert expected in message
    assert f"{tmp_path / name}" in message
    assert message.isprintable() or "\n" in message


def test_cyclic_and_shared_containers_end(weights: dict, tmp_path: Path):
    content: dict = {"state_dict": dict(weights)}
    content["itself"] = [content]
    shared: dict = {"a": 1}
    for _ in range(60):
        shared = {"x": shared, "y": shared}
    torch.save({**content, "shared": shared}, tmp_path / "a.pth")
    assert len(read(tmp_path / "a.pth").tables) == 1


def test_control_characters_in_names_are_escaped(weights: dict, tmp_path: Path):
    torch.save({"\x1b[31m[bold]\n": torch.zeros(1)}, tmp_path / "a.pth")
    assert "\x1b" not in refusal(tmp_path / "a.pth")
    torch.save(under("\x1b[31m[/bold].", weights), tmp_path / "b.pth")
    assert "\x1b" not in load(tmp_path / "b.pth").origin


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"width": "99999999"}, "99999999"), ({"width": "4096", "backbone": "resnet50"}, "4096"), ({"stem": "x"}, "stem")],
)
def test_metadata_of_an_impossible_network_allocates_nothing(
    change: dict, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    content = safetensors({"__metadata__": {"fgtrain": json.dumps({**ABOUT, **change})}, "a": ONE}, b"1234")
    (tmp_path / "encoder.safetensors").write_bytes(content)

    def build(model: Model) -> nn.Module:
        assert torch.empty(0).is_meta
        return Encoder(model)

    monkeypatch.setattr(saved, "Encoder", build)
    assert expected in refusal(tmp_path / "encoder.safetensors")


def test_export_names_the_file_on_a_full_disk_and_compares_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    checkpoint = RunDir(tmp_path / "run").save_checkpoint(1, Encoder(NARROW), ABOUT, {}, keep=1)
    copy, target = saved.shutil.copyfile, tmp_path / "out.safetensors"

    def full(source: Path, part: Path) -> None:
        raise OSError(28, "No space left on device")

    def damaged(source: Path, part: Path) -> None:
        copy(source, part)
        content = bytearray(part.read_bytes())
        content[-5] ^= 1
        part.write_bytes(content)

    for fault, message in ((full, "No space left"), (damaged, "reading it back")):
        monkeypatch.setattr(saved.shutil, "copyfile", fault)
        assert cli.main(["export", str(checkpoint), str(target)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert str(target) in error
        assert [p.name for p in tmp_path.iterdir()] == ["run"]
