"""The folder of a run and the files in it.

    config.json  run.json  metrics.jsonl  results.jsonl  finetune.jsonl  log.txt
    checkpoints/0004000/{encoder.safetensors, state.pt}  checkpoints/last -> 0004000

Files and checkpoint folders are written under a name ending in `.part` and then renamed, so they are never seen
half-written. The `.jsonl` files and log.txt grow by whole lines. Nothing is unpickled: state.pt is read with
weights_only.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

from fgdata import plugins
from fgdata.errors import InputError, abbreviate
from fgdata.files.atomic import write_synced
from fgdata.files.lock import create_and_lock, is_locked, lock
from fgdata.files.output import reason_unwritable
from fgdata.files.owners import owning, seems_owned

from ..place import launcher
from ..settings.common import Config
from ..settings.file import ORIGIN, as_flags, blocks_extend, differences, from_dict, relevant, to_dict, typed
from ..settings.methods import METHODS
from ..settings.recipes import RECIPES
from .files import append, create_link, parse_json, read_bytes, read_json, remove, write_bytes, write_json
from .state import checksum, complete_checkpoints

FACTS: dict[str, Any] = {
    **{"name": str, "status": str, "pid": int, "processes": int, "nodes": int, "step": int, "total": int},
    **{"shards": dict, "earlier": list, "plugins": dict, "tracking": dict},
    **{"reason": str | None, "checkpoint": int | None},
}
"""Types of those values in run.json that are read again."""
OWNERS = ".training"
"""In the folder of a run: which process trains in it (fgdata/files/owners.py). It is empty or missing otherwise."""
MOST_LOG_BYTES = 1 << 30
"""Of metrics.jsonl: some five million lines."""


def check_is_run(path: Path) -> None:
    """InputError if a folder is no run."""
    if not RunDir(path).config_path.is_file():
        what = "is not a run directory: it has no config.json" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}. {describe_runs(path)}.")


def describe_runs(path: Path) -> str:
    """The runs in a folder, such as that of a study, or else those in runs/, for a message about a path that is no
    run."""
    if inside := sorted(str(file.parent) for file in path.glob("*/config.json")):
        return f"Runs in it: {abbreviate(inside)}"
    return (
        f"Runs under runs/: {abbreviate(sorted(p.parent.name for p in Path('runs').glob('*/config.json'))) or 'none'}"
    )


class RunDir:
    """The folder of one run. `claim` checks that it can be trained in and locks it; the rest reads and writes files."""

    def __init__(self, path: Path):
        self.path = path
        self._stack: ExitStack | None = None
        self._locked = False

    @classmethod
    @contextmanager
    def claim(cls, path: Path, config: Config) -> Iterator["RunDir"]:
        """Yields the folder for training: new or empty, or with --resume one with the same settings. No other process
        can train in it until the block ends. InputError if it cannot be used.

        Nothing is written before `start`, so a run that fails for another reason leaves no folder behind.
        """
        run = cls(path)
        with ExitStack() as run._stack:
            if path.is_dir():
                run._lock(config, create=False)
            else:
                run._check(config)
            yield run

    def start(self, config: Config) -> None:
        """Creates and locks the folder and writes config.json. Called after all other checks of the settings.

        InputError if another run has taken the folder since `claim`.
        """
        if not self._locked:
            self._lock(config, create=True)
        write_json(self.config_path, to_dict(config))

    def _lock(self, config: Config, create: bool) -> None:
        """Locks the folder and owns it, and checks it before the first file is written and after the last wait."""
        assert self._stack is not None
        try:
            self._stack.enter_context(create_and_lock(self.path) if create else lock(self.path))
            self._locked = True
        except InputError:
            if not (self.path.is_dir() and is_locked(self.path)):
                raise
            pid = self.facts.get("pid")
            raise InputError(
                f"Another fgtrain{f' (process {pid})' if pid else ''} is training in {self.path}. Wait for it, or stop "
                "it with Ctrl-C and resume its run with --resume, or choose another folder with --out."
            ) from None
        except OSError as error:
            raise self._unusable(error) from error
        self._check(config)
        try:
            self._stack.enter_context(owning(self.path / OWNERS, f"is training in {self.path}"))
        except OSError as error:
            raise self._unusable(error) from error
        self._check(config)

    def _unusable(self, error: OSError) -> InputError:
        return InputError(f"--out {self.path} cannot be used: {error.strerror}. Choose another folder.")

    def _check(self, config: Config) -> None:
        path, resume = self.path, config.machine.resume
        existing = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        if not existing.is_dir():
            what = "is a file" if existing.is_file() else "is not a folder"
            raise InputError(f"{existing} {what}; --out must be a folder, or a path where one can be created.")
        if why := reason_unwritable(existing):
            raise InputError(f"--out {path} cannot be written: {existing} {why}. Choose another folder.")
        entries = sorted(p.name for p in path.iterdir() if p.name != OWNERS) if path.is_dir() else []
        if entries and not self.config_path.is_file():
            if "run.json" in entries:
                raise InputError(
                    f"{path} contains a run whose config.json is missing or not a file, so it cannot be resumed. "
                    f"Restore it, or choose another folder with --out; rm -r {quote(str(path))} removes the run."
                )
            raise InputError(
                f"{path} is not empty (it contains {', '.join(entries[:4])}) and is not a run (it has no config.json). "
                "Choose another folder with --out."
            )
        alternative = "choose another folder with --out"
        if entries and self.facts.get("status") == "failed" and not self.checkpoints:
            alternative += f"; it failed before its first checkpoint, so nothing is lost by rm -r {quote(str(path))}"
        if entries and not resume:
            raise InputError(f"{path} already contains a run. Resume it with --resume, or {alternative}.")
        if entries and (changed := differences(relevant(self.config()), relevant(config))):
            raise InputError(self._explain_changed(changed, alternative))

    def _explain_changed(self, changed: dict[str, tuple[Any, Any]], alternative: str) -> str:
        recipe, path = self.facts.get("name", "NAME"), quote(str(self.path))
        flags = as_flags({name: new for name, (_, new) in changed.items()})
        why = (
            " The learning rate is scheduled over all epochs, so the steps already trained belong to a run of that "
            "length."
            if "epochs" in changed
            else ""
        )
        start, what = f" --init {path}", " (--init starts from its encoder; omit it to start from scratch)"
        if changed.keys() & ORIGIN:  # the new settings name it
            start, what = "", ""
        elif not blocks_extend(changed):
            start = f" --extend {path}"
            what = " (--extend starts from all its weights and its optimiser; replace it with --init to start from its "
            what += "encoder only; omit it to start from scratch)"
        reason = f"They change the result of the steps already trained.{why}"
        if not self.checkpoints:
            start, what, reason = "", "", "It has no checkpoint yet."
        return (
            f"{self.path} was started with other settings, and --resume cannot change them:\n  {_listed(changed)}\n"
            f"{reason} Resume with the original settings:\n"
            f"  {self.launcher} run {recipe} --out {path} --resume{plugins.flags()}\n"
            f"or start a new run with the new settings{what}:\n"
            f"  {self.launcher} run {recipe} --config {path} {flags}{start} --out {quote(f'{self.path}-2')}"
            f"{plugins.flags()}\n"
            f"or {alternative}."
        )

    def check_unchanged(self, config: Config, saved: dict[str, Any] | None, checkpoint: Path) -> None:
        """InputError if config.json has other settings than those saved with a checkpoint.

        config: the settings in config.json. saved: `settings.file.relevant` of the run that wrote the checkpoint, None
        for checkpoints of older versions, which are not checked.
        """
        if changed := differences(saved or {}, relevant(config)):
            raise InputError(
                f"{self.config_path} has changed since {checkpoint} was saved (checkpoint -> file):\n  "
                f"{_listed(changed)}\nRestore these values in {self.config_path}, then rerun the command."
            )

    @property
    def config_path(self) -> Path:
        """Path of config.json."""
        return self.path / "config.json"

    def config(self) -> Config:
        """The settings in config.json. InputError if it cannot be read."""
        values = read_json(self.config_path)
        if values.get("method") not in [*METHODS] and (
            missing := plugins.ask(str(self.path), self.facts.get("plugins"))
        ):
            raise InputError(missing)
        return from_dict(values, str(self.config_path))

    @property
    def facts(self) -> dict[str, Any]:
        """The contents of run.json, {} if there is none. InputError if it is damaged."""
        path = self.path / "run.json"
        if not path.is_file():
            return {}
        advice = (
            "Restore it from a copy, or remove it. Settings, metrics, results and checkpoints have their own files; "
            "the recipe's name, the status, and the path and digest of the shard set are lost, so evaluations need "
            f"--shards FOLDER: rm {quote(str(path))}"
        )
        facts = read_json(path, advice)
        try:
            values = [(key, kind, facts[key]) for key, kind in FACTS.items() if key in facts]
            for key, kind, value in values:
                typed(kind, value, f"{path}: {key}")
            for key in {"path", "digest"} & facts.get("shards", {}).keys():
                typed(str, facts["shards"][key], f"{path}: shards.{key}")
        except InputError as error:
            raise InputError(f"{error} {advice}") from None
        return facts

    @property
    def status(self) -> str | None:
        """What run.json states: running, done, stopped or failed. A run that no process trains any more, as after a
        kill, is interrupted, not running. None if run.json does not say."""
        status = self.facts.get("status")
        return "interrupted" if status == "running" and not seems_owned(self.path / OWNERS) else status

    def recipe(self, method: str) -> str:
        """The recipe that the run was started from; its method if run.json does not name one of this version."""
        name = self.facts.get("name")
        return name if name in RECIPES else method

    @property
    def launcher(self) -> str:
        """How the run starts on as many processes as it had: fgtrain, or torchrun ... -m fgtrain."""
        return launcher(self.facts.get("processes", 1), self.facts.get("nodes", 1))

    def progress(self, step: int) -> str:
        """What to add to a step of the run: " of 120, stopped" (running, failed, interrupted) if its training has not
        finished, or " of 120" for an earlier step; "" for the last step."""
        status, total = self.status or "done", self.facts.get("total")
        of = f" of {total:,}" if total is not None and step < total else ""
        return of + f", {status}" * (status != "done")

    def note(self, **facts: Any) -> None:
        """Updates these keys of run.json."""
        write_json(self.path / "run.json", {**self.facts, **facts})

    def refuse(self, reason: str) -> None:
        """Makes a stopped run a failed one. Nothing if it has another status, or another process trains in it."""
        with suppress(InputError, OSError):
            if self.facts.get("status") == "stopped":
                with lock(self.path), owning(self.path / OWNERS, f"is noting a failure in {self.path}"):
                    self.note(status="failed", reason=reason)

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Appends a record to the JSON-lines file `name`."""
        append(self.path / name, json.dumps(record))

    def log(self, line: str) -> None:
        """Appends a line with the time (UTC) to log.txt."""
        append(self.path / "log.txt", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}")

    def has(self, key: str, step: int | None = None) -> bool:
        """Whether metrics.jsonl has a line with `key`, at `step` if one is given."""
        path = self.path / "metrics.jsonl"
        lines = read_bytes(path, MOST_LOG_BYTES).splitlines() if path.is_file() else []
        return any(f'"{key}":'.encode() in line and step in (None, step_of(line)) for line in lines)

    def cut_metrics(self, step: int) -> None:
        """Cuts metrics.jsonl before its first line after `step`, because a resumed run writes these lines again.

        An incomplete last line, as left by a kill, is removed. The bytes before the cut are unchanged.
        """
        path = self.path / "metrics.jsonl"
        if path.is_file():
            lines = read_bytes(path, MOST_LOG_BYTES).splitlines(keepends=True)
            end = next((i for i, line in enumerate(lines) if (step_of(line) or 0) > step), len(lines))
            write_bytes(path, b"".join(line for line in lines[:end] if line.endswith(b"\n")))

    @property
    def checkpoints(self) -> list[Path]:
        """The folders of complete checkpoints, oldest first."""
        return complete_checkpoints(self.path / "checkpoints")

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint that `last` points to or, if that was removed, the newest one. None if there is none.

        InputError if `last` points to anything else.
        """
        last, own = self.path / "checkpoints" / "last", [path.resolve() for path in self.checkpoints]
        if not (last.is_symlink() and last.exists()):  # a copy made without links has a folder of that name
            return own[-1] if own else None
        if last.resolve() not in own:
            raise InputError(
                f"{last} points to {last.resolve()}, which is not a checkpoint of this run. Remove the link to use the "
                f"newest checkpoint: rm {quote(str(last))}"
            )
        return last.resolve()

    def resume_point(self) -> Path | None:
        """The checkpoint to resume from, or None for a run that never saved one. InputError if all were removed."""
        last, facts = self.last_checkpoint, self.facts
        ended = facts.get("step") if facts.get("status") in ("done", "stopped") else None
        if last is None and (step := facts.get("checkpoint") or ended):
            raise InputError(
                f"According to run.json, {self.path} saved a checkpoint at step {step:,}, but there is none in "
                f"{self.path / 'checkpoints'}. Restore it, or start a new run in another folder with --out."
            )
        return last

    def save_checkpoint(self, step: int, encoder: Any, about: dict[str, Any], state: dict[str, Any], keep: int) -> Path:
        """Writes encoder.safetensors (`about` as metadata) and state.pt, both or neither.

        step: training steps done. encoder: the module whose weights are saved. state: a dict that torch.save takes.
        keep: checkpoints left in the run, at least 1. Returns the checkpoint's folder. InputError if it cannot be
        written; the earlier checkpoints are then unchanged and nothing of this one is left.
        """
        import torch
        from safetensors.torch import save

        folder = self.path / "checkpoints"
        name = f"{step:07d}"
        if (folder / name).is_dir() and self.last_checkpoint == (folder / name).resolve():
            return folder / name
        weights = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
        about = {**about, "crc32": checksum(weights)}
        # Serialized in memory and written by Python: torch and safetensors hide why a write failed. Only one metadata
        # key, because safetensors writes several in an order that differs from run to run.
        content = io.BytesIO()
        torch.save(state, content)
        files = {
            "encoder.safetensors": save(weights, metadata={"fgtrain": json.dumps(about, sort_keys=True)}),
            "state.pt": content.getbuffer(),
        }
        part, link = folder / f"{name}.part", folder / "last.part"
        try:
            for stale in folder.glob("*.part"):  # left by a run that was killed while saving
                remove(stale)
            part.mkdir(parents=True)
            for file, data in files.items():
                write_synced(part / file, data)
            remove(folder / name)
            part.rename(folder / name)
            if create_link(link, name):
                if not (folder / "last").is_symlink():
                    remove(folder / "last")  # a copy made without links: a rename cannot replace a folder
                link.replace(folder / "last")
        except OSError as error:
            remove(part)
            remove(link)
            last = self.last_checkpoint
            raise InputError(
                f"The checkpoint of step {step:,} could not be written to {folder}: {error.strerror}. The last "
                f"complete one is {last.name if last else 'none'}. Free some space, or fix the folder's permissions, "
                "then resume with --resume."
            ) from error
        others = [checkpoint for checkpoint in self.checkpoints if checkpoint.name != name]
        for old in others[: max(0, len(others) + 1 - keep)]:  # never the new one, whose step may be the lowest
            remove(old)
        return folder / name


def _listed(changed: dict[str, tuple[Any, Any]]) -> str:
    return "\n  ".join(f"{name}: {old} -> {new}" for name, (old, new) in changed.items())


def step_of(line: bytes) -> int | None:
    """The step of a line of metrics.jsonl; None for a line that is incomplete or damaged."""
    try:
        step = parse_json(line).get("step")
    except ValueError:
        return None
    return step if isinstance(step, int) else None
