"""Every command that writes, with what it needs and what it leaves; and two of each at once in one folder."""

import shutil
import time
from pathlib import Path
from random import Random

from torture_commands import Runner, check_message, differ, hashes, last_line, wait
from torture_runs import TRAIN, last_weights, prepare
from torture_sets import BUILD

COMMANDS = {
    "build-shards": BUILD,
    "finish": ("fgdata", "finish", "set"),
    "rebox": ("fgdata", "rebox", "set", "--tau", "0.5"),
    "add": ("fgdata", "add", "set", "--saliency", "vsf"),
    "show": ("fgdata", "show", "set"),
    "run": (*TRAIN, "--resume"),
    "eval": ("fgtrain", "eval", "knn", "run", "--k", "2"),
}


class Every:
    """Chooses a command for each try, and runs it once undisturbed to know its result."""

    def __init__(self, folder: Path, runner: Runner):
        self.runner, self.folder = runner, folder
        prepare(folder, runner)
        self.expected: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}

    def choose(self, rng: Random) -> str:
        """The name of a command whose result is known."""
        name = rng.choice(sorted(COMMANDS))
        if name not in self.expected:
            folder = self.folder / name
            folder.mkdir()
            self.fill(folder, name)
            start = time.monotonic()
            code, output = self.runner.run(folder, *COMMANDS[name])
            assert code == 0, f"{name}: {output}"
            self.expected[name], self.seconds[name] = self.result(folder, name), time.monotonic() - start
        return name

    def fill(self, folder: Path, name: str) -> None:
        """What must be there before a command runs."""
        if name == "finish":
            code, output = self.runner.run(folder, *BUILD, "--part", "0/1")
            assert code == 0, output
        elif name != "build-shards":
            shutil.copytree(self.folder / "set", folder / "set")
        if name == "eval":
            code, output = self.runner.run(folder, *TRAIN)
            assert code == 0, output

    def result(self, folder: Path, name: str) -> dict[str, str]:
        """What a command leaves."""
        if name in ("run", "eval"):
            return last_weights(folder / "run")
        return {} if name == "show" else hashes(folder / "set")

    def rerun(self, folder: Path, name: str) -> str:
        """Runs a command again, undisturbed -> what differs from its result; "" if nothing does."""
        code, output = self.runner.run(folder, *COMMANDS[name])
        if code and not (name == "add" and "already" in output):
            return f"the rerun ended with {code}: {last_line(output)}"
        return differ(self.result(folder, name), self.expected[name])


class Two(Every):
    """Two of the same command start in one folder, at once or up to the time that one takes apart. Each must succeed
    or be refused with a message; then the result is that of one."""

    NAME = "two"

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        name = self.choose(rng)
        self.fill(case, name)
        first = self.runner.start(case, *COMMANDS[name], output="first")
        time.sleep(rng.choice((0, rng.uniform(0, self.seconds[name]))))
        second = self.runner.start(case, *COMMANDS[name], output="second")
        codes = wait(first), wait(second)
        outcome = f"{name} {'both end' if codes == (0, 0) else 'one is refused'}"
        for code, file in zip(codes, ("first", "second")):
            if fault := check_message(code, (case / file).read_text(errors="replace")):
                return f"the {file}: {fault}", outcome
        if 0 not in codes:
            return f"neither succeeds: {last_line((case / 'first').read_text(errors='replace'))}", outcome
        if lost := differ(self.result(case, name), self.expected[name]):
            return f"after both: {lost}", outcome
        return self.rerun(case, name), outcome
