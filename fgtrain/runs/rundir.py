"""Everything a run leaves on disk.

    config.json  run.json  metrics.jsonl  results.jsonl  finetune.jsonl  log.txt
    checkpoints/0004000/{encoder.safetensors, state.pt}  checkpoints/last -> 0004000

Files appear whole: written as `.part`, then renamed; a checkpoint is a folder that appears by rename. The `.jsonl`
files and log.txt grow line by line. Nothing is unpickled: state.pt is read with weights_only.
"""

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

from fgdata.errors import InputError
from fgdata.files.atomic import write_synced
from fgdata.files.lock import lock

from ..settings.common import Config
from ..settings.file import differences, from_dict, to_dict
from .files import append, read_json, remove, write_bytes, write_json
from .state import checksum, complete_checkpoints


class RunDir:
    """The folder of one run. `claim` decides whether it may be trained in; the rest reads and writes."""

    def __init__(self, path: Path):
        self.path = path
        self._held: ExitStack | None = None

    @classmethod
    @contextmanager
    def claim(cls, path: Path, config: Config) -> Iterator["RunDir"]:
        """For training: an empty or new folder, or with --resume one whose settings are the same, and no other
        process in it until the block ends. Else InputError.

        Nothing is written before `start`, so that a run refused for another reason leaves no folder behind.
        """
        run = cls(path)
        with ExitStack() as run._held:
            if path.is_dir():
                run._lock()
            run._check(config)
            yield run

    def start(self, config: Config) -> None:
        """Makes the folder and writes the settings; called when nothing is left that could refuse them."""
        if not self.path.is_dir():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--out {self.path} cannot be made: {error.strerror}. Choose another.") from error
            self._lock()
            self._check(config)  # another run may have been here between the first check and the lock
        write_json(self.config_path, to_dict(config))

    def _lock(self) -> None:
        assert self._held is not None
        try:
            self._held.enter_context(lock(self.path))
        except InputError:
            pid = self.facts.get("pid")
            raise InputError(
                f"Another fgtrain{f' (process {pid})' if pid else ''} is training in {self.path}. Wait for it, or stop "
                "it with Ctrl-C and continue its run with --resume, or choose another folder with --out."
            ) from None
        except OSError as error:
            raise InputError(f"--out {self.path} cannot be used: {error.strerror}. Choose another.") from error

    def _check(self, config: Config) -> None:
        path, resume = self.path, config.machine.resume
        home = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        if not home.is_dir():
            what = "is a file" if home.is_file() else "is no folder"
            raise InputError(f"{home} {what}; --out must be a folder, or a place where one can be made.")
        if not os.access(home, os.W_OK | os.X_OK):
            raise InputError(f"--out {path} cannot be written: no permission in {home}. Choose another.")
        found = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
        if found and not self.config_path.is_file():
            raise InputError(
                f"{path} is not empty (it holds {', '.join(found[:4])}) and has no config.json, so it is no run. "
                "Choose another folder with --out."
            )
        anew = "choose another folder with --out"
        if found and self.facts.get("status") == "failed" and not self.checkpoints:
            anew += f"; it failed before its first checkpoint, so nothing is lost by rm -r {quote(str(path))}"
        if found and not resume:
            raise InputError(f"{path} holds a run. Continue it with --resume, or {anew}.")
        if found and (changed := differences(self.config(), config)):
            raise InputError(
                f"{path} was started with other settings; --resume changes none of them:\n  "
                + "\n  ".join(changed)
                + f"\nLeave those flags out, or {anew}."
            )

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
        append(self.path / name, json.dumps(record))

    def log(self, line: str) -> None:
        append(self.path / "log.txt", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}")

    def has(self, key: str, step: int | None = None) -> bool:
        """Whether metrics.jsonl has a line with `key`, of that step where one is given."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return any(f'"{key}":' in line and step in (None, _step(line)) for line in lines)

    def cut_metrics(self, step: int) -> None:
        """Drops the lines after `step`: a resumed run writes them again."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if _step(line) <= step]
            write_bytes(path, "".join(line + "\n" for line in lines).encode())

    @property
    def checkpoints(self) -> list[Path]:
        """The folders of whole checkpoints, oldest first."""
        return complete_checkpoints(self.path / "checkpoints")

    @property
    def last_checkpoint(self) -> Path | None:
        """What `last` points to; where someone removed that, the newest that is left."""
        last = self.path / "checkpoints" / "last"
        return last.resolve() if last.is_dir() else self.checkpoints[-1].resolve() if self.checkpoints else None

    def resume_point(self) -> Path | None:
        """The checkpoint to continue from; None for a run that never saved one. InputError where it has gone."""
        last, facts = self.last_checkpoint, self.facts
        ended = facts.get("step") if facts.get("status") in ("done", "stopped") else None
        if last is None and (step := facts.get("checkpoint") or ended):
            raise InputError(
                f"{self.path} saved a checkpoint at step {step:,}, as its run.json says, and none is left in "
                f"{self.path / 'checkpoints'}. Put it back, or start anew in another folder with --out."
            )
        return last

    def save_checkpoint(self, step: int, encoder: Any, about: dict[str, Any], state: dict[str, Any], keep: int) -> Path:
        """encoder.safetensors (torchvision's names, `about` as metadata) and state.pt, together or not at all.

        InputError when they cannot be written; the checkpoints before are whole then, and nothing of this one is left.
        """
        import torch
        from safetensors.torch import save

        folder = self.path / "checkpoints"
        name = f"{step:07d}"
        if (folder / name).is_dir() and self.last_checkpoint == (folder / name).resolve():
            return folder / name
        weights = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
        about = {**about, "crc32": checksum(weights)}
        # Made in memory and written by Python: torch and safetensors hide why a disk refused. One key of metadata, as
        # safetensors writes several in an order that differs from run to run.
        content = io.BytesIO()
        torch.save(state, content)
        files = {
            "encoder.safetensors": save(weights, metadata={"fgtrain": json.dumps(about, sort_keys=True)}),
            "state.pt": content.getbuffer(),
        }
        part, link = folder / f"{name}.part", folder / "last.part"
        try:
            for stale in folder.glob("*.part"):  # of a run that was killed while it saved
                remove(stale)
            part.mkdir(parents=True)
            for file, data in files.items():
                write_synced(part / file, data)
            remove(folder / name)
            part.rename(folder / name)
            link.symlink_to(name)
            link.replace(folder / "last")
        except OSError as error:
            remove(part)
            remove(link)
            last = self.last_checkpoint
            raise InputError(
                f"The checkpoint of step {step:,} could not be written to {folder}: {error.strerror}. The last whole "
                f"one is {last.name if last else 'none'}. Make room or mend the place, then continue with --resume."
            ) from error
        for old in self.checkpoints[: -max(1, keep)]:
            shutil.rmtree(old)
        return folder / name


def _step(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return 1 << 62
