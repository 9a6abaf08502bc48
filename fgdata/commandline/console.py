"""The console of both packages: it prints text as it is, and handles an output that cannot be written."""

import errno
import os
from contextlib import suppress
from typing import Any

from rich.console import Console


class PlainConsole(Console):
    """A console on which rich's markup, emoji codes and highlighting have no effect.

    forgiving: an output that cannot be written any more (`| head`, a full disk, a closed terminal) silences the console
    and the work continues. Otherwise the error is raised, for `run_command` to report.
    """

    def __init__(self, *, forgiving: bool = False, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)
        self.forgiving = forgiving

    def on_broken_pipe(self) -> None:
        """Raises BrokenPipeError, where rich would end the process with its own exit code."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def __exit__(self, *fault: Any) -> None:
        """Rich writes here what was printed in the block, and what `print` was given."""
        try:
            super().__exit__(*fault)
        except OSError:
            if not self.forgiving:
                raise
            self._silence()

    def _silence(self) -> None:
        """Discards this and all later output, including what Python flushes when the process ends."""
        self.quiet = True
        with suppress(OSError, ValueError, AttributeError):  # a stream without a descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
