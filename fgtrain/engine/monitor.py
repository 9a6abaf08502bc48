"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, and log.txt in either case."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fgdata.errors import InputError

from ..runs.rundir import RunDir

if TYPE_CHECKING:
    import torch

PLAIN_SECONDS = 10.0  # between two plain lines


class Monitor:
    """Counts images and the time spent waiting for data since the last `rates()`.

    Without a run it shows and writes nothing, as in every process of a training but the first.
    """

    def __init__(self, run: RunDir | None, step: int, total: int, steps_per_epoch: int, board: bool = False):
        self.run, self.total, self.steps_per_epoch = run, total, steps_per_epoch
        self.board = _board(run.path, step) if run and board else None
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=run is None)
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
        self.idle: list[tuple[Any, Any]] = []  # on a GPU: marks where it was out of work, and where it got a batch
        self.since = self.spoke = time.perf_counter()

    def __enter__(self) -> "Monitor":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()
        if self.board:
            self.board.close()

    @contextmanager
    def waiting(self, device: "torch.device") -> Iterator[None]:
        """The block waits for data. On a GPU, which works off the steps before meanwhile, only its idle time counts."""
        idle, start = _mark(device), time.perf_counter()
        yield
        if idle is None:
            self.waited += time.perf_counter() - start
        else:
            self.idle.append((idle, _mark(device)))

    def step(self, step: int, images: int) -> None:
        self.images += images
        self.bar.update(self.task, completed=step, epoch=(step - 1) // self.steps_per_epoch + 1)

    def rates(self) -> dict[str, float]:
        """Images per second and the share of time spent waiting for data, both since the last call.

        A GPU must have done the last step before.
        """
        now = time.perf_counter()
        self.waited += sum(idle.elapsed_time(ready) for idle, ready in self.idle) / 1000  # milliseconds
        self.idle = []
        seconds = max(1e-9, now - self.since)
        rates = {"images_per_second": round(self.images / seconds, 2), "data_wait": round(self.waited / seconds, 4)}
        self.images, self.waited, self.since = 0, 0.0, now
        return rates

    def record(self, record: dict[str, Any]) -> None:
        """A line of metrics.jsonl: of a loss with its rates, or of the kNN accuracy."""
        if self.run is None:
            return
        self.run.append("metrics.jsonl", record)
        if self.board:
            for name in record.keys() - {"step"}:
                self.board.add_scalar(name, record[name], record["step"])
        if "knn" in record:
            self.say(f"epoch {record['epoch']:.0f}  kNN accuracy {record['knn']:.1%}")
        else:
            self.show(record)

    def show(self, record: dict[str, Any]) -> None:
        state = (
            f"loss {record['loss']:.4f}  {record['images_per_second']:.0f} images/s  "
            f"waiting for data {record['data_wait']:.0%}"
        )
        self.bar.update(self.task, state=state)
        line = f"epoch {record['epoch']:.2f}  step {record['step']:,}/{self.total:,}  {state}"
        self.log(line)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self.spoke > PLAIN_SECONDS or record["step"] == self.total):
            self.spoke = now
            self.console.print(line)

    def say(self, line: str) -> None:
        self.log(line)
        self.console.print(line)

    def log(self, line: str) -> None:
        if self.run is not None:
            self.run.log(line)


def _mark(device: "torch.device") -> Any:
    """What a GPU stamps with the time when it gets there; None for a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.current_stream(device).record_event(torch.cuda.Event(enable_timing=True))


def _board(path: Path, step: int) -> Any:
    """A writer of TensorBoard's files that hides what an earlier, interrupted part of the run wrote after `step`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--tensorboard needs tensorboard: pip install 'fgdata[tensorboard]'") from error
    return SummaryWriter(str(path / "tensorboard"), purge_step=step + 1)
