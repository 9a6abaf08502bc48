"""A stopped build resumes to the same bytes; a damaged unfinished set is repaired or refused."""

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from shard_files import dataset, from_folder, hashes, jpeg

from fgdata.building.build import build
from fgdata.cli import main
from fgdata.datasets import Record
from fgdata.errors import InputError
from fgdata.shards.check import check


@pytest.mark.slow
def test_killed_at_ten_random_moments_and_resumed_it_ends_with_the_same_bytes(tmp_path):
    settings = "--classes 5 --images-per-class 24 --size 160 --saliency rbd gt --shard-samples 6 --jobs 2".split()

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "fgdata.cli", "build-shards", *settings, "--out", str(tmp_path / out)]

    def shards() -> int:
        return len(list((tmp_path / "killed").glob("*.tar")))

    subprocess.run(command("whole"), check=True, capture_output=True)
    moment, kills, counts = random.Random(0), 0, []
    while kills < 10:
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = shards() + moment.randrange(3)  # 0: during the start; 1 and 2: while a later shard is built
        while process.poll() is None and shards() < goal:
            time.sleep(0.01)
        time.sleep(moment.uniform(0, 0.5))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            kills += 1
            counts.append(shards())
        else:  # it ended before the kill; start again
            assert process.returncode == 0
            assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
            shutil.rmtree(tmp_path / "killed")
    assert max(counts) > 0, "no kill came after a finished shard, so nothing was resumed"
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def test_an_unfinished_build_refuses_other_settings_too(tmp_path):
    data = dataset(tmp_path, {f"{i}.jpg": jpeg() for i in range(3)} | {"z.jpg": jpeg()})
    bad = replace(data, load=partial(fail_on, "z.jpg", tmp_path))
    with pytest.raises(InputError, match=r"z.jpg is cursed"):
        build(bad, tmp_path / "set", saliency=("gt",), shard_samples=1)
    assert not (tmp_path / "set" / "manifest.json").exists()
    assert not list((tmp_path / "set").glob("**/*.part"))
    with pytest.raises(InputError, match=r"4 images then, 3 now"):
        build(replace(data, records=data.records[1:]), tmp_path / "set", saliency=("gt",), shard_samples=1)
    with pytest.raises(InputError, match=r"shard_samples: 1 .*2"):
        build(data, tmp_path / "set", saliency=("gt",), shard_samples=2)
    assert build(data, tmp_path / "set", saliency=("gt",), shard_samples=1).manifest["splits"]["train"]["samples"] == 4
    assert check(tmp_path / "set")[1] == []


def fail_on(name: str, root: Path, record: Record):
    """Succeeds the first time, in the check before the build, and fails when the sample is made."""
    marker = root / f"{record.id}.read"
    if record.file == name and marker.exists():
        raise InputError(f"{name} is cursed")
    marker.touch()
    return from_folder(root, record)


def test_a_build_that_lacks_only_its_manifest_reports_that_it_wrote_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "build-shards --classes 2 --images-per-class 4 --size 64 --saliency spectral-residual --jobs 1".split()
    with monkeypatch.context() as stopped:
        stopped.setattr("fgdata.building.build.merge", stop)
        assert main([*words, "--keep-maps"]) == 130
    assert main([*words, "--keep-maps"]) == 0
    assert "already built; wrote the manifest" in capsys.readouterr().out
    assert main([*words, "--keep-maps"]) == 0
    assert "already complete" in capsys.readouterr().out


def stop(*_):
    raise KeyboardInterrupt
