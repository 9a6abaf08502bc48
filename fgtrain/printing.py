"""Text and tables on standard output. Names are printed as they are: rich's markup and emoji codes have no effect."""

import errno
import os
from typing import Any

from rich.console import Console
from rich.table import Table


class PlainConsole(Console):
    """A console without markup that leaves a closed pipe to `run_command`."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        """Raises BrokenPipeError, where rich would end the process with its own exit code."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def say(*parts: Table | str) -> None:
    """Prints tables, and lines that are not wrapped."""
    console = PlainConsole()
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def new_table(title: str, first: str, *columns: str) -> Table:
    """An empty table whose first column folds long names; the others are right-aligned figures."""
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table
