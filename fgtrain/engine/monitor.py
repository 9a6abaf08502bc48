"""Reports the progress of a run: a progress bar on a terminal, plain lines elsewhere, and log.txt always."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fgdata.commandline.console import PlainConsole
from fgdata.errors import InputError

from ..runs.rundir import RunDir
from .trackers import Trackers

if TYPE_CHECKING:
    import torch

SECONDS_BETWEEN_LINES = 10.0  # without a terminal
MEASURED = {"knn": "kNN accuracy {:.1%}", "linear": "linear accuracy {:.1%}", "rankme": "RankMe {:.1f}"}
"""Figures of an evaluation, as a line shows them."""


class Monitor:
    """Prints and records progress. Counts images and the time spent waiting for data since the last `rates()`.

    Without a run it prints and writes nothing, as in every process but the first.
    """

    def __init__(
        self, run: RunDir | None, step: int, total: int, steps_per_epoch: int, trackers: Trackers | None = None
    ):
        self.run, self.total, self.steps_per_epoch = run, total, steps_per_epoch
        self.trackers, self.status = trackers, "failed"
        # Training continues when nobody can read its output any more; log.txt has all lines.
        self.console = PlainConsole(forgiving=True, soft_wrap=True, quiet=run is None)
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total, completed=step, epoch=step // steps_per_epoch + 1, state="")
        self.images, self.waited = 0, 0.0
        self.idle: list[tuple[Any, Any]] = []  # events of a GPU: when it ran out of work, when the next batch arrived
        self.since = self.last_line = time.perf_counter()

    def __enter__(self) -> "Monitor":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()
        if self.trackers:
            with suppress(InputError):  # a full disk, which is reported already
                for line in self.trackers.close(self.status):
                    self.say(line)

    @contextmanager
    def paused(self, device: "torch.device") -> Iterator[None]:
        """Excludes a block from the rates: an evaluation, a checkpoint, a preparation."""
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)  # steps that are still running count as training
        start = time.perf_counter()
        yield
        self.since += time.perf_counter() - start

    @contextmanager
    def waiting(self, device: "torch.device") -> Iterator[None]:
        """Measures a block that waits for data. A GPU is still running earlier steps, so only its idle time counts."""
        idle, start = _mark(device), time.perf_counter()
        yield
        if idle is None:
            self.waited += time.perf_counter() - start
        else:
            self.idle.append((idle, _mark(device)))

    def step(self, step: int, images: int) -> None:
        """Counts a finished step and its images."""
        self.images += images
        self.bar.update(self.task, completed=step, epoch=(step - 1) // self.steps_per_epoch + 1)

    def rates(self) -> dict[str, float]:
        """Images per second and the share of time spent waiting for data, both since the last call.

        On a GPU, call it only after the last step has finished there.
        """
        now = time.perf_counter()
        self.waited += sum(idle.elapsed_time(ready) for idle, ready in self.idle) / 1000  # milliseconds
        self.idle = []
        seconds = max(1e-9, now - self.since)
        rates = {"images_per_second": round(self.images / seconds, 2), "data_wait": round(self.waited / seconds, 4)}
        self.images, self.waited, self.since = 0, 0.0, now
        return rates

    def record(self, record: dict[str, Any]) -> None:
        """Writes a line of metrics.jsonl, and reports it if it is a loss with its rates or figures of an evaluation."""
        if self.run is None:
            return
        self.run.append("metrics.jsonl", record)
        failed = self.trackers.write(record["step"], without_step(record)) if self.trackers else []
        if "loss" in record:
            self.show(record)
        elif figures := [text.format(record[name]) for name, text in MEASURED.items() if name in record]:
            self.say(f"epoch {record['epoch']:.0f}  {'  '.join(figures)}")
        for line in failed:
            self.say(line)

    def picture(self, step: int, name: str, file: Path) -> None:
        """Gives a PNG of the run to the trackers."""
        for line in self.trackers.picture(step, name, file) if self.trackers else []:
            self.say(line)

    def show(self, record: dict[str, Any]) -> None:
        """Reports a loss: in the bar and log.txt, and without a terminal as a line every few seconds."""
        state = (
            f"loss {record['loss']:.4f}  {record['images_per_second']:.0f} images/s  "
            f"waiting for data {record['data_wait']:.0%}"
        )
        self.bar.update(self.task, state=state)
        line = f"epoch {record['epoch']:.2f}  step {record['step']:,}/{self.total:,}  {state}"
        self.log(line)
        now = time.perf_counter()
        if not self.console.is_terminal and (
            now - self.last_line > SECONDS_BETWEEN_LINES or record["step"] == self.total
        ):
            self.last_line = now
            self.console.print(line)

    def say(self, line: str) -> None:
        """Prints a line and writes it to log.txt."""
        self.log(line)
        self.console.print(line)

    def log(self, line: str) -> None:
        """Writes a line to log.txt."""
        if self.run is not None:
            self.run.log(line)


def _mark(device: "torch.device") -> Any:
    """A timed event in the GPU's current stream; None for a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.current_stream(device).record_event(torch.cuda.Event(enable_timing=True))


def without_step(record: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl without its step."""
    return {name: value for name, value in record.items() if name != "step"}
