"""The log of a build counts each tar of the set once, even if the log is damaged."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from fgdata.building.build import build
from fgdata.building.log import LOG, append_log, read_log
from fgdata.building.rewrite import add
from fgdata.datasets import read as read_dataset
from fgdata.errors import InputError
from fgdata.report.page import write_report
from fgdata.report.score import score
from fgdata.shards.check import check
from fgdata.shards.reader import ShardSet


@pytest.fixture
def make(tmp_path: Path):
    """Builds 8 drawn birds into `set`."""
    birds = read_dataset("drawn", classes=2, images_per_class=4, size=64)
    return partial(build, birds, tmp_path / "set", saliency=("gt",))


def lines(folder: Path) -> dict[str, int]:
    return {line["shard"]: line["samples"] for line in read_log(ShardSet.open(folder))}


def stop(*_):
    raise KeyboardInterrupt


def test_a_line_after_an_incomplete_one_starts_on_a_new_line(make, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    with monkeypatch.context() as stopped:
        stopped.setattr("fgdata.building.finish.make_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            make(shard_samples=2)
    log = folder / LOG
    log.write_bytes(log.read_bytes()[:-20])  # of the last tar's line
    (folder / ".building" / "train-000000.json").unlink()
    assert make(shard_samples=2).written == 2
    logged = lines(folder)
    lost = {"train-000000", "train-000001", "train-000002", "test-000000"} - set(logged)
    assert len(logged) == 3
    assert "train-000000" in logged
    assert lost
    assert check(folder)[1] == []
    assert "ms per image" in write_report(folder, folder / "report.html").read_text()
    append_log(folder / LOG, {"shard": lost.pop(), "seconds": {}, "slowest": []})
    assert sum(lines(folder).values()) == 8
    log.write_bytes(b"")
    append_log(folder / LOG, {"shard": "train-000000"})
    assert log.read_bytes() == b'{"shard": "train-000000"}\n'
    log.write_bytes(b"\xff\x00\n7\n{}\n")
    assert lines(folder) == {}


def test_lines_of_deleted_tars_do_not_count(make, tmp_path):
    make(shard_samples=1)
    folder = tmp_path / "set"
    old = (folder / LOG).read_bytes()
    shutil.rmtree(folder)
    make(shard_samples=4)
    assert sum(lines(folder).values()) == 8
    (folder / LOG).write_bytes(old + (folder / LOG).read_bytes())
    assert sum(lines(folder).values()) == 8


def test_a_rewritten_set_keeps_its_log(make, tmp_path):
    make()
    before = (tmp_path / "set" / LOG).read_bytes()
    add(tmp_path / "set", "spectral-residual")
    assert (tmp_path / "set" / LOG).read_bytes().startswith(before)
    assert check(tmp_path / "set")[1] == []
    assert make(saliency=("gt", "spectral-residual")).was_complete


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs a file that the kernel makes")
def test_a_log_that_takes_no_lines_is_an_input_error(tmp_path: Path):
    (tmp_path / "build.jsonl").symlink_to("/proc/self/environ")
    with pytest.raises(InputError, match=r"build.jsonl takes no more lines: .*Move it away"):
        append_log(tmp_path / LOG, {"x": 1})


@pytest.mark.parametrize("elsewhere", [False, True])
def test_add_logs_the_seconds_of_its_detector_and_keeps_those_of_the_others(make, tmp_path: Path, elsewhere: bool):
    make(saliency=("vsf",))
    before = read_log(ShardSet.open(tmp_path / "set"))
    path = add(tmp_path / "set", "spectral-residual", out=tmp_path / "new" if elsewhere else None).path
    after, rows = read_log(ShardSet.open(path)), score(path)["detectors"]
    assert rows["spectral-residual"]["seconds"] > 0
    own = [line["seconds"].pop("spectral-residual") for line in after]
    assert len(own) == len(before)
    assert after == before
    assert rows["vsf"]["seconds"] > 0
