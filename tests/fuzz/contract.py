"""Runs one call in a child process and checks the contract: a result or an InputError, in bounded time and memory,
without a write outside the folder `here`.

A case is a folder with `here/` (the input, and the working directory), `outside/` (must not change) and `tmp/`.
"""

import json
import os
import resource
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fgdata.errors import InputError

SECONDS = 60
"""A limit for hangs, not for slow machines: every valid input takes a small part of it."""
MEMORY = 1 << 30
"""Growth of resident memory that counts as a blow-up, in bytes. Valid inputs need about 200 MB."""
ADDRESS_SPACE = 6 << 30
"""Growth of address space at which the kernel refuses more, to protect the machine."""
FILE_SIZE = 1 << 28
ALLOWED_CODES = (0, 1, 2, None)
_TRACEBACK = b"Traceback (most recent call last)"


class Outcome(NamedTuple):
    """How a call ended."""

    verdict: str
    """ok, refused, or the breach of contract: exception, exit code, signal, hang, memory, outside."""
    text: str
    """The last lines of a traceback, or the message of a refusal."""

    @property
    def is_breach(self) -> bool:
        return self.verdict not in ("ok", "refused")


def make_case(case: Path, valid: Path) -> Path:
    """Create the folders of a case from a family's valid files; return `here`."""
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(valid, case / "here", symlinks=True)
    (case / "tmp").mkdir()
    (case / "outside").mkdir()
    (case / "outside" / "canary.txt").write_text("unchanged")
    (case / "canary.txt").write_text("unchanged")
    return case / "here"


def check_call(case: Path, call: Callable[[], object], seconds: float = SECONDS, memory: int = MEMORY) -> Outcome:
    """Run `call` in a child process, in `case`/here, and return how it ended."""
    before = _snapshot(case)
    read_end, write_end = os.pipe()
    base = _resident()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _run_child(case, call, write_end)
    os.close(write_end)
    verdict, text = _await(read_end, seconds)
    os.close(read_end)
    if verdict == "hang":
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    output = b"".join((case / name).read_bytes() for name in ("tmp/stdout", "tmp/stderr") if (case / name).is_file())
    if verdict == "":
        ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
        verdict, text = "signal", f"{ended}: {output[-300:]!r}"
    if verdict == "refused" and not text and not output:
        verdict, text = "exception", "refused without a message"
    grown = usage.ru_maxrss * 1024 - base
    if verdict in ("ok", "refused") and grown > memory:
        verdict, text = "memory", f"{grown / 1e6:,.0f} MB"
    if verdict in ("ok", "refused") and _TRACEBACK in output:
        verdict, text = "exception", output[output.index(_TRACEBACK) :][-600:].decode(errors="replace")
    if verdict in ("ok", "refused") and (changed := sorted(before ^ _snapshot(case))):
        verdict, text = "outside", str(changed[0])
    return Outcome(verdict, text)


def _run_child(case: Path, call: Callable[[], object], write_end: int) -> None:
    verdict, text = "exception", ""
    try:
        os.setsid()
        _limit()
        os.environ |= {"TMPDIR": str(case / "tmp"), "HOME": str(case / "tmp")}
        for number, name in enumerate(("/dev/null", case / "tmp/stdout", case / "tmp/stderr")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
        os.chdir(case / "here")
        verdict, text = _call(call)
        sys.stdout.flush()
    except BaseException:
        text = traceback.format_exc()
    finally:
        os.write(write_end, json.dumps([verdict, text[-6000:]]).encode())
        os._exit(0)


def _call(call: Callable[[], object]) -> tuple[str, str]:
    try:
        code = call()
    except InputError as error:
        return ("refused", str(error)) if str(error) else ("exception", "an InputError without a message")
    except SystemExit as error:  # of argparse and tyro
        code = error.code
    except MemoryError:
        return "memory", traceback.format_exc()[-1500:]
    except BaseException:  # panics of Rust extensions are no Exception
        return "exception", traceback.format_exc()
    if isinstance(code, int) and code not in ALLOWED_CODES:
        return "exit code", str(code)
    return ("refused" if code == 2 else "ok"), ""


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + ADDRESS_SPACE
    # Soft limits: code under test may set its own, higher ones for a process that it starts.
    for kind, limit in ((resource.RLIMIT_AS, space), (resource.RLIMIT_FSIZE, FILE_SIZE), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))


def _await(read_end: int, seconds: float) -> tuple[str, str]:
    """What the child reports: ("hang", "") without an end, ("", "") when it died."""
    ready = select.select([read_end], [], [], seconds)[0]
    if not ready:
        return "hang", f"no end after {seconds:g} s"
    content = b""
    while block := os.read(read_end, 1 << 16):
        content += block
    if not content:
        return "", ""
    verdict, text = json.loads(content)
    return verdict, text


def _snapshot(case: Path) -> set[tuple[str, str]]:
    """Names and contents of everything in a case but here/ and tmp/."""
    found = set()
    for entry in os.scandir(case):
        if entry.name not in ("here", "tmp"):
            inside = sorted(os.listdir(entry.path)) if entry.is_dir(follow_symlinks=False) else []
            found.add((entry.name, " ".join(inside)))
    for canary in (case / "canary.txt", case / "outside" / "canary.txt"):
        found.add((str(canary), canary.read_text() if canary.is_file() else "gone"))
    return found


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
