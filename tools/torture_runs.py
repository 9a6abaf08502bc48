"""Trainings stopped by every signal at random moments; single bits flipped in a run."""

import json
import shutil
import time
from pathlib import Path
from random import Random

from torture_commands import Runner, check_message, differ, disturb, hashes, last_line
from torture_sets import BUILD, flip

SMALL = "--model.width 8 --views.size 16 --data.batch-size 4 --epochs 6 --checkpoint-every 1 --device cpu --threads 1"
TRAIN = ("fgtrain", "run", "simclr", *SMALL.split(), "--log-every", "1", "--data.shards", "set", "--out", "run")
SIGNALS = ("KILL all", "KILL all", "TERM", "USR1", "INT", "HUP")


class Train:
    """A training run is stopped one to three times and resumed; the weights must be those of an undisturbed one."""

    NAME = "train"

    def __init__(self, folder: Path, runner: Runner):
        self.runner, self.folder = runner, folder
        prepare(folder, runner)
        start = time.monotonic()
        code, output = runner.run(folder, *TRAIN)
        assert code == 0, output
        self.seconds, self.expected = time.monotonic() - start, last_weights(folder / "run")

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        shutil.copytree(self.folder / "set", case / "set")
        ways = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            ways.append(disturb(self.runner.start(case, *TRAIN, "--resume"), rng, self.seconds, SIGNALS))
            output = (case / "output").read_text(errors="replace")
            if "Traceback (most recent call last)" in output and (case / "run").exists():  # not one of Python's start
                return f"a traceback after {ways[-1]}: {last_line(output)}", ways[-1]
            facts = case / "run" / "run.json"
            status = json.loads(facts.read_bytes()) if facts.is_file() else {}
            steps = case / "run" / "metrics.jsonl"  # a run that is stopped before its first step has nothing to save
            made = steps.is_file() and steps.stat().st_size > 0
            if status.get("status") == "stopped" and made and not last_weights(case / "run"):
                return f"{ways[-1]}: run.json says stopped after a step, but there is no checkpoint", ways[-1]
        code, output = self.runner.run(case, *TRAIN, "--resume")
        lost = f"the resumed run ended with {code}: {last_line(output)}" if code else ""
        return lost or differ(last_weights(case / "run"), self.expected), ways[-1]


class FlipRun:
    """One bit of one file of a run that was stopped: it is refused, or weights and kNN accuracy are the same."""

    NAME = "flip, run"

    def __init__(self, folder: Path, runner: Runner):
        self.runner, self.folder = runner, folder
        prepare(folder, runner)
        code, output = runner.run(folder, *TRAIN)
        assert code == 0, output
        self.weights = last_weights(folder / "run")
        shutil.rmtree(folder / "run" / "checkpoints" / self.weights["step"])
        (folder / "run" / "checkpoints" / "last").unlink(missing_ok=True)
        proof = folder / "proof"
        proof.mkdir()
        copy(folder, proof)
        self.knn, code, output = self._evaluate(proof)
        assert code == 0, output
        code, output = runner.run(proof, *TRAIN, "--resume")
        assert code == 0, output
        assert last_weights(proof / "run") == self.weights
        self.files = sorted(str(p.relative_to(folder)) for p in (folder / "run").rglob("*") if is_plain(p))

    def _evaluate(self, folder: Path) -> tuple[object, int, str]:
        code, output = self.runner.run(folder, "fgtrain", "eval", "knn", "run", "--k", 2)
        results = folder / "run" / "results.jsonl"
        lines = results.read_text(errors="replace").splitlines() if results.is_file() else []
        accuracy = json.loads(lines[-1]).get("accuracy") if code == 0 and lines else None
        return accuracy, code, output

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        copy(self.folder, case)
        name = rng.choice(self.files)
        flip(case / name, rng)
        kind, ends = Path(name).name, []
        knn, code, output = self._evaluate(case)
        if fault := check_message(code, output):
            return f"{name}: eval knn: {fault}", kind
        if code == 0 and knn != self.knn:
            return f"{name}: eval knn gives {knn} instead of {self.knn}", kind
        ends.append("refused" if code else "harmless")
        code, output = self.runner.run(case, *TRAIN, "--resume")
        if fault := check_message(code, output):
            return f"{name}: --resume: {fault}", kind
        if code == 0 and (lost := differ(last_weights(case / "run"), self.weights)):
            return f"{name}: --resume gives other weights: {lost}", kind
        ends.append("refused" if code else "harmless")
        return "", f"{kind} {'refused' if 'refused' in ends else 'harmless'}"


def copy(source: Path, target: Path) -> None:
    for name in ("set", "run"):
        shutil.copytree(source / name, target / name, symlinks=True)


def is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and not path.parent.is_symlink() and path.stat().st_size > 0


def prepare(folder: Path, runner: Runner) -> None:
    """Builds the set that the runs read."""
    folder.mkdir()
    code, output = runner.run(folder, *BUILD)
    assert code == 0, output


def last_weights(run: Path) -> dict[str, str]:
    """sha256 of the weights of a run's newest checkpoint; {} without one."""
    checkpoints = sorted(path for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdigit())
    if not checkpoints:
        return {}
    return {"step": checkpoints[-1].name, **{k: v for k, v in hashes(checkpoints[-1]).items() if "encoder" in k}}
