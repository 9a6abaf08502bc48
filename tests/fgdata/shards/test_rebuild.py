"""The command that builds a set again: it is run, and must give the same set."""

import inspect
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_files import image, write

from fgdata.boxes.objective import Objective
from fgdata.building.build import build
from fgdata.cli import main
from fgdata.commands.build import build_shards
from fgdata.datasets import read
from fgdata.saliency.onnx_provider import PROVIDERS
from fgdata.shards import rebuild
from fgdata.shards.manifest import read_manifest
from fgdata.shards.rebuild import build_beside, build_command, how_to_rebuild
from fgdata.stores.place import place

DRAWN = "--dataset drawn --classes 2 --images-per-class 4 --size 64 --seed 3"
SETTINGS = {
    "max-excess": "--saliency vsf gt --tau 0.5 --grid 32 --keep-maps --max-side 48 --quality 80 --chroma 444",
    "max-mean": "--saliency vsf --objective max-mean --k 1.5 --shard-samples 3",
    "area": "--saliency vsf --objective max-mean --min-area 0.25",
    "plain": "--saliency vsf",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_command_that_check_prints_builds_the_same_set(tmp_path: Path, monkeypatch, capsys, name: str):
    monkeypatch.chdir(tmp_path)
    words = ["build-shards", *f"{DRAWN} {SETTINGS[name]}".split(), "--jobs", "1", "--out", "sets/a b"]
    assert main(words) == 0
    wanted = read_manifest(Path("sets/a b"))
    Path("sets/a b/train-000000.tar").write_bytes(b"")
    assert main(["check", "sets/a b"]) == 1
    printed = capsys.readouterr().err.rpartition("rebuild it: ")[2].strip()
    removal, command = printed.split(" && ")
    assert shlex.split(removal) == ["mv", "sets/a b", "sets/a b-damaged"]
    assert shlex.split(command)[0] == "fgdata"
    shutil.rmtree("sets/a b")
    assert main([*shlex.split(command)[1:], "--jobs", "1"]) == 0
    assert read_manifest(Path("sets/a b")) == wanted


def test_a_part_of_a_folder_with_a_drawn_test_split_is_built_again(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write(tmp_path / "root", {f"{c}/{i}.jpg": image() for c in "abc" for i in range(4)})
    (root / "a/0.jpg").write_bytes(b"no image")
    options = {"classes": 2, "images_per_class": 2, "test_fraction": 0.25, "split_seed": 4, "split_folders": "none"}
    done = build(read("folder", root, **options), Path("set"), saliency=("whole",), workers=1, on_bad_image="skip")
    words = shlex.split(build_command(done.manifest, Path("again")))
    words[words.index("FOLDER")] = str(root)
    assert done.manifest["skipped"]
    assert main([*words[1:], "--jobs", "1"]) == 0
    assert read_manifest(Path("again"))["digest"] == done.manifest["digest"]


def test_defaults_that_are_not_printed_are_those_of_the_command():
    parameters = inspect.signature(build_shards).parameters
    of_command = {name: parameters[name].default for name in rebuild._DEFAULTS if name != "k"}
    assert {"k": Objective("max-mean").k, **of_command} == rebuild._DEFAULTS


def manifest(tmp_path: Path, **changes) -> dict:
    birds = read("drawn", classes=2, images_per_class=3, size=48)
    return build(birds, tmp_path / "set", saliency=("gt",), workers=1).manifest | changes


def test_maps_need_a_detector_and_a_folder_of_their_own(tmp_path: Path, monkeypatch):
    made = manifest(tmp_path)
    command = build_beside(tmp_path / "set", made, "-maps", keep_maps=True)
    assert command.endswith(f"--saliency gt rbd --keep-maps --out {tmp_path}/set-maps")
    monkeypatch.chdir(tmp_path / "set")
    assert build_beside(Path(), made, "-maps", keep_maps=True) == command
    assert main(["rebox", "."]) == 2
    assert build_beside(place("https://host/a/set"), made, "-new").endswith("--out shards/set-new")


def test_what_a_manifest_does_not_record_is_a_word_in_capitals(tmp_path: Path):
    made = manifest(tmp_path, detectors={"onnx-net": {}, "maps-a": {}, "rbd-centred": {}}, plugins={"my plugin": ""})
    made["dataset"] = {"name": "cub", "classes": ["a", "b"]}
    found = build_command(made, Path("x"))
    assert "--plugin 'my plugin' --dataset cub --root FOLDER --saliency onnx:FILE maps:DIR rbd-centred --out x" in found
    made["dataset"]["settings"] = {"coreset": {"budget": 2}}
    assert build_command(made, Path("x")).startswith("fgdata coreset ")


@pytest.mark.parametrize(
    ("dataset", "classes", "words"),
    [
        ("table", ["a"], "--dataset table --root FOLDER --table FILE --saliency"),
        ("imagenet100", ["a"], "--dataset imagenet100 --root FOLDER --class-list FILE --saliency"),
        ("coco", ["a"], "--dataset coco --root FOLDER --annotations JSON --saliency"),
        ("coco", ["person", "bicycle"], "--dataset coco --root FOLDER --saliency"),
    ],
)
def test_the_lists_of_a_dataset_are_named(dataset: str, classes: list[str], words: str, tmp_path: Path):
    made = manifest(tmp_path) | {"dataset": {"name": dataset, "classes": classes}}
    assert words in build_command(made, Path("x"))


def test_settings_of_networks_are_those_of_the_set(tmp_path: Path):
    numbers = {"mean": np.float32([0.485, 0.5, 0]).tolist(), "std": [1.0, 1.0, 0.25]}
    net = {"sha256": "0", "size": [320, 288], **numbers, "output": "d2", "sigmoid": True, "threads": 4}
    cuda = {name: official for name, (official, _) in PROVIDERS.items()}["cuda"]
    made = manifest(tmp_path, detectors={"onnx-net": net, "u2netp": {"size": [320, 320], "provider": cuda}})
    found = shlex.split(build_command(made, Path("x")))
    first, second = found[found.index("--saliency") + 1 :][:2]
    assert first == "onnx:FILE,size=320x288,mean=0.485:0.5:0.0,std=1.0:1.0:0.25,output=d2,sigmoid=yes,threads=4"
    assert second == "u2netp,provider=cuda"
    assert np.float32([float(x) for x in "0.485:0.5:0.0".split(":")]).tolist() == numbers["mean"]


def test_every_provider_is_named_as_the_option_takes_it(tmp_path: Path):
    for name, (official, _) in PROVIDERS.items():
        made = manifest(tmp_path / name, detectors={"u2netp": {"provider": official}})
        assert f"u2netp,provider={name}" in build_command(made, Path("x"))


def test_a_damaged_set_is_moved_aside_and_not_deleted(tmp_path: Path):
    """What a manifest does not record may keep the new build from succeeding."""
    words = how_to_rebuild(tmp_path / "my set", manifest(tmp_path))
    assert f"mv '{tmp_path / 'my set'}' '{tmp_path / 'my set'}-damaged' && fgdata build-shards " in words
    assert "rm " not in words


def test_a_set_in_remote_storage_is_copied_there_again(tmp_path: Path):
    made = manifest(tmp_path)
    assert how_to_rebuild(place("hf://datasets/a/b"), made).endswith(": fgdata push FOLDER hf://datasets/a/b")
    assert how_to_rebuild(place("s3://a/b"), made).endswith("--out s3://a/b")
    assert how_to_rebuild(place("gs://a/b"), made).endswith("--out gs://a/b")
    assert how_to_rebuild(place("http://a/b"), made) == "copy the set to the server again"
