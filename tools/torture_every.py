"""Every command that writes, with what it needs and what it leaves; and two of each at once in one folder."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from torture_commands import Runner, check_message, differ, hashes, last_line, wait
from torture_runs import SMALL, TRAIN, last_weights, prepare
from torture_sets import BUILD

PAIRS = ("fgtrain", "run", "synth-pair", *SMALL.split(), "--views.size", "32", "--epochs", "1", "--reconstruct.epochs")
PAIRS = (*PAIRS, "1", "--data.shards", "set", "--out", "pairs")
PREPARED = {"other": (*BUILD[:-1], "other", "--seed", "1"), "run": TRAIN, "pairs": PAIRS}
"""What commands need besides the set, and the command that makes it, once."""


@dataclass(frozen=True)
class Command:
    """A command that writes."""

    words: tuple[str, ...]
    needs: tuple[str, ...] = ("set",)
    """Folders that must be there: set, or a key of PREPARED; parts: a set without its manifest."""
    leaves: str = ""
    """The file or folder whose content is compared. Empty: pictures and lines with a time are not."""
    again: str = ""
    """What a second run of the command says when it is refused, because the first one did its work."""


def _fgdata(words: str, leaves: str = "set", again: str = "", needs: tuple[str, ...] = ("set",)) -> Command:
    return Command(("fgdata", *words.split()), needs, leaves, again)


def _fgtrain(words: str, leaves: str = "", needs: tuple[str, ...] = ("set", "run")) -> Command:
    return Command(("fgtrain", *words.split()), needs, leaves)


COMMANDS = {
    "build-shards": Command(BUILD, (), "set"),
    "finish": _fgdata("finish set", needs=("parts",)),
    "rebox": _fgdata("rebox set --tau 0.5"),
    "rebox --out": _fgdata("rebox set --tau 0.5 --out new", "new", "is not an empty folder"),
    "add": _fgdata("add set --saliency vsf", again="already"),
    "add --out": _fgdata("add set --saliency vsf --out new", "new", "is not an empty folder"),
    "show": _fgdata("show set"),
    "card": _fgdata("card set"),
    "coreset": _fgdata(
        "coreset set other --encoder fgtrain:run,size=32 --budget 6 --centres 2 --out new",
        *("new", "is not an empty folder"),
        needs=("set", "other", "run"),
    ),
    "run": Command((*TRAIN, "--resume"), ("set",), "run"),
    "eval knn": _fgtrain("eval knn run --k 2", "run"),
    "eval linear": _fgtrain("eval linear run --epochs 1", "run"),
    "eval retrieval": _fgtrain("eval retrieval run", "run"),
    "eval localization": _fgtrain("eval localization run", "run"),
    "embed": _fgtrain("embed run set --out features.parquet", "features.parquet"),
    "export": _fgtrain("export run encoder.safetensors", "encoder.safetensors"),
    "show views": _fgtrain("show views run --rows 1 --size 32 --out views.png"),
    "show pairs": _fgtrain("show pairs pairs --rows 1 --out pairs.png", needs=("set", "pairs")),
    "show gradcam": _fgtrain("show gradcam run --rows 1 --out gradcam.png"),
    "show curves": _fgtrain("show curves run --out curves.png"),
    "watch --out": _fgtrain("watch run --once --out page.html"),
    "study --tables": _fgtrain("study drawn-birds --tables --out study", needs=()),
}
"""Left out: pull, push, fetch-model and --download need a network; compare and list write nothing; eval finetune and
eval all write as eval linear does, and a study's runs as run does."""


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
            folder = self.folder / "valid" / name
            folder.mkdir(parents=True)
            self.fill(folder, name)
            start = time.monotonic()
            code, output = self.runner.run(folder, *COMMANDS[name].words)
            assert code == 0, f"{name}: {output}"
            self.expected[name], self.seconds[name] = self.result(folder, name), time.monotonic() - start
        return name

    def fill(self, folder: Path, name: str) -> None:
        """What must be there before a command runs."""
        for need in COMMANDS[name].needs:
            if need == "parts":
                self._need(folder, *BUILD, "--part", "0/1")
                continue
            if not (self.folder / need).exists():
                self._need(self.folder, *PREPARED[need])
            shutil.copytree(self.folder / need, folder / need, symlinks=True)

    def _need(self, folder: Path, *words: str) -> None:
        code, output = self.runner.run(folder, *words)
        assert code == 0, output

    def result(self, folder: Path, name: str) -> dict[str, str]:
        """What a command leaves."""
        leaves = COMMANDS[name].leaves
        if leaves == "run":
            return last_weights(folder / "run")
        path = folder / leaves
        return {} if not leaves else hashes(path) if path.is_dir() else hashes(folder, leaves)

    def rerun(self, folder: Path, name: str) -> str:
        """Runs a command again, undisturbed -> what differs from its result; "" if nothing does."""
        command = COMMANDS[name]
        code, output = self.runner.run(folder, *command.words)
        if code and not (command.again and command.again in output):
            return f"the rerun ended with {code}: {last_line(output)}"
        return differ(self.result(folder, name), self.expected[name])


class Two(Every):
    """Two of the same command start in one folder, at once or up to the time that one takes apart. Each must succeed
    or be refused with a message; then the result is that of one."""

    NAME = "two"

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        name = self.choose(rng)
        self.fill(case, name)
        first = self.runner.start(case, *COMMANDS[name].words, output="first")
        time.sleep(rng.choice((0, rng.uniform(0, self.seconds[name]))))
        second = self.runner.start(case, *COMMANDS[name].words, output="second")
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
