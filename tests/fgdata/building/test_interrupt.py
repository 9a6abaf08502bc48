"""Ctrl-C in a real build: the first stops after the current image, the second at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shard_files import hashes, jpeg

from fgdata.building.build import build
from fgdata.datasets import Dataset, Record

# The image GATE is read from a FIFO, so that the test knows when it is being read and decides when it is done.
SCRIPT = """
import functools, signal, sys
from pathlib import Path
from fgdata.building.build import build
from fgdata.datasets import Dataset, Record
from fgdata.errors import run_command

FOLDER = Path(sys.argv[1])

def load(record):
    if record.file == "GATE":
        (FOLDER / "gate").read_bytes()
    return (FOLDER / "bird.jpg").read_bytes(), ()

def main():
    records = tuple(Record(name, name, 0, "bird", "train", ()) for name in NAMES)
    birds = Dataset("files", ("bird",), records, load)
    build(birds, FOLDER / "set", saliency=("spectral-residual",), shard_samples=2, workers=2, on_bad_image="skip")

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    sys.exit(run_command("fgdata", main, lambda: "Rerun."))
"""
NAMES = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "GATE"]


class Birds:
    """Loads bird.jpg of a folder for every record."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, record: Record):
        return (self.folder / "bird.jpg").read_bytes(), ()


@pytest.fixture
def building(tmp_path: Path):
    """A build in a process group of its own, at the moment when it reads the image GATE; and the open FIFO."""
    (tmp_path / "bird.jpg").write_bytes(jpeg())
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "script.py").write_text(f"NAMES = {NAMES}\n{SCRIPT}")
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    gate = os.open(tmp_path / "gate", os.O_WRONLY)  # returns once a worker has opened the other end
    yield process, gate
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def press(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too


def wait_for_notice(process: subprocess.Popen) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if "Press Ctrl-C again" in line:
            return
    raise AssertionError("the build ended without a notice")


def test_the_first_ends_after_the_image_in_hand_and_loses_only_unfinished_shards(building, tmp_path):
    process, gate = building
    press(process)
    wait_for_notice(process)
    os.close(gate)  # the current image is done
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "stopped. Rerun." in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "set").rglob("*.part"))
    assert not (tmp_path / "set" / "manifest.json").exists()
    marks = {path.stem for path in (tmp_path / "set" / ".building").glob("train-*.json")}
    assert marks == {path.stem for path in (tmp_path / "set").glob("*.tar")}, "an unfinished shard left a tar"
    assert len(marks) < 5, "the shard of GATE is unfinished"
    records = tuple(Record(name, name, 0, "bird", "train", ()) for name in NAMES)
    birds = Dataset("files", ("bird",), records, Birds(tmp_path))
    settings = {"saliency": ("spectral-residual",), "shard_samples": 2, "on_bad_image": "skip"}
    done = build(birds, tmp_path / "set", **settings)
    assert done.written == 10 - 2 * len(marks), "finished shards are kept"
    build(birds, tmp_path / "direct", **settings)
    assert hashes(tmp_path / "set") == hashes(tmp_path / "direct")


def test_the_second_ends_at_once(building, tmp_path):
    process, gate = building
    press(process)
    wait_for_notice(process)
    press(process)
    _, errors = process.communicate()  # ends when no worker holds the pipe any more, although GATE was never done
    os.close(gate)
    assert process.returncode == 130
    assert "Traceback" not in errors
