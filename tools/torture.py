"""Kills, full disks, flipped bits and hostile files: what a command loses. A maintainer runs it, for example:

    .venv/bin/python tools/torture.py build --tries 200
    .venv/bin/python tools/torture.py all --json FILE

Each test runs real commands in a temporary folder, disturbs them, runs them again, and compares the result with an
undisturbed one, byte for byte. Try number N depends on the seed and N alone; the table names the failed ones:

    .venv/bin/python tools/torture.py build --seed 0 --first 17 --tries 1 --keep FOLDER
"""

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Literal

import tyro
from torture_commands import Runner
from torture_disks import Full, ReadOnly
from torture_every import Two
from torture_long import long_run
from torture_runs import FlipRun, Train
from torture_sets import Build, FlipSet, Interrupt, Rewrite

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    **{"build": (Build,), "interrupt": (Interrupt,), "rewrite": (Rewrite,), "train": (Train,), "two": (Two,)},
    **{"full": (Full,), "read-only": (ReadOnly,)},
    **{"flip": (FlipSet, FlipRun), "flip-set": (FlipSet,), "flip-run": (FlipRun,)},
}
TRIES = {
    **{"build": 200, "interrupt": 30, "rewrite": 100, "train": 50, "two": 110, "flip": 500, "full": 110},
    **{"read-only": 110, "fuzz": 10_000},
}
"""Of each class of a test, without --tries; the tests of "all"."""


@dataclass
class Row:
    """What one test found."""

    test: str
    tries: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)
    """Number of the try and what was lost."""
    seconds: float = 0.0
    outcomes: Counter = field(default_factory=Counter)


def torture(
    test: Annotated[
        tuple[
            Literal["build", "interrupt", "rewrite", "train", "two", "flip", "flip-set", "flip-run"]
            | Literal["full", "read-only", "fuzz", "long", "all"],
            ...,
        ],
        tyro.conf.Positional,
    ],
    tries: int | None = None,
    seed: int = 0,
    first: int = 0,
    forks: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    keep: Path | None = None,
    minutes: float = 60,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> int:
    """Run tests and print a table: tries, survived, lost, time. Exit with 1 if anything was lost.

    Args:
        test: One or more. build, rewrite (rebox and add) and train: commands killed at random moments and run again.
            interrupt: Ctrl-C in a build whose detector takes seconds an image. two: two of the same command at once
            in one folder. flip: one bit of one file of a set or a run (flip-set, flip-run: one of both). full,
            read-only: a small disk, or a folder that is read-only, under commands that write; both need root or user
            namespaces. fuzz: hostile inputs. long: build, train and evaluate in a loop; prints what grows.
        tries: Tries of each test. Default: 200 builds, 30 interrupts, 100 rewrites, 50 training runs, 110 times two,
            500 flips of a set and 500 of a run, 110 full disks, 110 read-only folders, 10,000 hostile inputs.
        seed: Decides, with the number of a try, what happens in it. No effect on fuzz, whose input N depends on N
            alone: --first takes others.
        first: Number of the first try.
        forks: Run commands in forks of this process, without worker processes: fast, but less like the real thing.
        keep: Work in this folder and keep it.
        minutes: Duration of long.
        json_file: Also write the table, the machine and the command to this file.
    """
    rows = []
    print("| test | tries | survived | lost | time | outcomes |\n|---|---|---|---|---|---|", flush=True)
    for name in TRIES if "all" in test else test:
        if name == "long":
            rows.append(Row(name, **long_run(minutes)))
            print_row(rows[-1])
            continue
        count = TRIES[name.partition("-")[0]] if tries is None else tries
        for kind in TESTS.get(name, ()):
            rows.append(run(kind, count, seed, first, Runner(forks), keep))
            print_row(rows[-1])
        if name == "fuzz":
            rows.append(fuzz(count, first))
            print_row(rows[-1])
    if json_file:
        facts = {"command": sys.argv[1:], "machine": platform.platform(), "python": platform.python_version()}
        json_file.write_text(json.dumps(facts | {"rows": [vars(row) for row in rows]}, indent=1) + "\n")
    return int(any(row.lost for row in rows))


def run(kind, count: int, seed: int, first: int, runner: Runner, keep: Path | None) -> Row:
    """Tries `first` to `first + count - 1` of one test."""
    row, start = Row(kind.NAME), time.monotonic()
    folder = keep / kind.NAME if keep else Path(tempfile.mkdtemp(prefix="torture-"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        ready = kind(folder / "valid", runner)
        for number in range(first, first + count):
            case = folder / "case"
            shutil.rmtree(case, ignore_errors=True)
            case.mkdir()
            lost, outcome = ready.attempt(case, Random(f"{kind.NAME} {seed} {number}"))
            row.tries += 1
            row.survived += not lost
            row.outcomes[outcome] += 1
            if lost:
                row.lost.append(f"{number}: {lost}")
                print(f"{kind.NAME} --seed {seed} --first {number} --tries 1: {outcome}: {lost}", flush=True)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    row.seconds = round(time.monotonic() - start, 1)
    return row


def fuzz(count: int, first: int) -> Row:
    """Hostile inputs over every reader, by tests.fuzz, whose families share the count."""
    from tests.fuzz.families import FAMILIES

    start, row = time.monotonic(), Row("fuzz")
    words = [sys.executable, "-m", "tests.fuzz", "--first", str(first), "--count", str(-(-count // len(FAMILIES)))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    with suppress(IndexError, ValueError):
        total, _, breaches = lines[-1].replace(",", "").split()[:3]
        row.tries, row.survived = int(total), int(total) - int(breaches)
        row.outcomes.update({line: 1 for line in lines if ", seeds to " in line})
    row.lost = [line for line in lines if line.startswith("--family")]
    if done.returncode and not row.lost:
        row.lost = [(done.stderr.strip().splitlines() or ["the fuzzer failed"])[-1]]
    row.seconds = round(time.monotonic() - start, 1)
    return row


def print_row(row: Row) -> None:
    outcomes = "" if row.test == "fuzz" else ", ".join(f"{n} {what}" for what, n in row.outcomes.most_common())
    numbers = f"{row.tries:,} | {row.survived:,} | {len(row.lost):,} | {row.seconds:,.0f} s"
    print(f"| {row.test} | {numbers} | {outcomes} |", flush=True)


if __name__ == "__main__":
    sys.exit(tyro.cli(torture, prog="tools/torture.py", description=__doc__))
