"""Detectors that read files: ONNX networks and maps computed elsewhere, alone and in a build."""

import hashlib
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx_files import blob, write_network

from fgdata import progress, saliency
from fgdata.boxes.objective import Objective, solve
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


# --- maps:DIR


def test_reading_many_maps_shows_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((4, 4), np.uint8))
    assert detector(f"maps:{tmp_path}").SETTINGS["files"] == 3
    assert "Reading maps: 3 of 3 images" in capsys.readouterr().err


def test_a_map_is_found_by_path_or_by_stem(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    for name in ("a/one.png", "two.png", "one.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), 255 - grey if name == "one.png" else grey)
    maps = detector(f"maps:{tmp_path}")
    rgb = np.zeros((6, 8, 3), np.uint8)
    for file in ("images/a/one.jpg", "a/one.jpg", "images/b/two.jpeg", "two.jpg"):
        np.testing.assert_array_equal(maps.saliency_map(rgb, file), grey / np.float32(255))
    np.testing.assert_array_equal(maps.saliency_map(rgb, "b/one.jpg"), (255 - grey) / np.float32(255))
    large = maps.saliency_map(np.zeros((60, 80, 3), np.uint8), "two.jpg")
    assert large.shape == (60, 80)
    assert 0 <= large.min() <= large.max() <= 1
    assert saliency.saliency_map(f"maps:{tmp_path}", rgb, "two.jpg").shape == (6, 8)


def test_unusable_maps_are_named(tmp_path):
    grey = np.zeros((6, 8), np.uint8)
    for name in ("one.png", "one.jpg", "three.png"):
        cv2.imwrite(str(tmp_path / name), grey)
    cv2.imwrite(str(tmp_path / "jet.png"), np.dstack([grey, grey, grey + 200]))
    cv2.imwrite(str(tmp_path / "stored.png"), grey.T)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    maps, rgb = detector(f"maps:{tmp_path}"), np.zeros((6, 8, 3), np.uint8)
    with pytest.raises(InputError, match=r"one.jpg .*maps.*/one.jpg .*/one.png"):
        maps.saliency_map(rgb, "one.jpg")
    with pytest.raises(InputError, match=r"jet.png .*colour.*differ by 200.*grey"):
        maps.saliency_map(rgb, "jet.jpg")
    with pytest.raises(InputError, match=r"stored.png is 6 x 8 pixels .* but the image is 8 x 6: .* EXIF"):
        maps.saliency_map(rgb, "stored.jpg")
    with pytest.raises(InputError, match=r"torn.png"):
        maps.saliency_map(rgb, "torn.jpg")
    with pytest.raises(InputError, match=r"a/four.jpg has no map.*a/four.png"):
        maps.saliency_map(rgb, "a/four.jpg")
    with pytest.raises(InputError, match=r"a/four.jpg has no map.*\n.* 2 images"):
        maps.check_complete(["three.jpg", "a/four.jpg", "five.jpg"])
    with pytest.raises(InputError, match=r"a/three.jpg and b/three.jpg .*map .*three.png"):
        maps.check_complete(["a/three.jpg", "b/three.jpg"])
    with pytest.raises(InputError, match="none.*--saliency maps:DIR"):
        detector(f"maps:{tmp_path / 'none'}")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_a_map_keeps_all_its_levels(tmp_path, dtype):
    shares = np.linspace(0, 1, 48).reshape(6, 8)
    full = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    stored = (np.rint(shares * full) if full > 1 else shares).astype(dtype)
    cv2.imwrite(str(tmp_path / "grey.tiff"), stored)
    cv2.imwrite(str(tmp_path / "three.tif"), np.dstack([stored] * 3))
    if full > 1:
        cv2.imwrite(str(tmp_path / "grey16.png"), stored)
    maps, rgb = detector(f"maps:{tmp_path}"), np.zeros((6, 8, 3), np.uint8)
    for file in tmp_path.iterdir():
        map_ = maps.saliency_map(rgb, file.name)
        assert map_.dtype == np.float32
        np.testing.assert_array_equal(map_, stored.astype(np.float32) / np.float32(full))
    assert maps.SETTINGS["files"] == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((6, 8), 255, np.float32), ".*255.0 to 255.0; allowed: 0 to 1"),
        (np.full((6, 8), -0.5, np.float32), ".*-0.5 to -0.5; allowed: 0 to 1"),
        (np.full((6, 8), np.nan, np.float32), ".*nan to nan; allowed: 0 to 1"),
        (np.full((6, 8), np.inf, np.float64), ".*inf to inf; allowed: 0 to 1"),
        (np.full((6, 8), 7, np.int16), ".*int16.*; allowed: .*8 or 16 bits, or floats"),
        (np.full((6, 8, 3), (0, 0, 50_000), np.uint16), r".*colour.*differ by 195.*grey"),
        (np.full((6, 8, 3), (0, 0, 0.5), np.float32), r".*colour.*differ by 128.*grey"),
    ],
)
def test_values_that_are_not_saliency_are_refused(tmp_path, pixels, message):
    cv2.imwrite(str(tmp_path / "a.tif"), pixels)
    with pytest.raises(InputError, match=f"a.tif {message}"):
        detector(f"maps:{tmp_path}").saliency_map(np.zeros((6, 8, 3), np.uint8), "a.jpg")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_the_map_of_a_cut_out_is_its_alpha_channel(tmp_path, dtype, suffix):
    """A white or a coloured image whose alpha channel is the mask; a constant alpha channel is ignored."""
    if (suffix, dtype) not in ((".webp", np.uint8), (".png", np.uint8), (".png", np.uint16)) and suffix != ".tif":
        pytest.skip("the format has no such channels")
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    mask = np.zeros((40, 60))
    mask[10:30, 15:45] = full
    grey = np.linspace(0, full, 2400).reshape(40, 60)
    for name, bgr, alpha in (
        ("white", np.full((40, 60, 3), full), mask),
        ("coloured", np.dstack([grey, mask, grey[::-1]]), mask),
        ("opaque", np.dstack([mask] * 3), np.full((40, 60), full)),
    ):
        image = np.dstack([bgr, alpha]).astype(dtype)
        options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
        assert cv2.imwrite(str(tmp_path / f"{name}{suffix}"), image, options)
        map_ = detector(f"maps:{tmp_path}").saliency_map(np.zeros((40, 60, 3), np.uint8), f"{name}.jpg")
        np.testing.assert_array_equal(map_, (mask / full).astype(np.float32))
    box, fallback = solve(map_, Objective())
    np.testing.assert_allclose(box, [0.25, 0.25, 0.5, 0.5], atol=1 / 64)
    assert fallback is None


