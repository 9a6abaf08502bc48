"""What an evaluation is given, checked before any work, and the line it leaves in the run's results.jsonl."""

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

SMALLEST, LARGEST = 8, 4096  # pixels, as of any view


@dataclass(frozen=True)
class Subject:
    """An encoder, the shard set and view size to evaluate it at, and the device."""

    found: Checkpoint
    shards: ShardSet
    size: int
    device: torch.device

    @classmethod
    def open(cls, flags: Evaluation, splits: Sequence[str]) -> "Subject":
        """By default the run's own shard set and view size. InputError unless it has these splits, and classes."""
        found, shards = Checkpoint.find(flags.run), flags.shards
        if shards is None and found.run is not None:
            noted = found.run.facts.get("shards", {}).get("path")
            shards = Path(noted) if noted else None
        data = open_shards(shards)
        if missing := [split for split in splits if not data.splits.get(split)]:
            has = ", ".join(f"{split} ({n:,})" for split, n in data.splits.items() if n)
            raise InputError(
                f"{data.path} has no {' and no '.join(missing)} split, and this evaluation works on "
                f"{' and '.join(splits)}; it has {has}. Name another set with --shards."
            )
        if len(data.classes) < 2:
            raise InputError(
                f"{data.path} has {len(data.classes) or 'no'} class{'es' * (not data.classes)}, and this evaluation "
                "needs images labelled with two or more. Name another set with --shards."
            )
        size = found.size if flags.size is None else flags.size
        need(SMALLEST <= size <= LARGEST, "size", size, f"{SMALLEST} to {LARGEST} pixels")
        return cls(found, data, size, pick_device(flags.device))

    @property
    def name(self) -> str:
        return f"{self.found.run.path if self.found.run else self.found.file}, step {self.found.step:,}"

    @property
    def chance(self) -> float:
        return 1 / len(self.shards.classes)

    def encoders(self, untrained: bool) -> dict[str, Encoder]:
        """Under the name it has in tables: the encoder, and beside it the one that the run started from."""
        made = {self.name: load_encoder(self.found)}
        return made | {"untrained": untrained_encoder(self.found)} if untrained else made

    def record(self, evaluation: str, **values: Any) -> dict[str, Any]:
        """-> the line: evaluation, step, figures as shares of one, settings, and where, when and by what it was made.

        It is appended to the run's results.jsonl; an encoder that lies in no run directory has none.
        """
        line = {"evaluation": evaluation, "step": self.found.step, **values, "size": self.size}
        line |= {"shards": str(self.shards.path), "digest": self.shards.manifest["digest"]}
        line |= {"commit": provenance.commit(), "versions": provenance.versions()}
        line |= {"device": provenance.name_of(self.device), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        if self.found.run is not None:
            append(self.found.run.path / "results.jsonl", line)
        return line


def untrained_encoder(checkpoint: Checkpoint) -> Encoder:
    """The encoder that a run started from: the same network, made from the same seed."""
    config = checkpoint.config()
    if config is None:
        raise InputError(
            f"{checkpoint.file} lies in no run directory, so its initial weights are unknown; leave out --untrained."
        )
    small = replace(config, **({"moco": replace(config.moco, queue="auto")} if hasattr(config, "moco") else {}))  # pyright: ignore
    if hasattr(small, "decoder"):  # it may be gone since, and says nothing of the encoder
        small = replace(small, decoder=None)  # pyright: ignore[reportCallIssue]
    return objectives.build(small, samples=2).encoder


def append(path: Path, record: dict[str, Any]) -> None:
    """Adds one line, whole or not at all, that a power cut does not take back."""
    append_line(path, json.dumps(record), sync=True)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file, [] when there is none. InputError naming the line that is none.

    A last line without its end is still being written, or of a process killed over it, and is left out; so is half a
    line behind which others stand.
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
            raise InputError(f"{path}, line {number} is no JSON: {line[:60]!r}. Delete that line.") from None
    return records
