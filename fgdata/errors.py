"""The one exception that a user is meant to read, and how a command line tells it."""

import errno
import io
import os
import sys
from collections.abc import Callable

_MENDABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
}


class InputError(Exception):
    """Input or settings that cannot be used as given.

    Its message names the thing, what was found, what is allowed and what to type next.
    """


def counted(count: int, noun: str) -> str:
    """1, "image" -> "1 image"; 2889, "image" -> "2,889 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Text from a file's name, as text that every file and terminal takes: what is not UTF-8 in it as \\udcNN."""
    return text.encode("utf-8", "backslashreplace").decode()


def run_command(program: str, command: Callable[[], int | None], when_stopped: str = "") -> int:
    """Runs a command line's work -> its exit code: the command's own, 2 for input that cannot be used, 130 for Ctrl-C.

    Whatever a user can mend (their input, a full disk, a folder without permission) is one message, never a traceback.
    `when_stopped` says what is left behind and how to go on; nothing where a command writes nothing.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows ASCII only gets \\u2026, not an exception
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command() or 0
    except InputError as fault:
        print(f"{program}: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: stopped. {when_stopped}".rstrip(), file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone, as `head` does; Python would complain again at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as fault:
        if fault.errno not in _MENDABLE:
            raise
        where = f": {fault.filename}" if fault.filename else ""
        why = " (the limit is the shell's, `ulimit -f`, or the file system's)" if fault.errno == errno.EFBIG else ""
        print(f"{program}: {fault.strerror}{where}{why}. {when_stopped}".rstrip(), file=sys.stderr)
        return 2
