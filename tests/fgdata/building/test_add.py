"""add: the bytes of a direct build with the detector."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shard_files import TIGHT, boxes, files

from fgdata.boxes.objective import Objective
from fgdata.building.build import build
from fgdata.building.rewrite import add, rebox
from fgdata.cli import main
from fgdata.errors import InputError
from fgdata.files.lock import create_and_lock
from fgdata.shards.check import check
from fgdata.shards.reader import ShardSet, meta


def test_add_gives_the_bytes_of_a_direct_build(birds, tmp_path):
    build(birds, tmp_path / "set", saliency=("gt",), shard_samples=12)
    (tmp_path / "set" / "notes.txt").write_text("mine")
    (tmp_path / "set" / "report.html").write_text("old boxes")
    add(tmp_path / "set", "spectral-residual")
    contents = files(tmp_path / "set")
    assert contents.pop("notes.txt") == b"mine"
    build(birds, tmp_path / "direct", saliency=("gt", "spectral-residual"), shard_samples=12)
    assert contents == files(tmp_path / "direct")
    with pytest.raises(InputError, match=r"boxes by gt.*gt, spectral-residual"):
        add(tmp_path / "set", "gt")
    with pytest.raises(InputError, match="'magic' is not a detector"):
        add(tmp_path / "set", "magic")
    assert not (tmp_path / ".new").exists()


def test_an_added_gt_equals_that_of_a_direct_build_to_seven_decimals(birds, tmp_path):
    few = replace(birds, records=birds.records[:12])
    build(few, tmp_path / "set", saliency=("spectral-residual",))
    add(tmp_path / "set", "gt")
    build(few, tmp_path / "direct", saliency=("spectral-residual", "gt"))
    ours, theirs = (boxes(tmp_path / name, "gt") for name in ("set", "direct"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)  # half of the 7th decimal, and the rounding of float32
    for split in ("train", "test"):
        added, direct = (ShardSet.open(tmp_path / name).split(split).read(0) for name in ("set", "direct"))
        assert {**added, "gt.npy": b"", "json": b""} == {**direct, "gt.npy": b"", "json": b""}
        assert {**meta(added), "crc32": ""} == {**meta(direct), "crc32": ""}


def test_add_to_a_set_with_maps_stores_the_new_maps(birds, tmp_path):
    few = replace(birds, records=birds.records[:10])
    build(few, tmp_path / "set", saliency=("spectral-residual",), shard_samples=6, keep_maps=True)
    add(tmp_path / "set", "vsf")
    build(few, tmp_path / "direct", saliency=("spectral-residual", "vsf"), shard_samples=6, keep_maps=True)
    assert files(tmp_path / "set") == files(tmp_path / "direct")
    rebox(tmp_path / "set", TIGHT)
    add(tmp_path / "set", "gt")
    assert ShardSet.open(tmp_path / "set").detectors == ("spectral-residual", "vsf", "gt")
    assert check(tmp_path / "set")[1] == []


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "build-shards --classes 2 --images-per-class 6 --size 96 --saliency spectral-residual --jobs 1".split()
    assert main([*words, "--keep-maps"]) == 0
    assert main(["rebox", "shards/drawn", "--objective", "max-mean", "--k", "1.5", "--out", "new", "--jobs", "1"]) == 0
    assert "12 samples of 2 classes (8 train, 4 test)" in capsys.readouterr().out
    assert main(["add", "new", "--saliency", "gt", "--jobs", "1"]) == 0
    assert "boxes by gt to 12 samples of 2 classes" in capsys.readouterr().out
    assert main(["check", "new"]) == 0
    assert main(["add", "new", "--saliency", "gt"]) == 2
    leftover = Path(".new/new")  # as a killed process leaves it
    leftover.mkdir(parents=True)
    for words in (["check", "new"], ["list", "--folder", "."]):
        capsys.readouterr()
        assert main(words) == 0
        assert "rm -r " in capsys.readouterr().out
    with create_and_lock(leftover):
        assert main(["check", "new"]) == 0
        assert "new is being written" in capsys.readouterr().out
    leftover.rename(".new/gone.old")
    assert main(["list", "--folder", "."]) == 0
    assert "mv .new/gone.old gone" in capsys.readouterr().out
    assert ShardSet.open(Path("shards/drawn")).manifest["objective"] == Objective().settings
    assert main(["rebox", "nowhere"]) == 2
    assert "no shard set at nowhere" in capsys.readouterr().err
