"""Runs the jobs of a study in separate processes, several at a time, and stops them with a checkpoint."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from fgdata.errors import InputError, describe_exit
from fgdata.files.owners import Watch

from ..engine.signals import StopSignals
from ..runs.rundir import OWNERS
from .child import MEASURING
from .plan import Job

POLL = 0.2


class Process(Protocol):
    """What is used of a subprocess.Popen."""

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


Launch = Callable[[Job, list[list[str]], int], Process]
"""(job, its commands, number of the worker) -> the process."""


def run(
    jobs: Sequence[Job],
    commands: Callable[[Job], list[list[str]]],
    launch: Launch,
    workers: int,
    report: Callable[[list[Job], int], None],
    stop: StopSignals,
) -> dict[Path, str]:
    """Runs every job that lacks something, first stages before the jobs that need them -> failed folders and why.

    commands: what a job lacks now; [] when it is complete. report: called with the running jobs and the number of
    those left. A job in a folder that another process trains or measures in waits for it.
    """
    waiting, failed = list(jobs), {}
    running: dict[int, tuple[Job, Process]] = {}
    terminated: set[int] = set()
    wait_until = 0.0
    watch = Watch()
    while (waiting and not stop.came) or running:
        for slot, (job, process) in list(running.items()):
            if (code := process.poll()) is not None:
                del running[slot]
                if code and not stop.came and _is_taken(job, watch):
                    waiting.append(job)  # another process was faster; wait for its run
                elif code and not stop.came and commands(job):  # unless another process has just finished it
                    failed[job.folder] = describe_exit(code)
        if stop.came:
            for slot, (_, process) in running.items():
                with suppress(OSError):
                    if stop.at_once:
                        process.kill()
                    elif slot not in terminated:  # once: the run then writes a checkpoint and ends
                        process.terminate()
                terminated.add(slot)
        elif len(running) < workers and waiting and time.monotonic() >= wait_until:
            job = _next(waiting, [job for job, _ in running.values()], watch)
            if job is None:
                wait_until = time.monotonic() + (POLL if running else 10 * POLL)
            elif job.needs is not None and job.needs in failed:
                waiting.remove(job)
                failed[job.folder] = f"its first stage {job.needs.name} failed"
            else:
                waiting.remove(job)
                if words := commands(job):
                    slot = next(number for number in range(workers) if number not in running)
                    running[slot] = (job, launch(job, words, slot))
                continue
        report([job for job, _ in running.values()], len(waiting) + len(running))
        time.sleep(POLL)
    return failed


def _next(waiting: Sequence[Job], running: Sequence[Job], watch: Watch) -> Job | None:
    """The first job that can start: its first stage has ended, and nobody else works in its folder."""
    pending = {job.folder for job in (*waiting, *running)}
    for job in waiting:
        if job.needs not in pending and not _is_taken(job, watch):
            return job
    return None


def _is_taken(job: Job, watch: Watch) -> bool:
    """Whether another process trains or measures in a job's folder."""
    return any(watch.is_owned(job.folder / name) for name in (OWNERS, MEASURING))


class Child(subprocess.Popen):
    """A process whose input stays open until it ends: the end of the input tells it that this process is gone."""

    def poll(self) -> int | None:
        code = super().poll()
        if code is not None and self.stdin is not None:
            with suppress(OSError):
                self.stdin.close()
        return code


def start(job: Job, words: list[list[str]], environment: dict[str, str], logs: Path) -> Child:
    """Starts the process of a job. Its output goes to a log file; it stops when this process ends."""
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{job.name}.log").open("ab") as log:
        process = Child(
            [sys.executable, "-m", "fgtrain.studies.child"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C of the terminal reaches it through this process only
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already; its exit code tells
        process.stdin.write(json.dumps([str(job.folder), words]).encode() + b"\n")
        process.stdin.flush()
    return process


def reason(log: Path) -> str:
    """The last line of a log, which is the error message of a failed command."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "no output")


def share(workers: int, slot: int, device: str, cores: int) -> tuple[dict[str, str], int]:
    """The environment of a worker and its threads: its part of the cores, and one of several GPUs."""
    threads = max(1, cores // workers)
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    if device in ("auto", "cuda") and workers > 1:
        import torch

        if (count := torch.cuda.device_count()) > 1:
            given = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = given if len(given) == count else [str(number) for number in range(count)]
            environment["CUDA_VISIBLE_DEVICES"] = names[slot % count]
    return environment, threads


def check_failures(failed: dict[Path, str], logs: Path) -> None:
    """InputError that names every failed job, the end of its log and how to go on."""
    if failed:
        lines = []
        for folder, why in failed.items():
            log = logs / f"{folder.name}.log"
            lines.append(f"{folder.name}: {reason(log)} ({why}; {log})")
        raise InputError("These runs failed. Rerun the command to try them again.\n  " + "\n  ".join(lines))
