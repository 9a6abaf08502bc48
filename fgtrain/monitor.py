"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, and log.txt in either case."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fgtrain.rundir import RunDir

PLAIN_SECONDS = 10.0  # between two plain lines


class Monitor:
    """Counts images and the time spent waiting for data since the last `rates()`."""

    def __init__(self, run: RunDir, step: int, total: int, steps_per_epoch: int):
        self.run, self.total, self.steps_per_epoch = run, total, steps_per_epoch
        self.console = Console(highlight=False, soft_wrap=True)
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
        self.since = self.spoke = time.perf_counter()

    def __enter__(self) -> "Monitor":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def step(self, step: int, images: int) -> None:
        self.images += images
        self.bar.update(self.task, completed=step, epoch=(step - 1) // self.steps_per_epoch + 1)

    def rates(self) -> dict[str, float]:
        """Images per second and the share of time spent waiting for data, both since the last call."""
        now = time.perf_counter()
        seconds = max(1e-9, now - self.since)
        rates = {"images_per_second": round(self.images / seconds, 2), "data_wait": round(self.waited / seconds, 4)}
        self.images, self.waited, self.since = 0, 0.0, now
        return rates

    def show(self, record: dict[str, Any]) -> None:
        state = (
            f"loss {record['loss']:.4f}  {record['images_per_second']:.0f} images/s  "
            f"waiting for data {record['data_wait']:.0%}"
        )
        self.bar.update(self.task, state=state)
        line = f"epoch {record['epoch']:.2f}  step {record['step']:,}/{self.total:,}  {state}"
        self.run.log(line)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self.spoke > PLAIN_SECONDS or record["step"] == self.total):
            self.spoke = now
            self.console.print(line)

    def say(self, line: str) -> None:
        self.run.log(line)
        self.console.print(line)
