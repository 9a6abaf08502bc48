"""Measures two commits in one run: the same function of tools/, alternately with the fgdata of each.

    with commit_folder("HEAD~3") as other:
        new, old = alternate("bench_build", "one_worker", [str(root), ["rbd"], 1], (ROOT, other), rounds=5)

Speed on a machine drifts from minute to minute, so only figures of the same round are compared.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from fgdata.building.worker import ENVIRONMENT
from fgdata.errors import InputError

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
_CHILD = """
import importlib, json, sys
from pathlib import Path
folder, tools, module, function, arguments = sys.argv[1:]
sys.path.insert(0, folder)
sys.path.append(tools)
import cv2, fgdata
if not Path(fgdata.__file__).is_relative_to(folder):
    sys.exit(f"{fgdata.__file__} is not in {folder}")
cv2.setNumThreads(1)
measure, answer = getattr(importlib.import_module(module), function), sys.stdout
sys.stdout = sys.stderr
for _ in sys.stdin:
    print(json.dumps(measure(*json.loads(arguments))), file=answer, flush=True)
"""


@contextmanager
def commit_folder(commit: str, root: Path = ROOT) -> Iterator[Path]:
    """A folder with the files of a commit of the repository `root`, removed afterwards. InputError if there is none."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() / "tree"
        _git(root, "worktree", "add", "--detach", str(folder), commit)
        try:
            yield folder
        finally:
            _git(root, "worktree", "remove", "--force", str(folder))


def name_of(commit: str, root: Path = ROOT) -> str:
    """The short hash of a commit. InputError if there is no such commit."""
    return _git(root, "rev-parse", "--verify", "--short", f"{commit}^{{commit}}").strip()


def alternate(
    module: str, function: str, arguments: Sequence[Any], folders: tuple[Path, Path], rounds: int, tools: Path = TOOLS
) -> tuple[list[Any], list[Any]]:
    """Calls a function of `tools` in one process per folder, alternately, with the fgdata of that folder.

    Each process makes one call more, its first, which is not counted. Every second round starts with the other folder.

    Args:
        module, function: What to call; its answer must be JSON.
        arguments: Of every call, as JSON.
        folders: Two repositories.
        rounds: Calls per folder.

    Returns:
        The answers by folder, one per round. InputError if a process fails.
    """
    answers: tuple[list[Any], list[Any]] = ([], [])
    with ExitStack() as stack:
        words = [str(tools), module, function, json.dumps(arguments)]
        children = [stack.enter_context(_start(folder, words)) for folder in folders]
        for turn in range(-1, rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                answer = _ask(children[which], folders[which])
                if turn >= 0:
                    answers[which].append(answer)
    return answers


def ratio_row(name: str, new: Sequence[float], old: Sequence[float]) -> dict[str, Any]:
    """Rates of this tree and of the other, by round -> medians, and the ratios new / old of the rounds."""
    ratios = [one / other for one, other in zip(new, old, strict=True)]
    return {
        "build": name,
        "per_s": median(new),
        "per_s_other": median(old),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "n": len(ratios),
    }


@contextmanager
def _start(folder: Path, words: list[str]) -> Iterator[subprocess.Popen]:
    environment = {**os.environ, **ENVIRONMENT}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", _CHILD, str(folder), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            yield child
        finally:
            child.kill()


def _ask(child: subprocess.Popen, folder: Path) -> Any:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        print(file=child.stdin, flush=True)
        return json.loads(child.stdout.readline())
    except (BrokenPipeError, ValueError):
        raise InputError(f"The measurement with {folder} failed; its error is above.") from None


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
