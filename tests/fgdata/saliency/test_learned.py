"""Detectors that are published networks: where their files are found, checked and downloaded from."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from http_server import Server, serving
from onnx_files import blob, write_network

from fgdata.building.build import build
from fgdata.cli import main
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.files import download
from fgdata.saliency import DETECTORS, component, copies, detector, learned, own_files, own_tau, with_onnx
from fgdata.shards.reader import ShardSet


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with serving() as server:
        yield server


@pytest.fixture
def models(monkeypatch, tmp_path) -> Path:
    """The folder of models: a small network is u2netp."""
    folder = tmp_path / "models"
    monkeypatch.setenv(learned.VARIABLE, str(folder))
    folder.mkdir()
    network = write_network(folder / "u2netp.onnx", size=(60, 80))
    sum_ = hashlib.sha256(network.read_bytes()).hexdigest()
    row = replace(learned.NETWORKS["u2netp"], sha256=sum_, settings={"mean": "0:0:0", "std": "1:1:1"})
    monkeypatch.setitem(learned.NETWORKS, "u2netp", row)
    return folder


def offer(server: Server, monkeypatch, data: bytes) -> None:
    archive = server.offer("u2netp.onnx", data)
    row = replace(learned.NETWORKS["u2netp"], url=archive.url, sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(learned.NETWORKS, "u2netp", row)


def test_every_network_is_a_detector_with_a_checksum_and_an_address():
    for name, network in learned.NETWORKS.items():
        assert DETECTORS[name].module == learned.__name__
        assert DETECTORS[name].runs_network
        assert DETECTORS[name].trained_on.startswith("masks of")
        assert len(network.sha256) == 64
        assert network.url.startswith("https://")
        assert network.url.endswith(f"/{network.file}")
    assert [name for name, row in DETECTORS.items() if row.module == learned.__name__] == list(learned.NETWORKS)


def test_a_network_is_found_by_name_and_runs_with_its_own_settings(models):
    pytest.importorskip("onnxruntime")
    network = detector("u2netp")
    np.testing.assert_array_equal(network.saliency_map(blob()), blob()[..., 0] / np.float32(250))  # pyright: ignore
    assert network.SETTINGS["sha256"] == learned.NETWORKS["u2netp"].sha256
    assert network.TAU == own_tau("u2netp") == learned.TAU
    other = detector("u2netp,mean=.5:.5:.5,threads=2")
    assert (other.SETTINGS["mean"], other.SETTINGS["std"], other.SETTINGS["threads"]) == ([0.5] * 3, [1.0] * 3, 2)


def test_a_missing_or_different_file_is_refused_with_the_command_that_fetches_it(models, monkeypatch):
    with pytest.raises(
        InputError, match=r"(?s)u2net.onnx, .*not exist \(Apache-2.0, 176.0 MB, https.*fetch-model u2net\n"
    ):
        detector("u2net")
    (models / "u2netp.onnx").write_bytes(b"other")
    with pytest.raises(InputError, match=r"(?s)not the published file.*expected.*rm .*fetch-model u2netp.*onnx:"):
        detector("u2netp")
    monkeypatch.delenv(learned.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(models / "cache"))
    assert learned.folder() == models / "cache/fgdata/models"
    with pytest.raises(InputError, match=r"'rbd,size=3' is not a valid form of rbd"):
        detector("rbd,size=3")
    with pytest.raises(InputError, match=r"'u2netp:x' is not a valid form of u2netp"):
        detector("u2netp:x")
    with pytest.raises(InputError, match=r"'colour' is not a setting"):
        detector("u2netp,colour=red")


def test_fetch_model_resumes_and_checks(server, models, monkeypatch, capsys):
    data = np.random.default_rng(0).bytes(300_000)
    (models / "u2netp.onnx").unlink()
    offer(server, monkeypatch, data)
    server.cut_after = [100_000, *[0] * download.TRIES]
    assert main(["fetch-model", "u2netp"]) == 2
    assert "100,000 bytes were downloaded so far. Rerun the command to resume" in capsys.readouterr().err
    assert [path.name for path in models.iterdir()] == ["u2netp.onnx.part"]
    server.ranges.clear()
    assert main(["fetch-model", "u2netp"]) == 0
    assert server.ranges == ["bytes=100000-"]
    assert (models / "u2netp.onnx").read_bytes() == data
    assert "Apache-2.0" in capsys.readouterr().out
    assert main(["fetch-model", "u2netp"]) == 0
    assert len(server.ranges) == 1, "nothing is downloaded twice"


def test_a_network_that_another_process_has_downloaded_meanwhile_is_not_downloaded_again(server, models, monkeypatch):
    (models / "u2netp.onnx").unlink()
    offer(server, monkeypatch, b"published")
    only_downloader = learned.only_downloader

    def overtaken(folder, flag):
        (models / "u2netp.onnx").write_bytes(b"published")
        return only_downloader(folder, flag)

    monkeypatch.setattr(learned, "only_downloader", overtaken)
    assert main(["fetch-model", "u2netp"]) == 0
    assert not server.ranges
    assert [path.name for path in models.iterdir()] == ["u2netp.onnx"]


def test_fetch_model_refuses_another_file_and_an_unknown_name(server, models, monkeypatch, capsys):
    (models / "u2netp.onnx").unlink()
    offer(server, monkeypatch, b"published")
    server.files["u2netp.onnx"] = b"forged"
    assert main(["fetch-model", "u2netp"]) == 2
    assert "not the published file: SHA-256" in capsys.readouterr().err
    assert not list(models.iterdir())
    del server.files["u2netp.onnx"]
    assert main(["fetch-model", "u2netp"]) == 2
    assert "404 Not Found. The publisher may have moved the file. Find u2netp.onnx" in capsys.readouterr().err
    assert main(["fetch-model", "basnet"]) == 2
    assert "available: u2netp, u2net, isnet, birefnet-lite" in capsys.readouterr().err


def test_provider_and_threads_go_to_networks_only():
    names = ("rbd", "u2netp", "onnx:a.onnx,size=32", "maps:dir", "u2net,threads=4")
    assert with_onnx(names, "cpu", 1) == names
    given = with_onnx(names, "cuda", 2)
    assert given == (
        "rbd",
        "u2netp,provider=cuda,threads=2",
        "onnx:a.onnx,size=32,provider=cuda,threads=2",
        "maps:dir",
        "u2net,threads=4,provider=cuda",
    )
    assert [component(name) for name in given] == ["rbd", "u2netp", "onnx-a", "maps-dir", "u2net"]


def test_settings_of_onnxruntime_without_a_network_are_refused():
    with pytest.raises(InputError, match=r"^--onnx-provider cuda --onnx-threads 2 has no effect.*\(rbd, gt\).*u2netp"):
        with_onnx(("rbd", "gt"), "cuda", 2)
    assert with_onnx(("rbd", "a typing error"), "cpu", 2) == ("rbd", "a typing error"), "refused later, by its name"


def test_a_build_records_the_network_and_has_the_same_bytes_each_time(models, tmp_path):
    pytest.importorskip("onnxruntime")
    birds = read("drawn", classes=2, images_per_class=3, size=64)
    for name in ("a", "b"):
        build(birds, tmp_path / name, saliency=with_onnx(("u2netp",), "cpu", 1))
    settings = ShardSet.open(tmp_path / "a").manifest["detectors"]["u2netp"]
    assert settings["tau"] == learned.TAU
    assert "provider" not in settings
    for path in (tmp_path / "a").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    with pytest.raises(InputError, match=r"detectors.u2netp.threads: .*nothing|null in the set, 2 now"):
        build(birds, tmp_path / "a", saliency=with_onnx(("u2netp",), "cpu", 2))


def test_the_published_u2netp(real_data, monkeypatch):
    pytest.importorskip("onnxruntime")
    if not (real_data / "models" / "u2netp.onnx").is_file():
        pytest.skip(f"no file {real_data / 'models' / 'u2netp.onnx'}")
    monkeypatch.setenv(learned.VARIABLE, str(real_data / "models"))
    map_ = detector("u2netp").saliency_map(blob(120, 160))  # pyright: ignore
    assert map_[30:60, 40:80].mean() > 0.9
    assert map_[80:].mean() < 0.1


def test_a_copy_from_another_machine_is_found_and_checked(models, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files, contents = copies.read(*own_files("u2netp"))
    monkeypatch.setenv(copies.VARIABLE, copies.as_variable([files])[copies.VARIABLE])
    (models / "u2netp.onnx").unlink()
    copies.receive(files, contents.__getitem__)
    assert learned.find("u2netp").read_bytes() == contents["u2netp.onnx"]
    learned.find("u2netp").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"cache/fgdata/copies/\w+/u2netp.onnx is not the published file"):
        learned.find("u2netp")
