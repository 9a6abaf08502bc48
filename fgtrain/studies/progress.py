"""Shows how far a study is: what is running, how much is left, and how long it takes."""

import time
from collections.abc import Callable, Sequence

from rich.live import Live

from fgdata.commandline.console import PlainConsole
from fgdata.errors import counted

from ..settings.studying import Study as Flags
from .estimate import estimate, show_hours
from .plan import Job, Measure
from .traces import last_step

BETWEEN_LINES, BETWEEN_UPDATES, BETWEEN_ESTIMATES = 60.0, 0.5, 10.0


class Progress:
    """One line: on a terminal it is redrawn, elsewhere printed once a minute and whenever a job starts."""

    def __init__(
        self,
        jobs: Sequence[Job],
        lacking: Callable[[Job], list[Measure]],
        flags: Flags,
        live: Live | None,
        console: PlainConsole,
    ):
        self.jobs, self.lacking, self.flags, self.live, self.console = jobs, lacking, flags, live, console
        self._left, self._estimated, self._shown = "", -BETWEEN_ESTIMATES, time.monotonic()

    def started(self, job: Job) -> None:
        """Reports a job that starts."""
        self.console.print(f"{job.name}: {'resumes' if last_step(job.folder) else 'starts'}")

    def report(self, running: list[Job], left: int) -> None:
        """Reports the jobs that are running, and the number that has not ended."""
        now = time.monotonic()
        if now - self._shown < (BETWEEN_LINES if self.live is None else BETWEEN_UPDATES):
            return
        self._shown = now
        if now - self._estimated >= BETWEEN_ESTIMATES:
            self._estimated = now
            pending = [(job, measures) for job in self.jobs if (measures := self.lacking(job)) or not job.trained]
            hours = estimate(pending, self.jobs, self.flags.device).hours / self.flags.workers
            self._left = f", about {show_hours(hours)} left"
        names = ", ".join(f"{job.name} ({_doing(job)})" for job in running) or "waiting"
        line = f"{len(self.jobs) - left} of {counted(len(self.jobs), 'job')} done{self._left}: {names}"
        if self.live is not None:
            self.live.update(line)
        else:
            self.console.print(line)


def _doing(job: Job) -> str:
    return "evaluating" if job.trained else f"step {last_step(job.folder):,}"
