"""A progress bar on a terminal; otherwise a plain line every 15 seconds."""

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Literal

from .errors import warn

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts images or bytes towards a total: `with Progress("Building", total) as progress: progress.advance(n)`.

    title: what is being done. total: the number of images or bytes, None if unknown. done: how many were finished
    before; they do not count towards the rate. unit: what is counted.
    """

    def __init__(self, title: str, total: int | None, done: int = 0, unit: Literal["images", "bytes"] = "images"):
        self.title, self.total, self.count, self.unit = title, total, done, unit
        self._at_start = done

    def __enter__(self) -> "Progress":
        self._start = self._last_line = time.monotonic()
        self._bar = self._show_bar() if sys.stderr and sys.stderr.isatty() else None
        return self

    def advance(self, count: int) -> None:
        """Adds `count` images or bytes and updates the display."""
        self.count += count
        if self._bar:
            rate = self.rate_text if self.unit == "images" else ""
            self._bar.update(self._bar.task_ids[0], completed=self.count, rate=rate)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            warn(self._line())

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Images or bytes per second since the start."""
        return (self.count - self._at_start) / max(self.seconds, 1e-9)

    @property
    def rate_text(self) -> str:
        """The rate: images per second, or seconds per image if an image takes more than one."""
        if 0 < self.rate < 1:
            return f"{1 / self.rate:,.1f} s/image"
        return f"{self.rate:,.0f} images/s"

    def __exit__(self, kind: type | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            with suppress(OSError):  # the terminal may be gone
                self._bar.stop()

    def _line(self) -> str:
        if self.unit == "bytes":
            of = f" of {self.total / 1e6:,.0f}" if self.total else ""
            return f"{self.title}: {self.count / 1e6:,.0f}{of} MB, {self.rate / 1e6:,.1f} MB/s"
        line = f"{self.title}: {self.count:,} of {self.total or 0:,} images, {self.rate_text}"
        if self.rate and self.total:
            line += f", {(self.total - self.count) / self.rate:,.0f} s left"
        return line

    def _show_bar(self):
        from rich import progress as rich

        from .commandline.console import PlainConsole

        units = {
            "images": (rich.MofNCompleteColumn(), rich.TextColumn("{task.fields[rate]}")),
            "bytes": (rich.DownloadColumn(), rich.TransferSpeedColumn()),
        }
        columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), *units[self.unit])
        bar = rich.Progress(*columns, rich.TimeRemainingColumn(), console=PlainConsole(stderr=True, forgiving=True))
        bar.add_task(self.title, total=self.total, completed=self.count, rate="")
        bar.start()
        return bar