def png(width, height):
    """A valid PNG header that promises so many pixels, with almost no data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    data = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), chunk(b"IDAT", zlib.compress(b"0"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(data) + chunk(b"IEND", b"")


def tiff(width, height):
    """A TIFF of float64 that promises so many pixels, with almost no data; Pillow does not open it."""
    tags = {256: width, 257: height, 258: 64, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 8, 339: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("name", "data"), [("a.png", png(9_000, 9_000)), ("a.tif", tiff(9_000, 9_000))])
def test_a_map_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch, name, data):
    (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(InputError, match=f"{name} has 9,000 x 9,000 pixels; allowed: at most 16,777,216 .*Shrink"):
        saliency.saliency_map(f"maps:{tmp_path}", np.zeros((6, 8, 3), np.uint8), "a.jpg")


@pytest.mark.parametrize(
    "data", [b"", b"II*\0", tiff(8, 6)[:40], b"MM\0*" + bytes(60), b"II+\0" + bytes(60), png(8, 6)[:-30]]
)
def test_a_damaged_map_is_named(tmp_path, data):
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match=r"a.tif .*Restore"):
        saliency.saliency_map(f"maps:{tmp_path}", np.zeros((6, 8, 3), np.uint8), "a.jpg")


def test_maps_behind_links_are_hashed_and_only_regular_files_are_maps(tmp_path):
    for folder in ("maps", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "maps/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "maps")
    os.mkfifo(tmp_path / "maps/b.png")
    settings = []
    for level in (10, 20):
        cv2.imwrite(str(tmp_path / "elsewhere/a.png"), np.full((6, 8), level, np.uint8))
        maps = detector(f"maps:{tmp_path / 'maps'}")
        assert maps.find("linked/a.jpg") == tmp_path / "maps/linked/a.png"
        settings.append(maps.SETTINGS)
    assert settings[0]["files"] == settings[1]["files"] == 1
    assert settings[0] != settings[1]
    with pytest.raises(InputError, match="b.jpg has no map"):
        maps.find("b.jpg")


def test_a_maps_suffix_may_be_in_any_case(tmp_path):
    for name in ("one.PNG", "two.Tif", "two.b.png", "three.png", "threefold.png", "three"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.full((6, 8), len(name), np.uint8))[1].tobytes())
    (tmp_path / "four.png").mkdir()
    maps, rgb = detector(f"maps:{tmp_path}"), np.zeros((6, 8, 3), np.uint8)
    for stem, name in (("one", "one.PNG"), ("two", "two.Tif"), ("two.b", "two.b.png"), ("three", "three.png")):
        assert maps.find(f"a/{stem}.jpg") == tmp_path / name
        np.testing.assert_array_equal(maps.saliency_map(rgb, f"{stem}.jpg"), np.float32(len(name)) / np.float32(255))
    assert maps.SETTINGS["files"] == 5
    with pytest.raises(InputError, match=r"four.jpg has no map"):
        maps.find("four.jpg")


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
