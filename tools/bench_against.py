"""Measures two commits in one run: the same function of tools/, alternately with the fgdata of each.

    with commit_folder("HEAD~3") as other:
        new, old = alternate("bench_build", "one_worker", [str(root), ["rbd"], 1], (ROOT, other), rounds=5)

Speed on a machine drifts from minute to minute, so only figures of the same round are compared.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench_report import spread

from fgdata.errors import InputError

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
_CHILD = """
import importlib, json, sys
from pathlib import Path
folder, module, *tools = sys.argv[1:]
sys.path.insert(0, folder)
sys.path.extend(tools)
import cv2, fgdata
if not Path(fgdata.__file__).is_relative_to(folder):
    sys.exit(f"{fgdata.__file__} is not in {folder}")
cv2.setNumThreads(1)
measures, answer = importlib.import_module(module), sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    function, arguments, options = json.loads(line)
    print(json.dumps(getattr(measures, function)(*arguments, **options)), file=answer, flush=True)
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


@contextmanager
def measuring(
    folder: Path, module: str, tools: Sequence[Path] = (TOOLS,), environment: Mapping[str, str] | None = None
) -> Iterator[Callable[..., Any]]:
    """A process that imports fgdata and fgtrain from `folder` -> ask(function, ...), which calls a function there.

    Args:
        folder: A repository.
        module: Where the functions are; arguments and answers must be JSON.
        tools: Where to find the module and what it imports.
        environment: Variables to set.

    Raises:
        InputError: by `ask`, if the process has ended.
    """
    variables = {**os.environ, **(environment or {})}
    variables.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", _CHILD, str(folder), module, *map(str, tools)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        asking, answers = child.stdin, child.stdout

        def ask(function: str, *arguments: Any, **options: Any) -> Any:
            try:
                print(json.dumps([function, arguments, options]), file=asking, flush=True)
                return json.loads(answers.readline())
            except (BrokenPipeError, ValueError):
                raise InputError(f"The measurement with {folder} failed; its error is above.") from None

        try:
            yield ask
        finally:
            child.kill()


def alternate(
    module: str, function: str, arguments: Sequence[Any], folders: tuple[Path, Path], rounds: int, tools: Path = TOOLS
) -> tuple[list[Any], list[Any]]:
    """Calls a function of `tools` in one process per folder, alternately, with the fgdata of that folder, in the
    environment of a worker of a build.

    Each process makes one call more, its first, which is not counted. Every second round starts with the other folder.

    Args:
        module, function: What to call; its answer must be JSON.
        arguments: Of every call, as JSON.
        folders: Two repositories.
        rounds: Calls per folder.

    Returns:
        The answers by folder, one per round. InputError if a process fails.
    """
    from fgdata.cores import ENVIRONMENT  # here: earlier commits, which import this file, do not have it

    answers: tuple[list[Any], list[Any]] = ([], [])
    with ExitStack() as stack:
        asks = [stack.enter_context(measuring(folder, module, (tools,), ENVIRONMENT)) for folder in folders]
        for turn in range(-1, rounds):
            for which in in_turn((0, 1), turn + 1):
                answer = asks[which](function, *arguments)
                if turn >= 0:
                    answers[which].append(answer)
    return answers


def in_turn(items: Sequence[Any], turn: int) -> Sequence[Any]:
    """The items in order, in every second turn from the last to the first."""
    return items[:: -1 if turn % 2 else 1]


def ratio_row(unit: str, new: Sequence[float], old: Sequence[float]) -> dict[str, Any]:
    """Figures of this tree and of the other, by round -> medians, and the ratios new / old of the rounds."""
    ratios = [one / other for one, other in zip(new, old, strict=True)]
    return {unit: median(new), f"{unit}_other": median(old), **spread("ratio", ratios), "n": len(ratios)}


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
