"""Finds the encoder that `RUN-or-CHECKPOINT` on the command line names."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from safetensors import SafetensorError, safe_open

from fgdata.errors import InputError

from ..settings.common import Config, Model
from ..settings.file import build
from .files import parse_json, raise_system_error
from .rundir import RunDir, describe_runs
from .state import complete_checkpoints

WEIGHTS = "encoder.safetensors"
Triple = tuple[float, float, float]
Normalisation = tuple[Triple, Triple]
"""Mean and std of the images that a network was trained on, per channel in [0, 1]."""


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
    settings: dict[str, Any] | None
    """The settings it was trained with, as `settings.file.relevant` gives them; None in files of older versions."""
    normalisation: Normalisation | None
    """Mean and std of the training views; None in files of older versions, whose views had ImageNet's."""
    run: RunDir | None

    @classmethod
    def find(cls, path: Path) -> "Checkpoint":
        """Opens the encoder at `path`: a run directory (its last checkpoint), a checkpoint folder, or an
        encoder.safetensors. InputError if there is none, or if its metadata does not describe one."""
        run = path if (path / "config.json").is_file() else None
        if run is None and not (path / WEIGHTS if path.is_dir() else path).exists():
            what = f"holds neither a run (config.json) nor an {WEIGHTS}" if path.is_dir() else "does not exist"
            raise InputError(f"{path} {what}. {describe_runs(path)}.")
        if run is not None:
            last = RunDir(path).last_checkpoint
            if last is None:
                facts = RunDir(path).facts
                if facts.get("status") == "failed":
                    raise InputError(f"{path} has no checkpoint: its training failed. {facts.get('reason')}")
                resume = f"{RunDir(path).launcher} run {facts.get('name', 'NAME')} --out {quote(str(path))} --resume"
                raise InputError(f"{path} has no checkpoint yet. Resume the run: {resume}")
            path = last
        file = path / WEIGHTS if path.is_dir() else path
        if not os.path.lexists(file):
            raise InputError(f"{file} is missing. {_instead(file)}")
        try:
            if file.exists() and not file.is_file():  # opening a pipe would wait for its writer
                raise ValueError("it is not a regular file")
            with file.open("rb") as opened:  # safetensors calls a file that it may not open missing
                opened.read(1 << 16)
            with safe_open(file, "np") as weights:  # only its metadata, so torch is not imported
                metadata = (weights.metadata() or {}).get("fgtrain")
            if metadata is None:
                raise InputError(
                    f"{file} does not state which network it has (its metadata has no key fgtrain): it was exported, "
                    f"or written by another program. Start a run from it: fgtrain run ... --init {quote(str(file))}"
                )
            about = parse_json(metadata)
            described = {"backbone": about["backbone"], "width": int(about["width"]), "stem": about["stem"]}
            described |= {"drop_path": float(about.get("drop_path", 0))}
            described |= {name: int(about.get(name, 0)) for name in ("attend", "parts")}
            normalisation = _normalisation(about)
            size, step, crc32 = int(about["size"]), int(about["step"]), about.get("crc32")
            settings = about.get("settings")
            if not isinstance(settings, dict | None):
                raise ValueError("the settings in its metadata are damaged")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise_system_error(str(file), error)
            if file.name == WEIGHTS and isinstance(error, SafetensorError):
                raise InputError(f"{file} is truncated or damaged ({_reason(error)}). {_instead(file)}") from error
            raise InputError(
                f"{file} is not an encoder saved by fgtrain ({_reason(error)}). Name a run directory, a folder "
                f"under its checkpoints/, or the {WEIGHTS} in one."
            ) from error
        model = build(Model, described, f"The metadata of {file}")
        owner = RunDir(run or file.resolve().parent.parent.parent)
        run = owner if owner.config_path.is_file() else None
        return cls(file, model, size, step, crc32, settings, normalisation, run)

    def config(self) -> Config | None:
        """The settings of its run, or None for a file outside a run. InputError if config.json has changed since."""
        if self.run is None:
            return None
        config = self.run.config()
        self.run.check_unchanged(config, self.settings, self.file.parent)
        return config


def checked_config(run: RunDir) -> Config:
    """The settings of a run, read from config.json and compared with those saved in its last checkpoint, if it has one.

    InputError if config.json cannot be read or has changed since, or if the checkpoint is damaged.
    """
    last = run.last_checkpoint
    if last is None or not (last / WEIGHTS).exists():  # a copy of a run without its large files
        return run.config()
    config = Checkpoint.find(last).config()
    assert config is not None
    return config


def _instead(file: Path) -> str:
    """What to do about a checkpoint whose encoder cannot be used."""
    folders = complete_checkpoints(file.parent.resolve().parent)
    others = [folder for folder in folders if folder != file.parent.resolve() and (folder / WEIGHTS).is_file()]
    if others:
        return f"Restore it, or name another checkpoint, such as {file.parent.with_name(others[-1].name)}"
    return "There is no other checkpoint beside it. Restore it, or train again in another folder with --out."


def _normalisation(about: dict[str, Any]) -> Normalisation | None:
    """`mean` and `std` of the metadata. ValueError unless they are three numbers each, the std's above 0."""
    if "mean" not in about and "std" not in about:
        return None
    mean, std = (tuple(float(x) for x in about[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError("the mean or std in its metadata is damaged")
    return mean, std


def _reason(error: Exception) -> str:
    return f"{error} is missing from its metadata" if isinstance(error, KeyError) else str(error)
