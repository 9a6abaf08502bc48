"""The families by name, and one input of a family by its seed."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType
from typing import NamedTuple

from .commands import compile_search, preload
from .contract import MEMORY, SECONDS, Outcome, check_call, make_case

FAMILIES = ("shards", "unfinished", "datasets", "images", "models", "runs", "checkpoints", "texts")


class Input(NamedTuple):
    """One input and how its command ended."""

    family: str
    seed: int
    command: str
    steps: tuple[str, ...]
    """What was corrupted, in order."""
    outcome: Outcome

    def __str__(self) -> str:
        steps = "; ".join(self.steps).encode("utf-8", "backslashreplace").decode()
        return f"--family {self.family} --seed {self.seed}: {self.command}: {steps}\n  {self.outcome.verdict}"


class Prepared:
    """A family with its valid files, ready for any number of inputs."""

    def __init__(self, name: str, folder: Path):
        self.name, self.module, self.folder = name, import_family(name), folder
        self.valid = folder / "valid"
        (self.valid / "here").mkdir(parents=True)
        preload(*self.module.PRELOAD)
        (self.valid / "tmp").mkdir()
        # In a child: a fork must not copy threads that OpenCV, torch or BLAS have started.
        ended = check_call(self.valid, self._prepare, seconds=600, memory=4 << 30)
        if ended.verdict != "ok":
            raise RuntimeError(f"the valid files of {name} could not be written: {ended.text}\n{_stderr(self.valid)}")
        preload(*json.loads((self.valid / "tmp" / "modules").read_text()))
        compile_search()

    def _prepare(self) -> None:
        """Writes the valid files, and the names of the modules that this took: the parent imports them once."""
        before = set(sys.modules)
        self.module.prepare(self.valid / "here")
        (self.valid / "tmp" / "modules").write_text(json.dumps(sorted(set(sys.modules) - before)))

    def run_valid(self, command: str) -> Outcome:
        """A command on the valid files."""
        case = self.folder / "case"
        make_case(case, self.valid / "here")
        return check_call(case, self.module.COMMANDS[command])

    def errors(self) -> str:
        """The end of stderr of the last input."""
        return _stderr(self.folder / "case")

    def run(self, seed: int, seconds: float = SECONDS) -> Input:
        """Input number `seed`."""
        rng = Random(f"{self.name} {seed}")
        case = self.folder / "case"
        here = make_case(case, self.valid / "here")
        command = rng.choice(sorted(self.module.COMMANDS))
        steps = [self.module.corrupt_input(rng, here, command) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        memory = getattr(self.module, "MEMORY", MEMORY)
        outcome = check_call(case, self.module.COMMANDS[command], seconds, memory)
        return Input(self.name, seed, command, tuple(steps), outcome)


def _stderr(case: Path) -> str:
    return (case / "tmp" / "stderr").read_text(errors="replace")[-1000:]


def import_family(name: str) -> ModuleType:
    return import_module(f"{__package__}.{name}")


@contextmanager
def prepared(name: str, keep: Path | None = None) -> Iterator[Prepared]:
    """A family in a temporary folder, or in `keep`, which stays."""
    folder = keep / name if keep else Path(tempfile.mkdtemp(prefix="fuzz-"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield Prepared(name, folder.resolve())
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
