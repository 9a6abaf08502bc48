"""Detectors that read files: ONNX networks, the names of such detectors, and both kinds in a build."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx_files import blob, write_network

from fgdata.building import build
from fgdata.building.rewrite import add
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.saliency import component, detector, onnx_trial
from fgdata.saliency.onnx_file import hash_files
from fgdata.shards.reader import ShardSet, box, meta

# --- onnx:FILE


def test_a_network_sees_the_normalised_image_and_its_map_comes_back_at_full_size(tmp_path):
    pytest.importorskip("onnxruntime")
    file = write_network(tmp_path / "net.onnx", metadata={"size": "80x60", "mean": "0:0:0", "std": "1:1:1"})
    network = detector(f"onnx:{file}")
    assert network.SETTINGS["size"] == [80, 60]
    map_ = network.saliency_map(blob())
    assert map_.dtype == np.float32
    np.testing.assert_array_equal(map_, blob()[..., 0] / np.float32(250))
    other = detector(f"onnx:{file},size=40,mean=.5:.5:.5")
    assert other.SETTINGS["size"] == [40, 40]
    assert other.SETTINGS["mean"] == [0.5, 0.5, 0.5]
    assert other.SETTINGS["sha256"] == network.SETTINGS["sha256"]
    assert np.corrcoef(other.saliency_map(blob()).ravel(), map_.ravel())[0, 1] > 0.95
    # The network run without the detector: its input is exactly (rgb / 255 - mean) / std.
    import onnxruntime

    plain = detector(f"onnx:{write_network(tmp_path / 'plain.onnx')},size=80x60")
    values = (blob() / np.float32(255) - np.float32(plain.SETTINGS["mean"])) / np.float32(plain.SETTINGS["std"])
    session = onnxruntime.InferenceSession(tmp_path / "plain.onnx", providers=["CPUExecutionProvider"])
    (raw,) = session.run(None, {"image": values.transpose(2, 0, 1)[None].astype(np.float32)})
    expected = (raw[0, 0] - raw.min()) / (raw.max() - raw.min())
    np.testing.assert_allclose(plain.saliency_map(blob()), expected, atol=1e-6)  # float32


def test_size_and_first_output_are_the_models_own(tmp_path):
    pytest.importorskip("onnxruntime")
    fixed = write_network(tmp_path / "fixed.onnx", size=(32, 48), outputs=7)
    network = detector(f"onnx:{fixed}")
    assert network.SETTINGS["size"] == [48, 32]
    assert network.SETTINGS["output"] == "d0"
    assert detector(f"onnx:{fixed},output=2").SETTINGS == detector(f"onnx:{fixed},output=d2").SETTINGS
    map_ = network.saliency_map(blob())
    assert map_[15:30, 20:40].mean() > 0.9 > 0.1 > map_[35:].mean()
    free = detector(f"onnx:{write_network(tmp_path / 'free.onnx')}")
    assert free.SETTINGS["size"] == [320, 320]
    np.testing.assert_allclose(free.SETTINGS["mean"], [0.485, 0.456, 0.406], rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (8, 8), (1, 700), (40, 3000), (5000, 8000)])
def test_a_network_accepts_any_image(tmp_path, shape):
    pytest.importorskip("onnxruntime")
    name = f"onnx:{write_network(tmp_path / 'net.onnx', size=(64, 64))}"
    rng = np.random.default_rng(0)
    noise = cv2.resize(rng.integers(0, 256, (min(shape[0], 50), min(shape[1], 50), 3), np.uint8), shape[::-1])
    for image in (noise, np.full((*shape, 3), 77, np.uint8)):
        actual = detector(name).saliency_map(image)
        assert actual.shape == shape
        assert actual.dtype == np.float32
        assert 0 <= actual.min() <= actual.max() <= 1
        np.testing.assert_array_equal(actual, detector(name).saliency_map(image))
    assert not actual.any()


def test_another_output_logits_half_precision_and_threads(tmp_path):
    pytest.importorskip("onnxruntime")
    file = write_network(tmp_path / "net.onnx", size=(60, 80), outputs=2)  # the second output is minus the first
    first, second = (detector(f"onnx:{file},mean=0:0:0,std=1:1:1,output={i}").saliency_map(blob()) for i in (0, 1))
    np.testing.assert_allclose(second, 1 - first, atol=1e-6)  # float32
    logits = detector(f"onnx:{file},mean=0:0:0,std=1:1:1,sigmoid=yes")
    raw = blob()[..., 0] / 255
    expected = 1 / (1 + np.exp(-raw))
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(logits.saliency_map(blob()), expected, atol=1e-6)  # float32
    assert logits.SETTINGS["sigmoid"] is True
    half = detector(f"onnx:{write_network(tmp_path / 'half.onnx', size=(60, 80), dtype=10)},mean=0:0:0,std=1:1:1")
    np.testing.assert_allclose(half.saliency_map(blob()), first, atol=2e-3)  # float16 has 11 bits
    threads = detector(f"onnx:{file},mean=0:0:0,std=1:1:1,threads=2,provider=auto")
    np.testing.assert_array_equal(threads.saliency_map(blob()), first)
    assert threads.SETTINGS["threads"] == 2
    assert not {"sigmoid", "threads", "provider"} & set(detector(f"onnx:{file}").SETTINGS)


def test_a_constant_output_gives_zeros(tmp_path):
    pytest.importorskip("onnxruntime")
    assert not detector(f"onnx:{write_network(tmp_path / 'net.onnx', flat=True)}").saliency_map(blob()).any()


@pytest.mark.parametrize(
    ("network", "after", "message"),
    [
        ({"channels": 4}, "", r"tensor.float. .1, 4, .*allowed: .*\(1, 3, h, w\)"),
        ({"dtype": 11}, "", r"tensor.double.*allowed: .*tensor.float. or tensor.float16..*\(1, 3, h, w\)"),
        ({"kind": "two planes"}, "", r"'d0' has shape \(1, 2, 320, 320\).*\(1, 1, h, w\)"),
        ({"kind": "vector"}, "", r"'d0' has shape \(1, 1, 1, 1\).*\(1, 1, h, w\)"),
        ({"size": (32, 48)}, ",size=64", "48x32.*size=64"),
        ({}, ",size=big", "size is 'big'; allowed: .*pixels"),
        ({}, ",size=5", "size is '5'; allowed: 8 to 4096"),
        ({}, ",mean=.5", "mean is '.5'; allowed: three numbers"),
        ({}, ",std=1:0:1", "std is '1:0:1'.* above 0"),
        ({}, ",colour=bgr", "'colour'.*allowed: size=, mean=, std=, output="),
        ({"outputs": 2}, ",output=2", "output is '2'; allowed: .*0 d0, 1 d1"),
        ({}, ",sigmoid=maybe", "sigmoid is 'maybe'; allowed: yes, no"),
        ({}, ",provider=abacus", "provider is 'abacus'; allowed: auto, cuda"),
        ({}, ",provider=coreml", "has no CoreMLExecutionProvider; it has .*CPU.*pip install .*--onnx-provider cpu"),
        ({}, ",threads=0", "threads is '0'; allowed: 1 to 256"),
        ({"metadata": {"std": "a:b:c"}}, "", "std is 'a:b:c'"),
    ],
)
def test_networks_of_the_wrong_shape_are_refused(tmp_path, network, after, message):
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=message):
        detector(f"onnx:{write_network(tmp_path / 'net.onnx', **network)}{after}")


def test_a_file_that_is_not_a_network_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "net.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"net.onnx is not an ONNX model.*Export"):
        detector(f"onnx:{tmp_path / 'net.onnx'}")
    os.mkfifo(tmp_path / "fifo.onnx")
    for name in ("other", "fifo"):
        with pytest.raises(InputError, match=f"{name}.onnx.*--saliency onnx:FILE"):
            detector(f"onnx:{tmp_path / name}.onnx")
    for name, content in (("empty", b""), ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")):
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.onnx is not an ONNX model.*(empty|graph|git lfs pull)"):
            detector(f"onnx:{tmp_path / name}.onnx")
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(3 << 30)  # sparse
    with pytest.raises(InputError, match=r"huge.onnx has 3,221,225,472 bytes; .*2,147,483,647"):
        detector(f"onnx:{tmp_path / 'huge.onnx'}")


def write_weights(file, seed=0, location=None):
    """Writes a convolution with random weights: in the file, or in external data at `location`."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.random.default_rng(seed).normal(size=(1, 3, 5, 5)).astype(np.float32), "w")
    image, map_ = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 32, 32]) for n, c in (("x", 3), ("y", 1)))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[2] * 4)], "g", [image], [map_], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    file.parent.mkdir(exist_ok=True)
    onnx.save(model, file, save_as_external_data=location is not None, location=location, size_threshold=0)
    return file


