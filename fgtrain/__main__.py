"""The entry point of `fgtrain` and of `python -m fgtrain`. It imports little, so that Ctrl-C soon finds its handler."""

import sys

from fgdata.errors import run_program

from .engine.signals import hold_back, is_training


def main() -> int:
    """Runs the command line of this process -> exit code."""
    if is_training(sys.argv[1:]):
        hold_back()
    return run_program("fgtrain", "fgtrain.cli")


if __name__ == "__main__":
    sys.exit(main())
