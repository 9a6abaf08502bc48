"""The inputs of an evaluation, checked before any work, and the line it appends to the run's results.jsonl."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.shards.rebuild import build_beside
from fgdata.stores.place import Url, place

from .. import objectives
from ..networks import architecture, initial
from ..networks.encoder import Encoder
from ..networks.saved import load_encoder, sketch
from ..place import SHARDS, open_shards, pick_device
from ..printing import say
from ..runs import provenance
from ..runs.checkpoint import Checkpoint
from ..runs.rundir import RunDir
from ..settings.common import Model, need, need_model
from ..settings.evaluations import Evaluation
from ..settings.file import plain
from .records import append_record, check_appendable, read_records

SMALLEST, LARGEST = 8, 4096  # side of a view, in pixels
RANDOM = "random"
"""The value of --weights for a network that is not trained."""


@dataclass(frozen=True)
class Given:
    """Weights that belong to no run. It has the parts of a Checkpoint that evaluations read."""

    weights: str
    model: Model
    step: int = 0
    run: None = None

    @property
    def recorded(self) -> dict[str, Any]:
        """What a record states about it."""
        return {"weights": self.weights, "model": plain(asdict(self.model))}

    @property
    def size(self) -> int:
        """The side of the images that the network is made for, in pixels."""
        return architecture.input_size(self.model)

    @property
    def file(self) -> Path:
        """The weights as a path, for messages."""
        return Path(self.weights)

    def load(self) -> Encoder:
        """The network with the weights; what matched is printed once."""
        encoder = self.untrained()
        if self.weights == RANDOM:
            return encoder
        initial.load(encoder, self.weights, self.model)
        _say_once(encoder.origin)
        return encoder

    def sketch(self) -> Encoder:
        """The network on the meta device, without memory for its weights."""
        with torch.device("meta"):
            return Encoder(self.model)

    def untrained(self) -> Encoder:
        """The network with random weights of seed 0."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Encoder(self.model)


