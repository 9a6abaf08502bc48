"""Starts fgdata and fgtrain as processes, or as forks of this one, and kills them."""

import hashlib
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TIMEOUT = 600.0
"""Seconds after which a command counts as one that hangs."""


class Runner:
    """Starts commands. forks: in a fork of this process, which imports their modules once, without worker processes."""

    def __init__(self, forks: bool):
        self.forks = forks

    def start(self, folder: Path, *words: object, output: str = "output") -> int:
        """Starts `fgdata ...` or `fgtrain ...` in a folder -> its process id, which is that of its process group.

        output: the file in the folder for what it prints.
        """
        program, *arguments = map(str, words)
        sys.stdout.flush()
        if self.forks:
            preload(program)
        child = os.fork()
        if child:
            return child
        try:
            os.setsid()
            os.chdir(folder)
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for number, handle in enumerate((os.open(os.devnull, os.O_RDONLY), file, file)):
                os.dup2(handle, number)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
            if not self.forks:
                environment = os.environ | {"PYTHONPATH": str(ROOT)}
                os.execve(sys.executable, [sys.executable, "-m", program, *arguments], environment)
            from fgdata.cli import main
            from tests.fuzz.commands import run_in_process

            if program == "fgtrain":
                from fgtrain.cli import main
            run_in_process()
            code = main(arguments)
            sys.stdout.flush()
            os._exit(code or 0)
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(70)

    def run(self, folder: Path, *words: object) -> tuple[int, str]:
        """Runs a command to its end -> its exit code, and what it printed."""
        code = wait(self.start(folder, *words))
        return code, (folder / "output").read_text(errors="replace")


def preload(program: str) -> None:
    """Imports what the commands use, before the first fork."""
    from tests.fuzz import commands, runs, shards

    if "torture" not in _preloaded:
        commands.preload(*shards.PRELOAD[:3])
        commands.compile_search()
    if program == "fgtrain" and program not in _preloaded:
        commands.preload(*runs.PRELOAD)
    _preloaded.update(("torture", program))


_preloaded: set[str] = set()


def wait(process: int, seconds: float = TIMEOUT) -> int:
    """-> the exit code of a process started by `Runner.start`, negative for a signal. Kills it after `seconds`."""
    until, pause = time.monotonic() + seconds, 0.002
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return 124
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def disturb(process: int, rng: Random, seconds: float, ways: tuple[str, ...]) -> str:
    """Sends a signal at a random moment of the first `seconds` -> the way chosen and whether it came in time.

    ways: "KILL all" (the process group), "KILL parent", "KILL worker" (one child, then the command ends itself), or the
    name of a signal, which the command itself gets.
    """
    way = rng.choice(ways)
    time.sleep(rng.uniform(0, seconds))
    if way == "KILL worker":
        children = list_children(process)
        targets = [rng.choice(children)] if children else [process]
    else:
        targets = [process]
    number = signal.Signals[f"SIG{way.split()[0]}"]
    for target in targets:
        with suppress(ProcessLookupError):
            os.killpg(target, number) if way == "KILL all" else os.kill(target, number)
    code = wait(process)
    return f"{way}{' too late' if code == 0 and way.startswith('KILL') else ''}"


def list_children(process: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def hashes(folder: Path, pattern: str = "*") -> dict[str, str]:
    """sha256 of every file whose name matches the pattern, by name. build.jsonl is not part of a set, and a report may
    lie beside it."""
    files = (path for path in folder.rglob(pattern) if path.is_file())
    paths = (path for path in files if path.name not in ("build.jsonl", "report.html"))
    return {str(path.relative_to(folder)): hashlib.sha256(content(path)).hexdigest() for path in sorted(paths)}


def content(path: Path) -> bytes:
    """A file's bytes; of a Parquet file its columns, since its metadata holds the folder of the run."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    import pyarrow.parquet

    return repr(pyarrow.parquet.read_table(path).to_pydict()).encode()


def differ(found: dict[str, str], expected: dict[str, str]) -> str:
    """The names whose content differs; "" if none does."""
    return ", ".join(sorted(name for name in found | expected if found.get(name) != expected.get(name))[:5])


def last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no output"])[-1][:200]


def check_message(code: int, output: str) -> str:
    """What is wrong with the end of a command that must succeed, or be refused with a message; "" if nothing is."""
    if "Traceback (most recent call last)" in output:
        return f"a traceback: {last_line(output)}"
    if code == 124:
        return "it hangs"
    if code not in (0, 1, 2) or (code and not output.strip()):
        return f"exit code {code}: {last_line(output)}"
    return ""
