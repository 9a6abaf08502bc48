"""Text and tables on standard output. Names are printed as they are: rich's markup and emoji codes have no effect."""

from rich.table import Table

from fgdata.commandline.console import PlainConsole


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