def test_external_data_is_read_beside_the_model_and_hashed(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    a, b = (write_weights(tmp_path / folder / "net.onnx", seed, "net.data") for seed, folder in enumerate("ab"))
    assert a.read_bytes() == b.read_bytes()
    whole = [detector(f"onnx:{write_weights(tmp_path / f'{seed}.onnx', seed)}") for seed in (0, 1)]
    monkeypatch.chdir(tmp_path / "b")  # the other network's data is in the current folder
    network, other = detector(f"onnx:{a}"), detector("onnx:net.onnx")
    np.testing.assert_array_equal(network.saliency_map(blob()), whole[0].saliency_map(blob()))
    np.testing.assert_array_equal(other.saliency_map(blob()), whole[1].saliency_map(blob()))
    sums = {folder: hashlib.sha256((tmp_path / folder / "net.data").read_bytes()).hexdigest() for folder in "ab"}
    assert network.SETTINGS["external"] == {"net.data": sums["a"]}
    assert other.SETTINGS["external"] == {"net.data": sums["b"]}
    assert "external" not in whole[0].SETTINGS
    (tmp_path / "a/net.data").unlink()
    with pytest.raises(InputError, match="a/net.onnx .*a/net.data.* not a file.*one file"):
        detector(f"onnx:{a}")


@pytest.mark.parametrize("location", ["../net.data", "sub/../../net.data", "/etc/hostname"])
def test_external_data_outside_the_models_folder_is_refused(tmp_path, location):
    pytest.importorskip("onnxruntime")
    file = write_weights(tmp_path / "a/net.onnx", 0, "X" * len(location))
    file.write_bytes(file.read_bytes().replace(b"X" * len(location), location.encode()))
    (tmp_path / "net.data").write_bytes((tmp_path / "a" / ("X" * len(location))).read_bytes())
    with pytest.raises(InputError, match=f"net.onnx .*'{location}'; allowed: .*own folder"):
        detector(f"onnx:{file}")


@pytest.mark.parametrize("inside", ["subgraph", "attribute"])
def test_external_data_of_inner_tensors_is_hashed(tmp_path, inside):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="inner.data")
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    if inside == "subgraph":
        node = helper.make_node("If", ["b"], ["c"], then_branch=helper.make_graph([node], "then", [], []))
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [])), tmp_path / "net.onnx")
    (tmp_path / "inner.data").write_bytes(bytes(4))
    assert hash_files(tmp_path / "net.onnx") == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("net.onnx", "inner.data")
    }


