"""A process that runs the commands of one job, and stops with a checkpoint when the study's process ends.

It reads one line from standard input, a JSON list of the job's folder and its commands, and then waits there: the end
of the input means that the other process is gone, however it ended. While it measures, it owns MEASURING in the folder,
as a run owns its own folder while it trains: another process of the study waits for the results.
"""

import json
import os
import shlex
import signal
import sys
import threading
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

from fgdata.errors import run_command
from fgdata.files.owners import owning

MEASURING = ".measuring"


def main() -> int:
    """Runs the commands of standard input -> an exit code, as of `run_command`."""
    return run_command("fgtrain", run_all)


def run_all() -> int:
    """Runs the commands one after the other -> the exit code of the first that fails, or of one that was stopped."""
    run = import_module("fgtrain.cli").main  # by name, as the program's own entry point does: this room is below it
    folder, words = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    for command in words:
        print(f"$ fgtrain {shlex.join(command)}", flush=True)
        sys.argv = ["fgtrain", *command]
        with nullcontext() if command[0] == "run" else owning(Path(folder) / MEASURING, f"is measuring {folder}"):
            code = run(command)
        if code or not _is_complete(command):
            return code or 128 + signal.SIGTERM
    return 0


def _is_complete(command: list[str]) -> bool:
    """Whether a training run has reached its end: a stopped one exits with 0 too, and must not be measured."""
    if command[0] != "run":
        return True
    run = Path(command[command.index("--out") + 1]) / "run.json"
    return run.is_file() and json.loads(run.read_text("utf-8")).get("status") == "done"


def _stop_with_parent() -> None:
    """Stops this process as SIGTERM does, once standard input ends."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
