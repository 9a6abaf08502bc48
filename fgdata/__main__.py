"""The entry point of `fgdata` and of `python -m fgdata`. It imports little, so that Ctrl-C soon finds its handler."""

import sys

from .errors import run_program


def main() -> int:
    """Runs the command line of this process -> exit code."""
    return run_program("fgdata", "fgdata.cli")


if __name__ == "__main__":
    sys.exit(main())
