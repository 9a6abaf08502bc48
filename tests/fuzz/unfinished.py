"""Unfinished builds: the plan, the marks of complete shards, owner files, logs, their tars, indexes and maps. A build
that resumes on damage must refuse or repair it: a finished set must equal the one that an undisturbed build writes."""

import json
import shutil
from pathlib import Path
from random import Random

from . import corrupt
from .commands import fgdata, preload, run_in_process

PRELOAD = ("fgdata.building.build", "fgdata.building.rewrite", "cv2")
SET = Path("set")
BUILD = "build-shards --dataset drawn --classes 2 --images-per-class 5 --size 48 --shard-samples 3 --keep-maps".split()
BUILD += ["--saliency", "spectral-residual", "gt", "--out"]


def prepare(folder: Path) -> None:
    from fgdata import cli

    preload(*PRELOAD)
    assert fgdata(*BUILD, folder / "whole") == 0
    run_in_process(most=2)
    assert cli.main([str(word) for word in (*BUILD, folder / SET)]) == 130
    owner = {"host": "node7", "machine": "another", "pid": 42, "first": 0, "end": 3, "beat": 0}
    (folder / SET / ".building" / "node7-42-00000000.owner").write_text(json.dumps(owner))
    shutil.copy(folder / SET / "build.jsonl", folder / SET / ".building" / "0123456789abcdef.jsonl")


def resume(*words: object) -> int:
    """Rerun the build, or run `words`; whatever it calls complete must be byte for byte the undisturbed set."""
    code = fgdata(*(words or (*BUILD, SET)))
    if code == 0:
        for path in sorted(Path("whole").iterdir()):
            if path.name != "build.jsonl" and path.read_bytes() != (SET / path.name).read_bytes():
                raise AssertionError(f"complete, but {path.name} is not what a build writes")
    return code


COMMANDS = {
    "resume": resume,
    "finish": lambda: resume("finish", SET),
    "check": lambda: fgdata("check", SET),
    "list": lambda: fgdata("list", "--folder", "."),
}
FAILING = ("finish", "check")
"""Commands that are refused for the valid files too."""


def corrupt_input(rng: Random, here: Path, command: str) -> str:
    files = corrupt.regular_files(here / SET)
    if rng.random() < 0.1:
        return corrupt.add_odd_name(rng, rng.choice((here / SET, here / SET / ".building")), b"{}")
    return corrupt.corrupt_file(rng, rng.choice(files)) if files else "nothing left"
