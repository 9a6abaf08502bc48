"""tools/torture.py: a try of each test, and that it notices a loss."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from paths import TOOLS

sys.path.insert(0, str(TOOLS))
import torture_commands
import torture_disks
import torture_long
import torture_sets

sys.path.remove(str(TOOLS))


@pytest.mark.slow
def test_nothing_is_lost_in_a_try_of_each(tmp_path: Path):
    """In a separate process: it forks, which needs a process without threads of torch or OpenCV. Try 23209 is a quick
    one: its commands of `two`, `full` and `read-only` are fgdata's, and `interrupt` comes after 1.2 s."""
    tests = {"build": "build", "interrupt": "interrupt", "rewrite": "rewrite", "train": "train", "two": "two"}
    tests |= {"flip-set": "flip, set", "flip-run": "flip, run"}
    if torture_disks.can_mount(tmp_path / "disk"):
        tests |= {"full": "full", "read-only": "read-only"}
    words = [sys.executable, str(TOOLS / "torture.py"), *tests, "--forks", "--tries", "1", "--first", "23209"]
    words += ["--json", str(tmp_path / "table.json")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ")[:4] for line in done.stdout.splitlines()[2:]]
    assert rows == [[f"| {name}", "1", "1", "0"] for name in tests.values()]
    assert [row["test"] for row in json.loads((tmp_path / "table.json").read_text())["rows"]] == list(tests.values())
    assert not list(tmp_path.glob("torture-*"))


class Scripted:
    """A runner whose commands do nothing, and whose build changes a byte."""

    def run(self, folder: Path, *words: object) -> tuple[int, str]:
        (folder / "set").mkdir(exist_ok=True)
        (folder / "set" / "train-000000.tar").write_bytes(os.urandom(8))
        return 0, ""

    def start(self, folder: Path, *words: object) -> int:
        return 0


def test_other_bytes_after_a_kill_are_a_loss(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(torture_sets, "disturb", lambda *_: "KILL all")
    build = torture_sets.Build(tmp_path / "valid", Scripted())
    (tmp_path / "case").mkdir()
    assert build.attempt(tmp_path / "case", Random(0))[0] == "train-000000.tar"


def test_growth_is_the_interval_of_the_slope():
    """The slope of 1, 2, 3, 5, 5 is 1.1, its standard error sqrt(0.7 / 3 / 10), and t of 0.975 and 3 degrees 3.1824."""
    assert torture_long.growth([4, 5, 6, 7, 8], [1, 2, 3, 5, 5]) == pytest.approx(
        (1.1 - 0.4861, 1.1 + 0.4861), abs=1e-4
    )
    assert torture_long.growth([6, 12, 18], [7, 7, 7]) == (0, 0)
    assert torture_long.growth([6, 12, 18], [0, 6, 12]) == pytest.approx((1, 1))


@pytest.mark.parametrize(
    ("code", "output", "fault"),
    [
        (0, "", ""),
        (2, "fgdata: the disk is full", ""),
        (2, "", "exit code 2: no output"),
        (-11, "x", "exit code -11: x"),
        (1, "Traceback (most recent call last)\nValueError: 3", "a traceback: ValueError: 3"),
        (124, "", "it hangs"),
    ],
)
def test_how_a_command_may_end(code: int, output: str, fault: str):
    assert torture_commands.check_message(code, output) == fault
