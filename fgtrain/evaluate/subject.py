"""The inputs of an evaluation, checked before any work, and the line it appends to the run's results.jsonl."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fgdata.errors import InputError
from fgdata.files.atomic import append_line
from fgdata.shards.reader import ShardSet

from .. import objectives
from ..networks.encoder import Encoder
from ..networks.saved import load_encoder
from ..place import open_shards, pick_device
from ..runs import provenance
from ..runs.checkpoint import Checkpoint
from ..settings.common import need
from ..settings.evaluations import Evaluation

SMALLEST, LARGEST = 8, 4096  # side of a view, in pixels


@dataclass(frozen=True)
class Subject:
    """The encoder to evaluate, the shard set, the view size in pixels, and the device."""

    checkpoint: Checkpoint
    shards: ShardSet
    size: int
    device: torch.device

    @classmethod
    def open(cls, flags: Evaluation, splits: Sequence[str]) -> "Subject":
        """Opens everything that `flags` names; shard set and view size default to the run's own.

        `splits` are the splits that the evaluation reads. InputError when the run or the shard set cannot be opened,
        when a split is empty, when the set has fewer than two classes, or when the size is out of range.
        """
        checkpoint, shards = Checkpoint.find(flags.run), flags.shards
        if shards is None and checkpoint.run is not None:
            recorded = checkpoint.run.facts.get("shards", {}).get("path")
            shards = Path(recorded) if recorded else None
        data = open_shards(shards)
        if missing := [split for split in splits if not data.splits.get(split)]:
            has = ", ".join(f"{split} ({n:,})" for split, n in data.splits.items() if n)
            raise InputError(
                f"{data.path} has no {' and no '.join(missing)} split, and this evaluation reads "
                f"{' and '.join(splits)}; it has {has}. Name another set with --shards."
            )
        if len(data.classes) < 2:
            raise InputError(
                f"{data.path} has {len(data.classes) or 'no'} class{'es' * (not data.classes)}, and this evaluation "
                "needs images labelled with two or more. Name another set with --shards."
            )
        size = checkpoint.size if flags.size is None else flags.size
        need(SMALLEST <= size <= LARGEST, "size", size, f"{SMALLEST} to {LARGEST} pixels")
        return cls(checkpoint, data, size, pick_device(flags.device))

    @property
    def name(self) -> str:
        """The run directory (or the encoder's file) and the step, as tables show them."""
        path = self.checkpoint.run.path if self.checkpoint.run else self.checkpoint.file
        return f"{path}, step {self.checkpoint.step:,}"

    @property
    def chance(self) -> float:
        """Accuracy of a guess among equally frequent classes."""
        return 1 / len(self.shards.classes)

    def encoders(self, untrained: bool) -> dict[str, Encoder]:
        """Name in tables -> encoder: the trained one, and with `untrained` also the one that the run started from."""
        trained = {self.name: load_encoder(self.checkpoint)}
        return trained | {"untrained": untrained_encoder(self.checkpoint)} if untrained else trained

    def record(self, evaluation: str, **values: Any) -> dict[str, Any]:
        """Appends a line to the run's results.jsonl, if the encoder is in a run directory, and returns the line.

        `values` are the figures (as fractions of one) and the settings of the evaluation. The line adds the step, the
        shard set and its digest, commit, versions, device and time.
        """
        line = {"evaluation": evaluation, "step": self.checkpoint.step, **values, "size": self.size}
        line |= {"shards": str(self.shards.path), "digest": self.shards.manifest["digest"]}
        line |= {"commit": provenance.commit(), "versions": provenance.versions()}
        line |= {"device": provenance.name_of(self.device), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        if self.checkpoint.run is not None:
            append(self.checkpoint.run.path / "results.jsonl", line)
        return line


def untrained_encoder(checkpoint: Checkpoint) -> Encoder:
    """Builds the encoder that a run started from: the same network from the same seed.

    InputError when the checkpoint belongs to no run directory, so that its settings and seed are unknown.
    """
    config = checkpoint.config()
    if config is None:
        raise InputError(
            f"{checkpoint.file} is not in a run directory, so its initial weights are unknown. Omit --untrained."
        )
    small = replace(config, **({"moco": replace(config.moco, queue="auto")} if hasattr(config, "moco") else {}))  # pyright: ignore
    if hasattr(small, "decoder"):  # its file may be gone; the encoder does not need it
        small = replace(small, decoder=None)  # pyright: ignore[reportCallIssue]
    return objectives.build(small, samples=2).encoder


def append(path: Path, record: dict[str, Any]) -> None:
    """Appends one JSON line, whole or not at all, and returns once it is on the disk."""
    append_line(path, json.dumps(record), sync=True)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads the records of a .jsonl file; [] when the file does not exist.

    An incomplete line is ignored: at the end it is still being written, elsewhere it is from a process that was killed.
    InputError names any other line that is not JSON.
    """
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_text().split("\n")[:-1], 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if line.startswith("{") and not line.endswith("}"):
                continue
            raise InputError(f"{path}, line {number} is not valid JSON: {line[:60]!r}. Delete that line.") from None
    return records
