"""tools/bench_against.py: two commits of a small repository, measured alternately."""

import subprocess
import sys

import pytest
from paths import TOOLS

from fgdata.errors import InputError

sys.path.insert(0, str(TOOLS))
import bench_against

sys.path.remove(str(TOOLS))

PROBE = """
import os, fgdata
calls = 0
def probe(log, word):
    global calls
    calls += 1
    with open(log, "a") as file:
        file.write(f"{fgdata.VALUE} {calls}\\n")
    print("a line on standard output")
    return {"value": fgdata.VALUE, "word": word}
def fail():
    raise SystemExit("no figures")
"""


@pytest.fixture
def repository(tmp_path):
    """A repository whose last commit has VALUE 1, with VALUE 2 in its working tree."""
    folder = tmp_path / "repository"
    (folder / "fgdata").mkdir(parents=True)
    (folder / "fgdata" / "__init__.py").write_text("VALUE = 1\n")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "one")):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    (folder / "fgdata" / "__init__.py").write_text("VALUE = 2\n")
    (tmp_path / "probe.py").write_text(PROBE)
    return folder


def test_both_trees_are_measured_alternately(repository, tmp_path):
    log = tmp_path / "log"
    with bench_against.commit_folder("HEAD", repository) as other:
        assert (other / "fgdata" / "__init__.py").read_text() == "VALUE = 1\n"
        folders = (repository, other)
        new, old = bench_against.alternate("probe", "probe", [str(log), "x"], folders, 3, tmp_path)
    assert new == [{"value": 2, "word": "x"}] * 3
    assert old == [{"value": 1, "word": "x"}] * 3
    assert log.read_text().split("\n") == ["2 1", "1 1", "1 2", "2 2", "2 3", "1 3", "1 4", "2 4", ""]
    assert not other.exists()
    worktrees = subprocess.run(["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True)
    assert len(worktrees.stdout.splitlines()) == 1


def test_an_unknown_commit_and_a_failed_measurement_are_errors(repository, tmp_path):
    with pytest.raises(InputError, match="rev-parse.*nowhere"):
        bench_against.name_of("nowhere", repository)
    with pytest.raises(InputError, match="repository failed"):
        bench_against.alternate("probe", "fail", [], (repository, repository), 1, tmp_path)


def test_ratios_are_those_of_each_round():
    row = bench_against.ratio_row("per_s", [20, 30, 44], [10, 10, 11])
    assert row == {"per_s": 30, "per_s_other": 10, "ratio": 3, "ratio_min": 2, "ratio_max": 4, "n": 3}
