"""The entry point of `fgtrain` and of `python -m fgtrain`. It imports little, so that Ctrl-C soon finds its handler."""

import sys

from fgdata.errors import run_program


def main() -> int:
    """Runs the command line of this process -> exit code."""
    return run_program("fgtrain", "fgtrain.cli")


if __name__ == "__main__":
    sys.exit(main())
