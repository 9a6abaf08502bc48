"""Finds the encoder that `RUN-or-CHECKPOINT` on the command line names."""

import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from safetensors import SafetensorError, safe_open

from fgdata.errors import InputError

from ..settings.common import Config, Model
from .rundir import RunDir

WEIGHTS = "encoder.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """An encoder file, its metadata, and the run it belongs to (None for a file outside a run)."""

    file: Path
    model: Model
    size: int
    """Side of the training views, in pixels."""
    step: int
    crc32: int | None
    """Checksum of the weights according to the metadata."""
    run: RunDir | None

    @classmethod
    def find(cls, path: Path) -> "Checkpoint":
        """Opens the encoder at `path`: a run directory (its last checkpoint), a checkpoint folder, or an
        encoder.safetensors. InputError if there is none, or if its metadata does not describe one."""
        run = path if (path / "config.json").is_file() else None
        if run is None and not (path / WEIGHTS if path.is_dir() else path).exists():
            runs = sorted(p.parent.name for p in Path("runs").glob("*/config.json"))
            what = f"holds neither a run (config.json) nor an {WEIGHTS}" if path.is_dir() else "does not exist"
            raise InputError(f"{path} {what}. Runs under runs/: {', '.join(runs) or 'none'}.")
        if run is not None:
            last = RunDir(path).last_checkpoint
            if last is None:
                facts = RunDir(path).facts
                if facts.get("status") == "failed":
                    raise InputError(f"{path} has no checkpoint: its training failed. {facts.get('reason')}")
                resume = f"fgtrain run {facts.get('name', 'NAME')} --out {quote(str(path))} --resume"
                raise InputError(f"{path} has no checkpoint yet. Resume the run: {resume}")
            path = last
        file = path / WEIGHTS if path.is_dir() else path
        try:
            with safe_open(file, "pt") as weights:
                metadata = (weights.metadata() or {}).get("fgtrain")
            if metadata is None:
                raise InputError(
                    f"{file} does not say what network it holds (its metadata has no key fgtrain): it was exported, or "
                    f"written by another program. Start a run from it: fgtrain run ... --init {quote(str(file))}"
                )
            about = json.loads(metadata)
            model = Model(about["backbone"], int(about["width"]), about["stem"])  # pyright: ignore[reportArgumentType]
            size, step, crc32 = int(about["size"]), int(about["step"]), about.get("crc32")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"{file} is not an encoder saved by fgtrain ({_reason(error)}). Name a run directory, a folder "
                f"under its checkpoints/, or the {WEIGHTS} in one."
            ) from error
        owner = run or file.resolve().parent.parent.parent
        return cls(file, model, size, step, crc32, RunDir(owner) if (owner / "config.json").is_file() else None)

    def config(self) -> Config | None:
        """The settings of its run, or None for a file outside a run."""
        return self.run.config() if self.run else None


def _reason(error: Exception) -> str:
    return f"{error} is missing from its metadata" if isinstance(error, KeyError) else str(error)
