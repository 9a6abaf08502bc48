"""tools/bench.py step --against COMMIT: this tree and a commit, each measured by its own tools/bench_step.py."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def compare(only: tuple[str, ...], options: dict[str, Any], rounds: int, commit: str) -> list[dict[str, Any]]:
    """A row for each case of both: seconds of a step, and the ratios of the rounds, this tree's to the commit's.

    Args:
        only: These cases and their bases; all if empty.
        options: Of `bench_step.step`.
        rounds: Measurements of each tree, after one that is not counted.
        commit: What to compare with.
    """
    # Imported here: the process of the commit imports this file, and may find an earlier bench_against.
    from bench_against import ROOT, TOOLS, commit_folder, in_turn, measuring, name_of, ratio_row

    title, seconds = name_of(commit), ([], [])
    with ExitStack() as stack:
        folders = (ROOT, stack.enter_context(commit_folder(commit)))
        asks = [
            stack.enter_context(measuring(folder, "bench_step_against", (folder / "tools", TOOLS)))
            for folder in folders
        ]
        for turn in range(-1, rounds):
            for which in in_turn((0, 1), turn + 1):
                taken = asks[which]("measure", only, options)
                if turn >= 0:
                    seconds[which].append(taken)
                print(f"round {turn + 1}/{rounds}: {(ROOT.name, title)[which]}", file=sys.stderr)
    new, old = seconds
    return [
        {"step": name} | ratio_row("s", [one[name] for one in new], [one[name] for one in old]) | {"against": title}
        for name in new[0]
        if name in old[0]
    ]


def measure(only: list[str], options: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step of each case and its base, by the `step` of the tree of this process."""
    from bench_step import step

    with TemporaryDirectory() as folder:
        step(only=tuple(only), rounds=1, json=Path(folder) / "step.json", **options)
        figures = json.loads((Path(folder) / "step.json").read_text())["figures"]
    return {row["step"]: row["s"] for row in figures}