@dataclass(frozen=True)
class Subject:
    """The encoder to evaluate, the shard set, the view size in pixels, and the device."""

    checkpoint: Checkpoint | Given
    shards: ShardSet
    size: int
    device: torch.device
    results: Path | None = None
    """The file that gets the results; None: they are not saved."""

    @classmethod
    def open(cls, flags: Evaluation, splits: Sequence[str], saves: bool = True) -> "Subject":
        """Opens everything that `flags` names; shard set and view size default to the run's own.

        `splits` are the splits that the evaluation reads, `saves` says whether it has results. InputError when the run
        or the shard set cannot be opened, when a split is empty, when the set has fewer than two classes, when the size
        is out of range or does not fit the network, or when the results could not be saved.
        """
        checkpoint = open_encoder(flags)
        data = open_set(flags.shards, checkpoint.run)
        if missing := [split for split in splits if not data.splits.get(split)]:
            has = ", ".join(f"{split} ({n:,})" for split, n in data.splits.items() if n) or "no images"
            raise InputError(
                f"{data.path} has no {' and no '.join(missing)} split, which this evaluation reads; it has {has}. Name "
                "another set with --shards."
            )
        if len(data.classes) < 2:
            raise InputError(
                f"{data.path} has {len(data.classes) or 'no'} class{'es' * (not data.classes)}, but this evaluation "
                "needs images of at least two. Name another set with --shards."
            )
        size = checkpoint.size if flags.size is None else flags.size
        need(SMALLEST <= size <= LARGEST, "size", size, f"{SMALLEST} to {LARGEST} pixels")
        network = checkpoint.sketch() if isinstance(checkpoint, Given) else sketch(checkpoint)
        network.check_size(size, "size")
        run = checkpoint.run.path / "results.jsonl" if checkpoint.run is not None else None
        need(
            flags.results is None or run is None,
            "results",
            flags.results,
            "only with --weights; a run has its own file",
        )
        if flags.results is not None:
            need(flags.results.suffix == ".jsonl", "results", flags.results, "a file whose name ends in .jsonl")
            read_records(flags.results)
        if saves and (file := run or flags.results):
            check_appendable(file)
        return cls(checkpoint, data, size, pick_device(flags.device), run or flags.results)

    def load(self) -> Encoder:
        """A new copy of the encoder, on the CPU. InputError when its file is damaged or does not fit the network."""
        if isinstance(self.checkpoint, Given):
            return self.checkpoint.load()
        return load_encoder(self.checkpoint)

    @property
    def name(self) -> str:
        """The run directory (or the encoder's file) and the step, as tables show them."""
        if isinstance(self.checkpoint, Given):
            return self.checkpoint.weights
        run, step = self.checkpoint.run, self.checkpoint.step
        path, remark = (run.path, run.progress(step)) if run else (self.checkpoint.file, "")
        return f"{path}, step {step:,}{remark}"

    @property
    def chance(self) -> float:
        """Accuracy of a guess among equally frequent classes."""
        return 1 / len(self.shards.classes)

    def encoders(self, untrained: bool) -> dict[str, Encoder]:
        """Name in tables -> encoder: the trained one, and with `untrained` also the one that the run started from."""
        trained = {self.name: self.load()}
        return trained | {"untrained": untrained_encoder(self.checkpoint)} if untrained else trained

    def check_classes(self, train: torch.Tensor, test: torch.Tensor) -> list[str]:
        """Labels of both splits -> a sentence about the test classes without train images; [] when there are none.

        InputError when no class of the test split has a train image, since every answer would be wrong, or when a label
        is not the number of a class.
        """
        if (largest := int(torch.cat([train, test]).max())) >= len(self.shards.classes):
            raise InputError(
                f"{self.shards.path} has a sample of class {largest}, but its manifest lists only "
                f"{len(self.shards.classes)} classes. Build it again: "
                f"{build_beside(self.shards.path, self.shards.manifest, '-new')}"
            )
        absent = sorted(set(test.tolist()) - set(train.tolist()))
        if not absent:
            return []
        names = ", ".join(self.shards.classes[number] for number in absent[:3]) + (", ..." if absent[3:] else "")
        retrieval = f"Retrieval needs no train images: fgtrain eval retrieval {shlex.quote(str(self.checkpoint.file))}"
        if len(absent) == len(test.unique()):
            raise InputError(
                f"No class of the test split of {self.shards.path} has train images ({names}), so no test image can "
                f"be classified correctly. {retrieval}, or name another set with --shards."
            )
        images = int(torch.isin(test, torch.tensor(absent)).sum())
        return [
            f"{len(absent):,} of {len(test.unique()):,} test classes have no train images ({names}), so no classifier "
            f"can classify their {images:,} test images correctly. {retrieval}"
        ]

    def record(self, evaluation: str, **values: Any) -> dict[str, Any]:
        """Appends a line to the run's results.jsonl, or to --results, and returns the line.

        `values` are the figures (as fractions of one) and the settings of the evaluation. The line adds the step, the
        shard set and its digest, commit, versions, device and time. InputError when the file cannot be written.
        """
        line = {"evaluation": evaluation, "step": self.checkpoint.step, **values, "size": self.size}
        if isinstance(self.checkpoint, Given):
            line |= self.checkpoint.recorded
        line |= {"shards": str(self.shards.path), "digest": self.shards.manifest["digest"]}
        line |= {"commit": provenance.commit(), "versions": provenance.versions()}
        line |= {"device": provenance.name_of(self.device), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        if self.results is not None:
            append_record(self.results, line)
        return line


def open_encoder(flags: Evaluation) -> Checkpoint | Given:
    """What the flags name: a run or checkpoint, or given weights. InputError unless it is one of them, and for a run
    whose config.json has changed since the checkpoint."""
    if (flags.run is None) == (flags.weights is None):
        both = "both a run and --weights" if flags.run else "neither a run nor --weights"
        raise InputError(
            f"This evaluation was given {both}; allowed: exactly one of them. Try: fgtrain eval knn runs/NAME"
        )
    if flags.run is not None:
        need(flags.model == Model(), "model", "set", "only with --weights; a run states its own network")
        checkpoint = Checkpoint.find(flags.run)
        checkpoint.config()  # its results are compared by these settings
        return checkpoint
    assert flags.weights is not None
    need_model(flags.model)
    return Given(flags.weights, flags.model)


def open_set(given: Path | Url | None, run: RunDir | None) -> ShardSet:
    """The shard set that a command names, else the one that a run was trained on, else the newest under shards/.

    Prints a line, once, where a reader could take it for another: when the set at the run's path has changed since the
    training, and when nothing names a set.
    """
    recorded = provenance.recorded_set(run) if run is not None and given is None else {}
    path = given or (place(recorded["path"]) if recorded.get("path") else None)
    file = run.path / "run.json" if run is not None and path is None else None
    lost = f"{file} is missing, which names the shard set of the run. " if file and not file.is_file() else ""
    try:
        shards = open_shards(path)
    except InputError as error:
        raise InputError(f"{lost}{error}") from error
    new, old = shards.manifest["digest"], recorded.get("digest")
    if run is not None and path is not None and old not in (None, new):
        _say_once(
            f"{run.path} was trained on a shard set of digest {old[:12]}, but {shards.path} now has digest {new[:12]}: "
            "it was changed or built again. Name the original set with --shards, if you have it."
        )
    if path is None:
        _say_once(f"{lost}shard set: {shards.path}, the newest under {SHARDS}/; name another with --shards")
    return shards


_PRINTED: set[str] = set()


def _say_once(line: str) -> None:
    if line not in _PRINTED:
        _PRINTED.add(line)
        say(line)


def untrained_encoder(checkpoint: Checkpoint | Given) -> Encoder:
    """Builds the encoder that a run started from: the same network from the same seed; for given weights, that network
    with random weights.

    InputError when the checkpoint belongs to no run directory, so that its settings and seed are unknown.
    """
    if isinstance(checkpoint, Given):
        return checkpoint.untrained()
    config = checkpoint.config()
    if config is None:
        raise InputError(
            f"{checkpoint.file} is not in a run directory, so its initial weights are unknown. Omit --untrained."
        )
    small = replace(config, **({"moco": replace(config.moco, queue="auto")} if hasattr(config, "moco") else {}))  # pyright: ignore
    if hasattr(small, "decoder"):  # its file may be gone; the encoder does not need it
        small = replace(small, decoder=None)  # pyright: ignore[reportCallIssue]
    small = replace(small, init_heads=False)
    encoder = objectives.build(small, samples=2, classes=2).encoder
    was, now = (facts.get("sha256") for facts in (_started_from(checkpoint), encoder.initial or {}))
    if was and now and was != now:
        raise InputError(
            f"--init {config.init} is another file than the one that the run started from: its sha256 was "
            f"{str(was)[:12]}... and is {now[:12]}... now. Restore that file, or omit --untrained."
        )
    return encoder


def _started_from(checkpoint: Checkpoint) -> dict[str, Any]:
    """What run.json states about the file with the initial weights."""
    facts = checkpoint.run.facts.get("init") if checkpoint.run else None
    return facts if isinstance(facts, dict) else {}  # run.json may be damaged