def test_a_trial_that_does_not_end_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_trial, "_CHILD", "import time; time.sleep(10_000)")
    monkeypatch.setattr(onnx_trial, "SECONDS", 0.2)
    with pytest.raises(InputError, match=r"net.onnx did not finish one image within 0.2 s"):
        detector(f"onnx:{write_network(tmp_path / 'net.onnx', size=(26, 26))}")


def test_a_model_that_crashes_onnxruntime_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_trial, "_CHILD", "import os; os.abort()")
    with pytest.raises(InputError, match=r"net.onnx .*signal 6"):
        detector(f"onnx:{write_network(tmp_path / 'net.onnx', size=(24, 24))}")


# --- names


def test_names_in_a_shard_set_have_no_colon_slash_or_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {
        "rbd": "rbd",
        "spectral-residual": "spectral-residual",
        "onnx:models/U2-Net_v1.2.onnx": "onnx-u2-net-v1-2",
        "onnx:u2net.onnx,size=288": "onnx-u2net",
        "maps:out/basnet_maps/": "maps-basnet-maps",
        "maps:.": f"maps-{tmp_path.name.lower().replace('_', '-')}",
        "maps:/": "maps",
    }
    assert {name: component(name) for name in names} == names


def test_a_name_that_a_set_cannot_have_is_refused_before_the_work(tmp_path):
    """`maps-` and 75 letters are 80 characters, the most that the format allows."""
    birds = read("drawn", classes=2, images_per_class=3, size=64)
    names = {length: f"maps:{tmp_path}/{'m' * length}" for length in (75, 76, 100)}
    for name in names.values():
        folder = Path(name.removeprefix("maps:"))
        folder.mkdir()
        for record in birds.records:
            cv2.imwrite(str(folder / Path(record.file).with_suffix(".png").name), np.eye(64, dtype=np.uint8))
    build.build(birds, tmp_path / "set", saliency=(names[75],))
    assert ShardSet.open(tmp_path / "set").detectors == ("maps-" + "m" * 75,)
    for length in (76, 100):
        with pytest.raises(InputError, match="would be called maps-m+ in the set.*Rename the file or folder"):
            build.build(birds, tmp_path / "other", saliency=(names[length],))
        with pytest.raises(InputError, match="would be called maps-m+ in the set"):
            add(tmp_path / "set", names[length])


