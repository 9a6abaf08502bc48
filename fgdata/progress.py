"""A progress bar on a terminal (images, images/s, time left), a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts images towards a total: `with Progress("Building", total) as progress: progress.advance(n)`."""

    def __init__(self, title: str, total: int, done: int = 0):
        self.title, self.total, self.count, self._at_start = title, total, done, done

    def __enter__(self) -> "Progress":
        self._start = self._last_line = time.monotonic()
        self._bar = _bar(self.title, self.total, self.count) if sys.stderr.isatty() else None
        return self

    def advance(self, images: int) -> None:
        self.count += images
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self.count, rate=f"{self.rate:,.0f} images/s")
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            line = f"{self.title}: {self.count:,} of {self.total:,} images, {self.rate:,.0f} images/s"
            if self.rate:
                line += f", {(self.total - self.count) / self.rate:,.0f} s left"
            print(line, file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Images per second since the start, images that were done before not counted."""
        return (self.count - self._at_start) / max(self.seconds, 1e-9)

    def __exit__(self, kind: type | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()


def _bar(title: str, total: int, done: int):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bar = RichProgress(*columns, console=Console(stderr=True))
    bar.add_task(title, total=total, completed=done, rate="")
    bar.start()
    return bar
