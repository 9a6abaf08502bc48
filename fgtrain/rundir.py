"""Everything a run leaves on disk.

    config.json  run.json  metrics.jsonl  results.jsonl  log.txt
    checkpoints/0004000/{encoder.safetensors, state.pt}  checkpoints/last -> 0004000

Files appear whole: written as `.part`, then renamed; a checkpoint is a folder that appears by rename. The two `.jsonl`
files and log.txt grow line by line. Nothing is unpickled: state.pt is read with weights_only.
"""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fgdata.errors import InputError
from fgtrain.config import Config
from fgtrain.configfile import differences, from_dict, to_dict


class RunDir:
    """The folder of one run. `open` decides whether it may be used; the rest reads and writes."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def open(cls, path: Path, config: Config) -> "RunDir":
        """For training: an empty or new folder, or with --resume one whose settings are the same. Else InputError.

        Nothing is written yet, so that a run refused for another reason leaves no folder behind.
        """
        run, resume = cls(path), config.machine.resume
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; --out must be a folder.")
        found = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
        if found and not resume:
            raise InputError(
                f"{path} is not empty (it holds {', '.join(found[:4])}). Continue that run with --resume, or choose "
                "another folder with --out."
            )
        if found and not run.config_path.is_file():
            raise InputError(f"{path} is not empty and holds no config.json, so it is no run. Choose another --out.")
        if found and (changed := differences(run.config(), config)):
            raise InputError(
                f"{path} was started with other settings; --resume changes none of them:\n  "
                + "\n  ".join(changed)
                + "\nLeave those flags out, or start a new run with another --out."
            )
        return run

    def start(self, config: Config) -> None:
        """Makes the folder and writes the settings; called when nothing is left that could refuse them."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config_path, to_dict(config))

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    def config(self) -> Config:
        return from_dict(read_json(self.config_path), str(self.config_path))

    @property
    def facts(self) -> dict[str, Any]:
        path = self.path / "run.json"
        return read_json(path) if path.is_file() else {}

    def note(self, **facts: Any) -> None:
        """Merges facts into run.json."""
        write_json(self.path / "run.json", {**self.facts, **facts})

    def append(self, name: str, record: dict[str, Any]) -> None:
        with (self.path / name).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def log(self, line: str) -> None:
        with (self.path / "log.txt").open("a") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")

    def cut_metrics(self, step: int) -> None:
        """Drops the lines after `step`: a resumed run writes them again."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if _step(line) <= step]
            write_bytes(path, "".join(line + "\n" for line in lines).encode())

    @property
    def last_checkpoint(self) -> Path | None:
        last = self.path / "checkpoints" / "last"
        return last.resolve() if last.is_dir() else None

    def save_checkpoint(self, step: int, encoder: Any, about: dict[str, str], state: dict[str, Any], keep: int) -> Path:
        """encoder.safetensors (torchvision's names, `about` as metadata) and state.pt, together or not at all."""
        import torch
        from safetensors.torch import save_file

        folder = self.path / "checkpoints"
        name = f"{step:07d}"
        if (folder / name).is_dir() and self.last_checkpoint == (folder / name).resolve():
            return folder / name
        for stale in folder.glob("*.part"):  # of a run that was killed while it saved
            stale.unlink() if stale.is_symlink() else shutil.rmtree(stale)
        part = folder / f"{name}.part"
        part.mkdir(parents=True)
        weights = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
        # One key: safetensors writes several in an order that differs from run to run.
        save_file(weights, part / "encoder.safetensors", metadata={"fgtrain": json.dumps(about, sort_keys=True)})
        torch.save(state, part / "state.pt")
        for file in part.iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        shutil.rmtree(folder / name, ignore_errors=True)
        part.rename(folder / name)
        link = folder / "last.part"
        link.symlink_to(name)
        link.replace(folder / "last")
        for old in sorted(p for p in folder.iterdir() if p.name.isdigit())[: -max(1, keep)]:
            shutil.rmtree(old)
        return folder / name


def load_state(checkpoint: Path) -> dict[str, Any]:
    import torch

    return torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object.")
    return value


def _step(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return 1 << 62