@pytest.mark.parametrize("name", ["onnx", "onnx:", "maps", "rbd:file"])
def test_a_path_after_a_colon_is_required_or_refused(name):
    with pytest.raises(InputError, match=f"'{name}'.*--saliency"):
        detector(name)


# --- in a build


def test_a_set_by_a_network_and_by_maps(tmp_path):
    pytest.importorskip("onnxruntime")
    network = write_network(tmp_path / "Net.onnx", size=(32, 32))
    birds = read("drawn", classes=2, images_per_class=3, size=64)
    maps = tmp_path / "maps"
    maps.mkdir()
    for record in birds.records:
        grey = np.zeros((48, 48), np.uint8)
        grey[12:36, 12:36] = 255
        target = maps / Path(record.file).with_suffix(".png").name
        cv2.imwrite(str(target), grey)
    names = (f"onnx:{network}", f"maps:{maps}", "gt")
    build.build(birds, tmp_path / "set", saliency=names, workers=1)
    shards = ShardSet.open(tmp_path / "set")
    assert shards.detectors == ("onnx-net", "maps-maps", "gt")
    sample = shards.split("train").read(0)
    np.testing.assert_array_equal(box(sample, "maps-maps"), [0.25, 0.25, 0.5, 0.5])
    assert set(meta(sample)["detectors"]) == set(shards.detectors)
    assert build.build(birds, tmp_path / "set", saliency=names, workers=1).written == 0

    cv2.imwrite(str(target), 255 - grey)
    with pytest.raises(InputError, match=r"detectors.maps-maps.sha256"):
        build.build(birds, tmp_path / "set", saliency=names, workers=1)
    target.unlink()
    with pytest.raises(InputError, match=rf"{target.stem}.jpg has no map"):
        build.build(birds, tmp_path / "other", saliency=names, workers=1)
    assert not (tmp_path / "other").exists()
    twice = (f"maps:{maps}", f"maps:{tmp_path}/./maps")
    with pytest.raises(InputError, match="maps.* and .*maps-maps"):
        build.build(birds, tmp_path / "other", saliency=twice, workers=1)


@pytest.mark.skipif(sys.platform != "linux", reason="the trial limits its memory on Linux only")
def test_a_network_runs_under_a_memory_limit_below_the_trials_own(tmp_path):
    """`ulimit -v` below the trial's limit: a process may not raise its hard limit."""
    file = write_network(tmp_path / "net.onnx")
    words = (
        "build-shards --dataset drawn --classes 2 --images-per-class 3 --size 64 --jobs 1 --out set --saliency".split()
    )
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (7 << 30, 7 << 30)); "
        "from fgdata.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, *words, f"onnx:{file}"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
