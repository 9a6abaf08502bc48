"""The library that writes Parquet files."""

from typing import Any

from ..errors import InputError


def import_pyarrow(command: str) -> tuple[Any, Any]:
    """-> the modules pyarrow and pyarrow.parquet. InputError if they are missing. command: the one that needs them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise InputError(f"{command} needs pyarrow, which is not installed: pip install pyarrow") from error
    return pyarrow, pyarrow.parquet
