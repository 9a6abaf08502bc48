"""Builds, rebox and add killed or interrupted at random moments; single bits flipped in a shard set."""

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from torture_commands import Runner, check_message, differ, disturb, hashes, last_line, wait

BIRDS = "--dataset drawn --classes 3 --images-per-class 8 --size 64 --shard-samples 4 --keep-maps --jobs 2".split()
BUILD = ("fgdata", "build-shards", *BIRDS, "--saliency", "spectral-residual", "gt", "--out", "set")
KILLS = ("KILL all", "KILL all", "KILL parent", "KILL worker", "TERM", "INT")


class Build:
    """A build is killed one to three times; the last run must end with the bytes of an undisturbed one."""

    NAME = "build"

    def __init__(self, folder: Path, runner: Runner):
        folder.mkdir()
        self.runner = runner
        code, output = runner.run(folder, *BUILD)
        assert code == 0, output
        self.expected = hashes(folder / "set")
        shutil.rmtree(folder / "set")
        start = time.monotonic()  # the first run may have compiled
        runner.run(folder, *BUILD)
        self.seconds = time.monotonic() - start

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        ways = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            ways.append(disturb(self.runner.start(case, *BUILD), rng, self.seconds, KILLS))
        code, output = self.runner.run(case, *BUILD)
        lost = f"the rerun ended with {code}: {last_line(output)}" if code else ""
        return lost or differ(hashes(case / "set"), self.expected), ways[-1]


class Interrupt:
    """Ctrl-C, once or twice, in a build whose detector takes seconds an image: it must end, leave no half a shard, and
    the rerun must end with the bytes of an undisturbed build."""

    NAME = "interrupt"
    COMMAND = ("fgdata", "build-shards", *BIRDS, "--saliency", "slow", "--plugin", "slow.py", "--out", "set")
    DETECTOR = """
import os, time
from fgdata.saliency import DetectorRow
from fgdata.saliency.spectral_residual import SETTINGS, TAU, saliency_map as quick

DETECTORS = {"slow": DetectorRow("slow", "spectral-residual, after a pause")}

def saliency_map(rgb):
    time.sleep(float(os.environ.get("PAUSE", "0")))
    return quick(rgb)
"""

    def __init__(self, folder: Path, runner: Runner):
        folder.mkdir()
        self.runner = runner
        (folder / "slow.py").write_text(self.DETECTOR)
        code, output = runner.run(folder, *self.COMMAND)
        assert code == 0, output
        self.expected = hashes(folder / "set")

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        (case / "slow.py").write_text(self.DETECTOR)
        times = rng.choice((1, 2))
        outcome = f"Ctrl-C {('once', 'twice')[times - 1]}"
        os.environ["PAUSE"] = "2"
        process = self.runner.start(case, *self.COMMAND)
        del os.environ["PAUSE"]
        time.sleep(rng.uniform(0, 8))
        for _ in range(times):
            with suppress(ProcessLookupError):  # it has ended
                os.killpg(process, signal.SIGINT)  # as a terminal does: to the workers too
            time.sleep(rng.uniform(0.1, 1))
        code = wait(process, 60)
        output = (case / "output").read_text(errors="replace") if (case / "output").exists() else ""
        if (case / "set").exists():  # before that, Python itself is starting
            if code != 130 or "Traceback (most recent call last)" in output:
                return f"it ended with {code}: {last_line(output)}", outcome
            if times == 1 and (left := [path.name for path in (case / "set").rglob("*.part")]):
                return f"it left {', '.join(left)}", outcome
        code, output = self.runner.run(case, *self.COMMAND)
        lost = f"the rerun ended with {code}: {last_line(output)}" if code else ""
        return lost or differ(hashes(case / "set"), self.expected), outcome


class Rewrite:
    """rebox or add is killed: the set must be the old or the new one, whole, and a rerun must give the new one."""

    NAME = "rewrite"
    COMMANDS = (("rebox", "set", "--tau", "0.5"), ("add", "set", "--saliency", "vsf"))

    def __init__(self, folder: Path, runner: Runner):
        folder.mkdir()
        self.runner, self.folder = runner, folder
        code, output = runner.run(folder, *BUILD)
        assert code == 0, output
        self.old, self.new = hashes(folder / "set"), {}
        for words in self.COMMANDS:
            (folder / words[0]).mkdir()
            shutil.copytree(folder / "set", folder / words[0] / "set")
            start = time.monotonic()
            code, output = runner.run(folder / words[0], "fgdata", *words, "--jobs", 2)
            assert code == 0, output
            self.new[words] = hashes(folder / words[0] / "set"), time.monotonic() - start

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        words = rng.choice(self.COMMANDS)
        new, seconds = self.new[words]
        shutil.copytree(self.folder / "set", case / "set")
        way = disturb(self.runner.start(case, "fgdata", *words, "--jobs", 2), rng, seconds, KILLS)
        outcome, now = f"{words[0]}, {way}", hashes(case / "set")
        if now not in (self.old, new):
            return f"neither the old set nor the new one: {differ(now, self.old)}", outcome
        if words[0] == "rebox" or now == self.old:
            code, output = self.runner.run(case, "fgdata", *words, "--jobs", 2)
            if code:
                return f"the rerun ended with {code}: {last_line(output)}", outcome
            if (case / ".new").exists():
                return "the rerun left .new", outcome
        return differ(hashes(case / "set"), new), outcome


class FlipSet:
    """One bit of one file of a set: `fgdata check` must name the file. What a reader makes of it is told."""

    NAME = "flip, set"

    def __init__(self, folder: Path, runner: Runner):
        folder.mkdir()
        self.runner, self.folder = runner, folder
        code, output = runner.run(folder, *BUILD)
        assert code == 0, output
        (folder / "set" / "build.jsonl").unlink()
        self.files = sorted(path.name for path in (folder / "set").iterdir())
        self.scores = self._score(folder)[1]

    def _score(self, folder: Path) -> tuple[int, str]:
        """Reads every sample; its output is a function of all boxes."""
        return self.runner.run(folder, "fgdata", "score", "set", "--json")

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        shutil.copytree(self.folder / "set", case / "set")
        name = rng.choice(self.files)
        flip(case / "set" / name, rng)
        code, output = self.runner.run(case, "fgdata", "check", "set")
        outcome = f"{Path(name).suffix[1:]} named"
        if fault := check_message(code, output):
            return f"check: {fault}", outcome
        if code == 0 or name not in output:
            return f"check does not name {name}: {last_line(output)}", outcome
        code, output = self._score(case)
        if fault := check_message(code, output):
            return f"score: {fault}", outcome
        told = "refused by" if code else "harmless to" if output == self.scores else "changes the figures of"
        return "", f"{outcome}, {told} score"


def flip(path: Path, rng: Random) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
